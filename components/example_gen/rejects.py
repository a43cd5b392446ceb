"""Rows that cannot be used, with the reason."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass


@dataclass(frozen=True)
class Reject:
    """A refused row.

    Attributes:
        table: name of the CSV file.
        line: its line.
        image: picture's path as the row gives it.
        text: label as the row gives it, at most 200 characters.
        reason: one of a few words, for counting.
        detail: what exactly is wrong.
    """

    table: str
    line: int
    image: str
    text: str
    reason: str
    detail: str


class Rejected(Exception):
    """A row cannot be used.

    Attributes:
        reason, detail: as in `Reject`.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def write_rejects(rejects: list[Reject], file: io.TextIOBase) -> None:
    """Writes rejects as CSV with a header line."""
    writer = csv.writer(file)
    writer.writerow(["csv", "row", "image", "text", "reason", "detail"])
    writer.writerows([r.table, r.line, r.image, r.text, r.reason, r.detail] for r in rejects)
