"""One CSV/TSV file with labels, and its rows."""

from __future__ import annotations

import csv
import io
import itertools
import os
import unicodedata
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from components.common import storage

ROWS = 128  # that are examined together

csv.field_size_limit(16 * 2**20)
_MOST_CHARACTERS = 64 * 2**20  # of a line; one without an end would fill the memory
_MOST_LINES = 100  # of a row, whose fields may hold line breaks when they are quoted
NUL_SHOWN_AS = "\x1a"  # ASCII's "substitute"; messages say NUL
_END = "\x1aend"  # a line after the last one of a file


class DatasetError(ValueError):
    """The dataset as a whole cannot be read; the message names the folder or file and what to do."""


@dataclass(frozen=True)
class Table:
    """One CSV/TSV file with labels.

    Attributes:
        path: of the file.
        root: dataset folder that it belongs to.
        source: name of that folder; of several with the same name, with as much of their paths as tells them apart.
        delimiter: between its fields.
        encoding: of the file.
        header_line: line of the header, from 1; blank lines and Excel's `sep=` may stand before it.
        names: of the columns.
        image, text, writer, split: positions of the columns; None where there is none.
        labelling_model: position of the column with the version of the model that wrote the text; None likewise.
        default_split: split that the file's name says, else None.
        allow_outside: whether its images may lie outside of `root`.
    """

    path: str
    root: str
    source: str
    delimiter: str
    encoding: str
    header_line: int
    names: tuple[str, ...]
    image: int
    text: int
    writer: int | None
    split: int | None
    default_split: str | None
    allow_outside: bool
    labelling_model: int | None = None

    @property
    def columns(self) -> int:
        """Number of columns."""
        return len(self.names)

    @property
    def name(self) -> str:
        """Path relative to the dataset folder, with the folder's name in front."""
        return self.names_of(self.path)[0]

    def names_of(self, path: str) -> tuple[str, str]:
        """Names of a file of the dataset: one for people, and one that no other dataset folder changes."""
        inside = path.startswith(f"{self.root}/")
        below = plain(path[len(self.root) + 1 :] if inside else os.path.relpath(path, self.root))
        return f"{self.source}/{below}", f"{plain(self.root.rpartition('/')[2])}/{below}"


class Row(NamedTuple):
    """One data row of a table, not yet checked.

    Attributes:
        table: that it stands in.
        line: number of its last line in the file, from 1.
        fields: as read.
    """

    table: Table
    line: int
    fields: tuple[str, ...]

    @property
    def writer(self) -> str:
        """Who wrote it, in NFC, since names of folders on a Mac are in NFD; empty if unknown."""
        return unicodedata.normalize("NFC", self._field(self.table.writer))

    @property
    def labelling_model(self) -> str:
        """The version of the model that wrote its text; empty for a person's."""
        return self._field(self.table.labelling_model)

    def _field(self, column: int | None) -> str:
        return self.fields[column].strip() if column is not None else ""


def read_rows(table: Table) -> Iterator[Row]:
    """Reads the rows of a table; empty lines are passed over.

    Raises:
        DatasetError: the file is not text in its encoding, or breaks the CSV format.
    """
    with storage.open_file(table.path) as raw, io.TextIOWrapper(raw, table.encoding, newline="") as file:
        reader = csv.reader(_lines(file, table.path), delimiter=table.delimiter, skipinitialspace=True)
        try:
            line = 0
            for fields in reader:
                if fields == [_END]:
                    return
                if reader.line_num - line > _MOST_LINES or (fields and fields[-1].endswith(_END)):
                    break
                if reader.line_num - line > 1 and (swallowed := _swallowed_row(table, fields)):
                    raise DatasetError(
                        f"{table.path}, lines {line + 1} to {reader.line_num}: a quotation mark is opened in one row "
                        f"and closed in another, so that rows would be lost in a field, such as `{swallowed[:60]}`. "
                        "One that belongs to a text is written twice, and the text in quotation marks."
                    )
                if fields and line >= table.header_line:
                    yield Row(table, reader.line_num, tuple(fields))
                line = reader.line_num
            raise DatasetError(
                f"{table.path}, line {line + 1}: a quotation mark is opened that is not closed within {_MOST_LINES} "
                f"lines, so that rows would be lost in a field. Close it; one that belongs to a text is written twice."
            )
        except UnicodeError as error:
            raise DatasetError(encoding_problem(table.path, table.encoding, error)) from error
        except csv.Error as error:
            raise DatasetError(f"{table.path}, line {reader.line_num}: {error}.") from error


def _swallowed_row(table: Table, fields: Sequence[str]) -> str:
    """A line within a field that is a row by itself, with an image as this row has; empty if there is none."""
    if len(fields) <= table.image:
        return ""
    ending = os.path.splitext(fields[table.image].strip())[1].lower()
    for line in (line for field in fields for line in field.splitlines()[1:]):
        parts = line.split(table.delimiter)
        image = parts[table.image].strip() if len(parts) >= min(table.columns, 2) > table.image else ""
        if ending and os.path.splitext(image)[1].lower() == ending and not set(image) & set(" \t"):
            return line
    return ""


def read_together(table: Table, lines: Container[int] | None = None) -> Iterator[list[Row]]:
    """Reads the rows of a table in lists of at most `ROWS`, for `examine_rows`.

    Args:
        table: to read.
        lines: of the rows that are wanted; all if None.

    Raises:
        DatasetError: as of `read_rows`.
    """
    rows = (row for row in read_rows(table) if lines is None or row.line in lines)
    while together := list(itertools.islice(rows, ROWS)):
        yield together


def _lines(file: io.TextIOWrapper, path: str) -> Iterator[str]:
    """Lines for a csv.reader, then `_END`, which becomes a row of its own unless a quotation mark is still open."""
    while line := file.readline(_MOST_CHARACTERS):
        if len(line) == _MOST_CHARACTERS:
            raise DatasetError(f"{path} is no table: it has a line of more than {_MOST_CHARACTERS} characters.")
        yield line.replace("\0", NUL_SHOWN_AS)  # at which Python 3.10's csv stops
    yield _END


def encoding_problem(path: str, encoding: str, error: object) -> str:
    """What is wrong with a file that is not text in its encoding, and what to do."""
    return f"{path} is not {encoding} text ({error}). Save it as UTF-8, or name its encoding with data.encoding."


def plain(text: str) -> str:
    """Text that can be stored as UTF-8: bytes of a file name that are none are written as escapes."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()
