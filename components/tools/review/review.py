"""Collects what the model is least sure of, for a person to correct: the corrected folder is a new span of data.

No TensorFlow here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import jinja2

from components.common.words import counted
from components.example_gen.folders import find_tables
from components.example_gen.header import GUESS, LABELLING_MODEL
from components.example_gen.images import read_image, resolve_image
from components.example_gen.rejects import Rejected
from components.example_gen.settings import DataConfig
from components.example_gen.table import plain, read_rows
from components.tools.dataset_folder import whole_dataset
from components.tools.drift.profiles import CONFIDENCE, columns
from components.tools.labelled import Counts, known_as
from components.tools.log_times import read_time, time_column
from htr_client import Transcription
from htr_client.errors import ImageError
from htr_client.image_files import pack
from htr_client.model_facts import MAX_PIXELS
from htr_client.pages.xml_files import read_confidence
from htr_client.results import rounded

PAGE_FILE = "review.html"
FIELDS = ("filename", "text", "split", GUESS, CONFIDENCE, "model_version", LABELLING_MODEL, "source")


class ReviewError(ValueError):
    """There is nothing to review, or nowhere to put it; the message says what to do."""


@dataclass(frozen=True)
class Doubt:
    """An image that a person should look at.

    Attributes:
        image: Encoded PNG or JPEG.
        guess: The model's transcription.
        confidence: Confidence of the model.
        model_version: Version that transcribed it.
        source: Where the image was found; can be stored as UTF-8.
    """

    image: bytes
    guess: str
    confidence: float
    model_version: str
    source: str


def from_logs(
    folders: list[str],
    below: float,
    unread: list[str],
    notes: list[str],
    since: datetime | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Doubt]:
    """Doubts in logs of requests: guesses that are not believed, and empty ones, whatever their confidence.

    Args:
        folders: Folders that `htr_client.RequestLog` wrote, or others with the columns filename, text and confidence.
        below: Confidence from which on a guess is believed.
        unread: List that takes a line for each row that cannot be used, with its reason.
        notes: List that takes a sentence for each table that is passed over.
        since: Moment from which on rows are used, by their column `time`; all if None.
        max_pixels: Images with more pixels are left out.

    Raises:
        DatasetError: There is no table, or it cannot be read, or lacks the times.
        ReviewError: A table has no confidence.
        StoreError: The disk or bucket fails.
    """
    tables, passed_over = find_tables(DataConfig(paths=folders))
    notes += passed_over
    for table in tables:
        names = columns(table)
        if CONFIDENCE not in names:
            raise ReviewError(
                f"{table.path} has no column confidence: it is no log of requests. To have a server transcribe images, "
                f"name them without --logs."
            )
        version = names.get("model_version", names.get(LABELLING_MODEL))
        times = None if since is None else time_column(table)
        for row in read_rows(table):
            place = f"{table.name}, row {row.line}"
            if len(row.fields) != table.columns:  # as one that was being written when the service stopped
                unread.append(f"{place}: {len(row.fields)} fields where the header has {table.columns}")
                continue
            if since is not None and times is not None:
                moment = read_time(row.fields[times])
                if moment is None:
                    unread.append(plain(f"{place}: time is {row.fields[times]!r}, not a date and a time"))
                if moment is None or moment < since:
                    continue
            field = row.fields[names[CONFIDENCE]]
            confidence = read_confidence(field)
            if confidence is None:
                unread.append(plain(f"{place}: confidence is {field!r}, not a number from 0 to 1"))
                continue
            if confidence >= below and row.fields[table.text].strip():
                continue
            try:
                # As a server is sent it: TIFF becomes PNG here, and what is no image is told.
                path = resolve_image(row.fields[table.image].strip(), table)
                image = pack(read_image(path), max_pixels).data
            except (Rejected, ImageError) as error:  # such as an image since deleted
                unread.append(plain(f"{place}: {error}"))
                continue
            answered = row.fields[version] if version is not None else ""
            yield Doubt(image, row.fields[table.text], confidence, answered, place)


def from_answers(
    answers: Iterable[Transcription], below: float, unread: list[str], max_pixels: int = MAX_PIXELS
) -> Iterator[Doubt]:
    """Doubts among what a server answers: guesses not believed; empty and suspect ones, whatever their confidence.

    Args:
        answers: Answers with the images' paths as their sources.
        below: Confidence from which on a guess is believed.
        unread: List that takes a line for each image that failed, with its reason.
        max_pixels: As the client that asked had it.

    Raises:
        HtrError: The server fails.
    """
    for answer in answers:
        assert answer.source is not None
        source = plain(answer.source)
        if answer.error is not None:
            unread.append(f"{source}: {answer.error}")
        elif answer.confidence < below or answer.suspicions or not answer.text.strip():
            try:
                image = pack(answer.source, max_pixels).data
            except ImageError as error:  # gone since it was read
                unread.append(f"{source}: {error}")
                continue
            yield Doubt(image, answer.text, answer.confidence, str(answer.version), source)


def write(
    doubts: Iterable[Doubt],
    folder: str,
    limit: int,
    unread: Sequence[str] = (),
    which: str = "",
    counts: Counts | None = None,
    known: AbstractSet[bytes] = frozenset(),
) -> tuple[int, int]:
    """Writes the least sure ones as a dataset with a page to correct them in.

    Args:
        doubts: Doubts in any order; the same image counts once.
        folder: New or empty folder.
        limit: How many at most.
        unread: What `doubts` could not use, known once they have come to their end.
        which: Words for those that were looked at, if not for all.
        counts: Counts that take how many are left out as labelled already.
        known: `labelled.digests` of the labelled images.

    Returns:
        How many were written, and of how many different images.

    Raises:
        ReviewError: The folder holds something, or there is no doubt at all.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ReviewError(f"{folder} holds something already, perhaps corrections: name a new folder with --output.")
    counts = counts or Counts()
    chosen: dict[bytes, Doubt] = {}
    seen: set[bytes] = set()
    found = 0
    for doubt in doubts:
        digest = known_as(doubt.image)
        if digest in seen:
            continue
        seen.add(digest)
        if digest in known:
            counts.leave_out("known", doubt.source)
            continue
        found += 1
        chosen[digest] = doubt
        if len(chosen) > 2 * limit:  # so that any number of images takes the memory of a few
            chosen = dict(_least_sure(chosen)[:limit])
    rows = _least_sure(chosen)[:limit]
    if not rows:
        but = f"{len(unread)} could not be read (the first: {unread[0]}), and " if unread else ""
        if counts.known:
            but = f"{counted(counts.known, 'image')} labelled already, and {but}"
        others = f"{'all others' if but else 'every image'}{f' {which}' if which else ''}"
        raise ReviewError(f"Nothing to review: {but}the model is surer than --below of {others}.")
    lines = []
    with whole_dataset(target, FIELDS, crlf=True) as add:
        for number, (digest, doubt) in enumerate(rows, 1):
            confidence, version = str(rounded(doubt.confidence)), doubt.model_version
            # Images that were chosen because they are hard would shift every figure that is measured on them. The text
            # is the model's until a person has looked at it: the page then empties that column.
            values = (doubt.guess, "train", doubt.guess, confidence, version, version or "unknown", doubt.source)
            # With the digest, a row of another review names no image of this one.
            row = add(f"{number:05d}-{digest.hex()[:8]}", doubt.image, *values)
            lines.append(dict(zip(FIELDS, row, strict=True)))
        loader = jinja2.FileSystemLoader(os.path.dirname(__file__))
        template = jinja2.Environment(loader=loader, autoescape=True).get_template("review.html.j2")
        page = template.render(
            rows=lines,
            fields=list(FIELDS),
            by_model=LABELLING_MODEL,
            digest=hashlib.sha256(json.dumps(lines).encode()).hexdigest()[:16],
        )
        (target / PAGE_FILE).write_text(page, encoding="utf-8")
    return len(rows), found


def _least_sure(doubts: dict[bytes, Doubt]) -> list[tuple[bytes, Doubt]]:
    """The doubts by confidence; those of the same stay as they came: row 10 of a log after row 9."""
    return sorted(doubts.items(), key=lambda item: item[1].confidence)
