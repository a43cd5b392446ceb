"""Tables as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from typing import TextIO


class CsvWriter:
    """Writes rows that end in LF. File names may hold a carriage return, which would end a row: it is quoted."""

    def __init__(self, out: TextIO) -> None:
        """Writes nothing yet.

        Args:
            out: File that is open for writing and leaves line ends as they are.
        """
        # Up to Python 3.12 a field with a line break is put in quotation marks only if rows end in what it holds.
        self._rows = csv.writer(_LineFeeds(out), lineterminator="\r\n")

    def writerow(self, row: Iterable[object]) -> None:
        """Writes a row."""
        self._rows.writerow(row)


class _LineFeeds:
    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, row: str) -> None:
        self._out.write(row.removesuffix("\r\n") + "\n")
