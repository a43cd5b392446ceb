"""Self-training: what a model is sure to read in images that nobody has labelled becomes training data.

Lee 2013, Pseudo-Label; for handwriting Wolf and Fink 2022, arXiv 2206.03149, from where the choice by confidence is.
No TensorFlow here.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from components.common import storage
from components.common.ahead import ahead
from components.common.folders import made_whole
from components.common.words import counted
from components.example_gen.folders import find_tables
from components.example_gen.header import LABELLING_MODEL
from components.example_gen.images import read_image, resolve_image
from components.example_gen.rejects import Rejected
from components.example_gen.settings import DataConfig
from components.example_gen.table import Table, plain, read_rows
from components.tools.dataset_folder import whole_dataset
from htr_client import Transcription
from htr_client.errors import ImageError
from htr_client.image_files import MAX_BYTES, goes_as_it_is, pack
from htr_client.model_facts import MAX_PIXELS
from htr_client.pages.model import Page
from htr_client.pages.reading import is_page
from htr_client.suspicion import NO_TEXT, PAGE_LIKE

# No .csv: a training would look for labels in it, too. Spreadsheets open text with tabs.
LEFT_OUT_FILE = "left-out.txt"
# Whether there is writing, what the model recognises and how sure it is tell better. It may be sure of a page, too, but
# the shape does not tell that from a large image of a word: a line finder does.
_NO_REASONS = {NO_TEXT, PAGE_LIKE}
FIELDS = ("filename", "text", "split", "confidence", LABELLING_MODEL, "source")


class LabellingError(ValueError):
    """There is nothing to label, or nowhere to put it; the message says what to do."""


class LeftOut(NamedTuple):
    """An image that was not written.

    Attributes:
        image: Its path.
        reason: Attribute of `Counts` that counts it.
        text: What the model recognises in it; empty where it was not asked, or recognises nothing.
        confidence: Its confidence; empty likewise.
        detail: What else is known: the error, or codes of suspicions.
    """

    image: str
    reason: str
    text: str
    confidence: str
    detail: str


@dataclass
class Counts:
    """What became of the images.

    Attributes:
        labelled: Images that were written with their texts.
        unsure: Images of whose text the model is not sure.
        empty: Images in which the model sees no writing.
        page: Images of pages, whose lines were transcribed as one.
        suspect: Images of another kind than the model was trained on.
        known: Images that are labelled already.
        repeated: Images that are the same image as one before.
        unread: A line for each that cannot be read, with its reason.
        left_out: A row of `LEFT_OUT_FILE` for each that was not written.
    """

    labelled: int = 0
    unsure: int = 0
    empty: int = 0
    page: int = 0
    suspect: int = 0
    known: int = 0
    repeated: int = 0
    unread: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def leave_out(self, reason: str, image: str, text: str = "", confidence: str = "", detail: str = "") -> None:
        """Counts an image that is not written.

        Args:
            reason: Name of the attribute that counts it.
            image: Its path, which may have bytes that are no UTF-8.
            text: As in `LeftOut`.
            confidence: As in `LeftOut`.
            detail: As in `LeftOut`.
        """
        image = plain(image)
        if reason == "unread":
            self.unread.append(f"{image}: {detail}")
        else:
            setattr(self, reason, getattr(self, reason) + 1)
        self.left_out.append(LeftOut(image, reason, text, confidence, detail))


def digests(data: DataConfig, notes: list[str]) -> Iterator[bytes]:
    """Of the image files that datasets label, whatever their rows say about them; some are read ahead.

    Args:
        data: Paths and column names.
        notes: List that takes a sentence for each table that is passed over.

    Raises:
        DatasetError: A folder or table cannot be read.
        StoreError: A bucket fails.
    """
    tables, passed_over = find_tables(data) if data.paths else ([], [])
    notes += passed_over
    yield from filter(None, ahead(_digest_of_file, _images(tables), storage.READERS))


def _images(tables: Iterable[Table]) -> Iterator[str]:
    for table in tables:
        for row in read_rows(table):
            if len(row.fields) > table.image:
                with contextlib.suppress(Rejected):  # names no file that could be met again
                    yield resolve_image(row.fields[table.image].strip(), table)


def _digest_of_file(path: str) -> bytes | None:
    try:
        return _digest(read_image(path))
    except Rejected:
        return None


def unlabelled(paths: Iterable[str], known: set[bytes], counts: Counts, max_pixels: int = MAX_PIXELS) -> Iterator[str]:
    """Paths of images that are neither labelled nor the same as one before.

    An image is also known by the file that `write` and `htr review` make of it, since they write what a server is sent.

    Args:
        paths: Paths of images.
        known: `digests` of the labelled ones.
        counts: Counts that take how many are left out.
        max_pixels: Images with more pixels are known as files only.
    """
    seen: set[bytes] = set()
    for path in paths:
        try:
            data = storage.read(path, MAX_BYTES + 1)  # one more, so that a larger one is refused
        except OSError:  # whoever reads it says so
            yield path
            continue
        found = {_digest(data)}
        if found.isdisjoint(known) and found.isdisjoint(seen) and (packed := _packed(data, max_pixels)) is not None:
            found.add(_digest(packed))  # only now, since it takes as long as decoding and encoding the image
        if found & known:
            counts.leave_out("known", path)
        elif found & seen:
            counts.leave_out("repeated", path)
        else:
            yield path
        seen |= found


def write(
    answers: Iterable[Transcription],
    folder: str,
    above: float,
    counts: Counts,
    max_pixels: int = MAX_PIXELS,
    find_page: Callable[[str], Page] | None = None,
) -> None:
    """Writes the images that the model is sure of as a dataset: `labels.csv` and `images/`, all for training.

    `LEFT_OUT_FILE` beside them names the other images.

    Args:
        answers: What a model recognises in images, with their paths as sources.
        folder: New or empty folder; it is whole or not there.
        above: Confidence from which on a text is believed.
        counts: Counts that take what became of the images.
        max_pixels: Limit with which the model has read them.
        find_page: Function that finds the lines of a page, by its path; without it no image is told to be one.

    Raises:
        LabellingError: The folder holds something, or no text can be believed.
        LockHeld: Another command writes the folder.
        HtrError: The model fails.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise LabellingError(f"{folder} holds something already: name a new folder with --output.")
    with made_whole(target) as unfinished, whole_dataset(unfinished, FIELDS, crlf=True) as add:
        for answer, image in _believed(answers, above, counts, max_pixels, find_page):
            counts.labelled += 1
            confidence, source = f"{answer.confidence:.4f}", plain(answer.source or "")
            # An error rate that is measured on a model's own texts would say nothing.
            add(f"{counts.labelled:06d}", image, answer.text, "train", confidence, answer.version, source)
        if not counts.labelled:
            raise LabellingError(_nothing(counts, above))
        if counts.left_out:
            path = unfinished / LEFT_OUT_FILE
            with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
                csv.writer(file, "excel-tab").writerows([LeftOut._fields, *counts.left_out])


