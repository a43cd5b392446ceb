"""Rows that cannot be used, with the reason."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from htr_client.errors import ImageError
from htr_client.tables import CsvWriter

REJECTS_FILE = "rejects.csv"
HEADER = "csv,row,image,text,reason,detail"
CONTROLS = {c: f"\\x{c:02x}" for c in (*range(32), *range(127, 160))}  # which a terminal would obey
NO_ROWS = "The CSV files hold a header line but no rows."
# Rows of these reasons are as they should be: a person has looked at the image and found no text that could be learnt.
_NO_FAULTS = ("placeholder_label",)
KEEP_PLACEHOLDERS = "data.placeholders=[] keeps such labels: right only if these words are written in the images"
# What helps against some reasons.
ADVICE = {
    "outside_folder": "data.allow_outside=true reads images outside of the data folder too, through links and absolute "
    "paths: set it if you trust who made the folder",
    "placeholder_label": KEEP_PLACEHOLDERS,
    "image_too_large": "data.max_megapixels allows images of more pixels",
    "unknown_character": "data.alphabet says which characters are allowed",
    "unknown_split": "data.split_column=none leaves the column out of account",
}

# In the detail of a label that is too long for the preset `word` only.
FITS_AS_LINE = "enough with transform.preset=line"


@dataclass(frozen=True)
class Reject:
    """A refused row.

    Attributes:
        table: Name of the CSV file.
        line: Its line.
        image: Image's path as the row gives it.
        text: Label as the row gives it, at most 200 characters.
        reason: One of a few words, for counting.
        detail: What exactly is wrong.
    """

    table: str
    line: int
    image: str
    text: str
    reason: str
    detail: str


class Rejected(Exception):
    """A row or a page cannot be used.

    Attributes:
        reason, detail: Those of `Reject`.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def as_rejected(error: Exception) -> Rejected:
    """Why a page cannot be used, whatever found that out.

    Args:
        error: Error of its XML file, its image or the file system.
    """
    if isinstance(error, Rejected):
        return error
    if isinstance(error, ImageError):
        return rejected_image(error)
    return Rejected(getattr(error, "reason", "unreadable_file"), str(error))


def rejected_image(error: ImageError) -> Rejected:
    """The same error with a reason that says that it is of the image.

    Args:
        error: What is wrong with an image.
    """
    reason = error.reason if error.reason == "not_an_image" else f"image_{error.reason}"
    return Rejected(reason, str(error))


def is_unreadable_image(reason: str) -> bool:
    """Whether rows with a reason have an image that cannot be shown."""
    return reason == "not_an_image" or reason.startswith("image_")


def faults(rejected: Mapping[str, int]) -> dict[str, int]:
    """Counts by reason of the rows whose share `data.max_rejected` bounds.

    Args:
        rejected: Number of rejected rows by reason.
    """
    return {reason: count for reason, count in rejected.items() if reason not in _NO_FAULTS}


def advice_for(reason: str, count: int, lines: int) -> str:
    """What helps against a reason; empty if nothing is known.

    Args:
        reason: Reason of some rejects.
        count: How many there are.
        lines: How many of these say `FITS_AS_LINE`.
    """
    if lines:
        return f"transform.preset=line has frames enough for {lines} of these {count}, which look like lines of text"
    return ADVICE.get(reason, "")


def as_csv_line(reject: Reject) -> str:
    """A reject as a line of CSV, without the line's end."""
    line = io.StringIO()
    CsvWriter(line).writerow([reject.table, reject.line, reject.image, reject.text, reject.reason, reject.detail])
    return line.getvalue().removesuffix("\n")


def as_csv(rejects: Iterable[Reject]) -> str:
    """Rejects as CSV with a header line; lines end in LF, as those that the pipeline step writes."""
    return "".join(f"{line}\n" for line in (HEADER, *map(as_csv_line, rejects)))
