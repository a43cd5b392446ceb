"""What a shard of a batch becomes: a part of a table, or a document of each page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from components.batch_transcriber.listing import Image
from components.batch_transcriber.output import format_rows
from components.batch_transcriber.shards import Job, Record
from components.batch_transcriber.transcribing import ImageText, Result
from components.common import storage
from components.common.ahead import ahead
from htr_client import pages
from htr_client.errors import ImageError
from htr_client.kinds import failure, suspicions
from htr_client.results import rounded
from htr_client.suspicion import NO_LINES

CHANGED_DOCUMENT = "changed_document"
"""Reason of a row of the file of errors: a document is not as the batch has written it, and stays."""


class Written(NamedTuple):
    """What a shard has come to, beside its results.

    Attributes:
        documents: Names of the documents, by path of the image; none of a table.
        remarks: Rows about documents that stay although they have no image that can be read.
        deleted: Number of documents that were deleted.
    """

    documents: dict[str, str]
    remarks: list[dict[str, str]]
    deleted: int


def writer_of(job: Job, number: int, before: Record, images: Iterable[Image]) -> Table | Documents:
    """What writes the results of a shard.

    Args:
        job: Job that the shard belongs to.
        number: Number of the shard.
        before: Its record.
        images: Images that it holds now.
    """
    return Documents(job, number, before, images) if job.has_documents else Table(job, number, before)


class Table:
    """Rows of a shard's file: path, text, confidence and suspicions of each image; with pages also the line's number.

    A page without lines has one row, with line 0 and without text: every image that was read is in the table.
    """

    def __init__(self, job: Job, number: int, before: Record) -> None:
        self._job, self._path = job, job.shard_path(number)
        self._old = self._read() if before.stamps else {}
        self._rows: list[dict[str, Any]] = []

    def holds(self, path: str) -> bool:
        """Whether the results of an image are there from an earlier run."""
        return path in self._old

    def keep(self, path: str) -> None:
        """Takes them over."""
        self._rows += self._old[path]

    def add(self, path: str, result: ImageText | pages.Page) -> None:
        """Takes a new result; nothing keeps it from being written."""
        texts: list[Any] = list(result.lines) if isinstance(result, pages.Page) else [result]
        first = 1
        if not texts:
            texts, first = [ImageText("", 0.0, suspicions(result) if isinstance(result, pages.Page) else ())], 0
        for number, text in enumerate(texts, first):
            row = {"path": path, "line": number, "text": text.text, "confidence": rounded(text.confidence or 0.0)}
            codes = [suspicion.code for suspicion in text.suspicions] if isinstance(text, ImageText) else []
            row["suspicions"] = " ".join(codes)
            self._rows.append({column: row[column] for column in self._job.columns})

    def close(self) -> Written:
        """Writes the file."""
        self._rows.sort(key=lambda row: (row["path"], row.get("line", 1)))
        self._job.write(self._path, format_rows(self._rows, self._job.columns, self._job.format))
        return Written({}, [], 0)

    def _read(self) -> dict[str, list[dict[str, Any]]]:
        """The rows that the file holds, by path."""
        if not storage.exists(self._path):
            return {}
        text = storage.read(self._path).decode("utf-8", "surrogateescape")
        rows: Iterable[dict[str, Any]]
        if self._job.format == "csv":
            kinds = {"line": int, "confidence": float}
            lines = csv.DictReader(io.StringIO(text, newline=""))
            rows = ({name: kinds.get(name, str)(value) for name, value in row.items()} for row in lines)
        else:
            rows = (json.loads(line) for line in text.split("\n") if line)
        found: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            found.setdefault(row["path"], []).append(row)
        return found


class Documents:
    """A file of each page, below the output folder as its image lies below the input folder.

    A file that somebody has changed is neither replaced nor deleted: the texts that people correct are in it.
    """

    def __init__(self, job: Job, number: int, before: Record, images: Iterable[Image]) -> None:
        self._job, self._before = job, before.documents
        self._own = job.own_files(number)
        self._names = {image.path: image.document for image in images}
        paths = [path for path, name in self._before.items() if self._names.get(path) == name]
        there = list(ahead(self._own.is_there, (self._names[path] for path in paths), storage.READERS))
        self._there = {path for path, exists in zip(paths, there, strict=True) if exists}
        self._written: dict[str, str] = {}

    def holds(self, path: str) -> bool:
        """Whether the document of an image is there from an earlier run."""
        return path in self._there

    def keep(self, path: str) -> None:
        """Leaves it where it is."""
        self._written[path] = self._names[path]

    def add(self, path: str, result: ImageText | pages.Page) -> dict[str, str] | None:
        """Writes the document of a page; where it must not, the row of the file of errors that says so."""
        assert isinstance(result, pages.Page)
        name = self._written[path] = self._names[path]
        text = pages.write(result, self._job.format)
        if self._own.replace(name, text.encode("utf-8", "backslashreplace")):
            return None
        return _kept(path, f"{name} is not as this batch wrote it, and stays. Delete it to have the page transcribed.")

    def close(self) -> Written:
        """Deletes documents of images that have gone or are damaged now, and names the others by their images."""
        gone = sorted({*self._before.values(), *self._own.names} - {*self._written.values()})
        deleted = list(map(self._own.delete, gone))
        if gone:
            self._own.note()
        why = "It is not as this batch wrote it, and stays, although no image that can be read has it now."
        kept = [_kept(name, why) for name, is_deleted in zip(gone, deleted, strict=True) if is_deleted is False]
        return Written(self._written, kept, deleted.count(True))


def _kept(path: str, detail: str) -> dict[str, str]:
    return {"path": path, "reason": CHANGED_DOCUMENT, "detail": detail}


def remark(path: str, result: Result) -> dict[str, str] | None:
    """What is wrong with a result, for the file of errors.

    Args:
        path: Path of the image.
        result: What was read in it.

    Returns:
        Path, reason and detail; None where nothing is wrong.
    """
    if isinstance(result, ImageError):
        return {"path": path, "reason": result.reason, "detail": str(result)}
    if isinstance(result, ImageText):  # one that may be a page
        messages = [suspicion.message for suspicion in result.suspicions if suspicion.code == NO_LINES]
        return {"path": path, "reason": NO_LINES, "detail": messages[0]} if messages else None
    if isinstance(result, pages.Page):
        found = suspicions(result)
        details = [suspicion.message for suspicion in found]
        if (error := failure(result)) is not None:
            details.append(str(error))
        if details:
            reason = found[0].code if found else "lines_without_text"
            return {"path": path, "reason": reason, "detail": "; ".join(details)}
    return None