def _believed(
    answers: Iterable[Transcription],
    above: float,
    counts: Counts,
    max_pixels: int,
    find_page: Callable[[str], Page] | None,
) -> Iterator[tuple[Transcription, bytes]]:
    for answer in answers:
        path, read = answer.source or "", (answer.text, f"{answer.confidence:.4f}")
        if answer.error is not None:
            counts.leave_out("unread", path, detail=str(answer.error))
            continue
        if any(suspicion.code not in _NO_REASONS for suspicion in answer.suspicions):
            counts.leave_out("suspect", path, *read, " ".join(suspicion.code for suspicion in answer.suspicions))
            continue
        try:
            # Before the confidence: of a page, read as one line, a model is seldom sure.
            if find_page is not None and _is_page_like(answer) and is_page(find_page(path)):
                counts.leave_out("page", path, *read, PAGE_LIKE)
            elif not answer.text.strip():
                counts.leave_out("empty", path, *read)
            elif answer.confidence < above:
                counts.leave_out("unsure", path, *read)
            else:
                yield answer, pack(path, max_pixels).data
        except ImageError as error:  # gone since it was read
            counts.leave_out("unread", path, detail=str(error))


def _is_page_like(answer: Transcription) -> bool:
    return any(suspicion.code == PAGE_LIKE for suspicion in answer.suspicions)


def _nothing(counts: Counts, above: float) -> str:
    if counts.unsure > counts.page:
        return (
            f"Nothing to label: of no image the model is as sure as {above:g}. Label some by hand (htr review collects "
            "those that it is least sure of), or believe less sure texts: --above."
        )
    if counts.page:
        return (
            f"Nothing to label: {counted(counts.page, 'image')} of pages, and images have to be of one line or word "
            "each. htr transcribe --kind page finds the lines of pages; htr import cuts corrected ones out."
        )
    if counts.empty or counts.suspect:
        return (
            f"Nothing to label: in {counted(counts.empty, 'image')} the model sees no writing, and "
            f"{counts.suspect} of another kind than it was trained on. Label some by hand."
        )
    if counts.unread:
        return f"Nothing to label: {len(counts.unread)} could not be read; the first: {counts.unread[0]}"
    return "Nothing to label: all of these images are labelled already."


def _packed(data: bytes, max_pixels: int) -> bytes | None:
    """What a server is sent for an image file; None where that is the file itself, or it cannot be read."""
    try:
        return None if goes_as_it_is(data) else pack(data, max_pixels).data
    except ImageError:  # whoever reads it says so
        return None


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
