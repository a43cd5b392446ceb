"""One CSV/TSV file with labels, and its rows."""

from __future__ import annotations

import codecs
import csv
import functools
import io
import itertools
import os
import re
import unicodedata
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import charset_normalizer

from components.common import storage
from components.common.words import counted
from components.example_gen.rejects import CONTROLS
from htr_client.files import OTHER_FORMATS, SUFFIXES

ROWS = 128  # that are examined together

csv.field_size_limit(16 * 2**20)
_MOST_CHARACTERS = 64 * 2**20  # of a line; one without an end would fill the memory
_MOST_LINES = 100  # of a row, whose fields may hold line breaks when they are quoted
NUL_SHOWN_AS = "\x1a"  # ASCII's "substitute"; messages say NUL
_END = "\x1aend"  # a line after the last one of a file
_MISQUOTED = "\x1amisquoted"  # begins a surplus field, which ends with the name of the column whose quotation is wrong
_IMAGES = (*SUFFIXES, *OTHER_FORMATS)
_NO_UTF8 = re.compile("[\udc80-\udcff]")  # bytes as Python reads them on where they are none
# Those that spreadsheets save by default, by country (docs/data.md); the most frequent first.
_LEGACY_ENCODINGS = (
    "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1257", "cp1258", "cp1255", "cp1256", "mac_roman",
    "mac_cyrillic", "gb18030", "big5", "cp932", "euc_jp", "cp949", "cp874",
)  # fmt: skip
_COMPARED = 2**14  # characters of the lines by which encodings are told apart
_SHOWN = 20  # characters before the first one that is wrong, at most
_LONG_ROW = 2**16  # characters of a row that patterns look at: they take a hundred bytes for each quotation mark


class DatasetError(ValueError):
    """The dataset as a whole cannot be read; the message names the folder or file and what to do."""


@dataclass(frozen=True)
class Table:
    """One CSV/TSV file with labels.

    Attributes:
        path: Path of the file.
        root: Dataset folder that it belongs to.
        source: Name of that folder; of several with the same name, with as much of their paths as tells them apart.
        delimiter: Character between its fields.
        encoding: Encoding of the file.
        header_line: Line of the header, from 1; blank lines and Excel's `sep=` may stand before it.
        names: Names of the columns.
        image, text, writer, split: Positions of the columns; None where there is none.
        labelling_model: Position of the column with the version of the model that wrote the text; None likewise.
        default_split: Split that the file's name says, or that of its folder; else None.
        allow_outside: Whether its images may lie outside of `root`.
        in_several_folders: Whether the tables of the dataset folder lie in more than one folder.
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
    in_several_folders: bool = False

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
        table: Table that it stands in.
        line: Number of its last line in the file, from 1.
        fields: Fields as read; as many as the header has, unless the row is malformed (`why_malformed`).
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
    """Reads the rows of a table; empty lines are passed over, and those with delimiters only, as Excel leaves them.

    Raises:
        DatasetError: The file is not text in its encoding, or breaks the CSV format.
    """
    with storage.open_file(table.path) as raw, io.TextIOWrapper(raw, table.encoding, newline="") as file:
        lines: list[str] = []  # of the row
        reader = csv.reader(_lines(file, table.path, lines), delimiter=table.delimiter, skipinitialspace=True)
        try:
            line = 0
            for fields in reader:
                if fields == [_END]:
                    return
                if reader.line_num - line > _MOST_LINES or (fields and fields[-1].endswith(_END)):
                    break
                if '"' in lines[0]:  # else it can be neither of several lines nor wrong
                    fields = _check_quotation(table, fields, lines, reader.line_num)
                if fields and (fields[0].strip() or any(map(str.strip, fields))) and line >= table.header_line:
                    yield Row(table, reader.line_num, tuple(fields))
                line = reader.line_num
                lines.clear()
            raise DatasetError(
                f"{table.path}, line {line + 1}: a quotation mark is opened that is not closed within {_MOST_LINES} "
                f"lines, so that rows would be lost in a field. Close it; one that belongs to a text is written twice."
            )
        except UnicodeError as error:
            raise DatasetError(encoding_problem(table.path, table.encoding, error)) from error
        except csv.Error as error:
            raise DatasetError(f"{table.path}, line {reader.line_num}: {error}.") from error


def _check_quotation(table: Table, fields: list[str], lines: Sequence[str], last: int) -> list[str]:
    """The fields of a row with quotation marks, which make it malformed where they are wrong.

    Args:
        table: Table that the row stands in.
        fields: Fields as Python's reader gives them.
        lines: Lines of the file that it takes up.
        last: Number of the last of them.

    Raises:
        DatasetError: It holds other rows.
    """
    raw = "".join(lines)[:_LONG_ROW]
    field_, row, quoted = _patterns(table.delimiter)
    try:
        next(csv.reader(lines, delimiter=table.delimiter, skipinitialspace=True, strict=True))
        is_right = True
    except csv.Error:  # also where blanks follow a quotation mark
        is_right = row.fullmatch(raw) is not None
    # Where a program has put all fields in quotation marks, no line within them is a row.
    if len(lines) > 1 and not quoted.fullmatch(raw) and (swallowed := _swallowed_row(table, fields, is_right)):
        raise DatasetError(
            f"{table.path}, lines {last - len(lines) + 1} to {last}: a quotation mark is opened in one row and closed "
            f"in another, so that rows would be lost in a field, such as `{swallowed[:60]}`. One that belongs to a "
            "text is written twice, and the text in quotation marks."
        )
    if is_right:
        return fields
    at = number = 0
    while found := field_.match(raw, at):
        at, number = found.end(), number + 1
    column = table.names[number] if number < table.columns else f"number {number + 1}"
    return [*(fields + [""] * table.columns)[: table.columns], _MISQUOTED + column]


@functools.lru_cache(maxsize=16)
def _patterns(delimiter: str) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """Patterns of a field with the delimiter after it, of a row, and of a row whose fields are all quoted."""
    end, blank = re.escape(delimiter), "" if delimiter == "\t" else "\t"
    # Blanks after a quotation mark that closes a field do no harm.
    quoted = rf' *"[^"]*(?:""[^"]*)*"[ {blank}]*'
    any_ = rf'(?:{quoted}|(?! *")[^{end}\r\n]*)'
    rows = (re.compile(rf"{one}(?:{end}{one})*[\r\n]*") for one in (any_, quoted))
    return (re.compile(any_ + end), *rows)  # type: ignore[return-value]


def _swallowed_row(table: Table, fields: Sequence[str], is_right: bool) -> str:
    """A line within a field that is a row by itself; empty if there is none.

    A text may have several lines, with commas in them. Then a line is a row only if it begins with something like
    the image of the row around it; where the quotation is wrong, or no prose has the delimiter, their number is enough.
    """
    own = fields[table.image].strip() if len(fields) > table.image else ""
    for line in (line for field_ in fields for line in field_.splitlines()[1:]):
        parts = line.split(table.delimiter)
        image = parts[table.image].strip() if len(parts) > max(table.image, 1) else ""
        is_name = bool(image) and not set(image) & set(" \t")
        if is_name and image.lower().endswith(_IMAGES):
            return line
        is_row = (is_name and _kind(image) == _kind(own)) or not is_right or table.delimiter in "\t|"
        if image and len(parts) == table.columns and is_row:
            return line
    return ""


def _kind(image: str) -> tuple[bool, bool]:
    """Whether the name of an image has an extension, and whether it has digits."""
    return bool(os.path.splitext(image)[1]), any(map(str.isdigit, image))


def why_malformed(row: Row) -> str:
    """What is wrong with a row that has more or fewer fields than the header, and what to do."""
    fields, columns = row.fields, row.table.columns
    if fields[-1].startswith(_MISQUOTED):
        return (
            f"the field {fields[-1].removeprefix(_MISQUOTED)} goes on after its closing quotation mark: put the whole "
            'field in quotation marks and write each one within it twice, as in """Hello"" she said"'
        )
    said = f"{counted(len(fields), 'field')} where the header has {columns}"
    if len(fields) > columns and not any(field_.strip() for field_ in fields[columns:]):
        return (
            f"{said}, and those beyond are empty: remove the delimiters ({row.table.delimiter!r}) at the end of the "
            "row, or name their columns in the header"
        )
    return said


def read_together(table: Table, lines: Container[int] | None = None) -> Iterator[list[Row]]:
    """Reads the rows of a table in lists of at most `ROWS`, for `examine_rows`.

    Args:
        table: Table to read.
        lines: Lines of the rows that are wanted; all if None.

    Raises:
        DatasetError: As `read_rows`.
    """
    rows = (row for row in read_rows(table) if lines is None or row.line in lines)
    while together := list(itertools.islice(rows, ROWS)):
        yield together


def _lines(file: io.TextIOWrapper, path: str, raw: list[str]) -> Iterator[str]:
    """Lines for a csv.reader, then `_END`, which becomes a row of its own unless a quotation mark is still open.

    Each is added to `raw` besides.
    """
    while line := file.readline(_MOST_CHARACTERS):
        if len(line) == _MOST_CHARACTERS:
            raise DatasetError(f"{path} is no table: it has a line of more than {_MOST_CHARACTERS} characters.")
        line = line.replace("\0", NUL_SHOWN_AS)  # at which Python 3.10's csv stops
        raw.append(line)
        yield line
    raw.append(_END)
    yield _END


def encoding_problem(path: str, encoding: str, error: object) -> str:
    """What is wrong with a file that is not text in its encoding, and what to do."""
    if name := _utf16(path, encoding):
        return (
            f"{path} is not {encoding} text (NUL characters between the others, as in UTF-16). Save it as UTF-8, or "
            f"set data.encoding={name}."
        )
    found = _other_encodings(path, encoding) if isinstance(error, UnicodeDecodeError) else ""
    return (
        f"{path} is not {encoding} text ({found or error}). Save it as UTF-8, or set data.encoding to the encoding "
        f"{'in which the line is right' if found else 'that it is in'} (docs/data.md lists them by language)."
    )


def _utf16(path: str, encoding: str) -> str:
    """The encoding of a file that is UTF-16 without a mark, by its first characters; empty for any other file."""
    if codecs.lookup(encoding).name.startswith("utf-16"):
        return ""
    with storage.open_file(path) as raw:
        head = raw.read(200)
    first, second = head[::2].count(0), head[1::2].count(0)
    if 4 * max(first, second) < len(head):  # of the letters in a header, half of the bytes are NUL
        return ""
    name = "utf-16-le" if second > first else "utf-16-be"
    return name if "".join(head.decode(name, "replace").split()).isprintable() else ""  # else it is no text at all


def _other_encodings(path: str, encoding: str) -> str:
    """A line that is not UTF-8, in each encoding that may be right; empty for a file that should not be UTF-8.

    The error counts bytes from the last piece that was read, and nobody finds a line by its bytes. Which encoding is
    right, a person must say: short labels fit several.
    """
    if codecs.lookup(encoding).name not in ("utf-8", "utf-8-sig"):
        return ""
    wrong: dict[int, bytes] = {}  # lines by their numbers
    room = _COMPARED
    with storage.open_file(path) as raw, io.TextIOWrapper(raw, encoding, errors="surrogateescape") as file:
        for number, line in enumerate(iter(functools.partial(file.readline, _MOST_CHARACTERS), ""), 1):
            if _NO_UTF8.search(line):
                wrong[number] = line.strip().encode("utf-8", "surrogateescape")
                room -= len(line)
                if room < 0:
                    break
    fitting = charset_normalizer.from_bytes(b"\n".join(wrong.values()), cp_isolation=[*_LEGACY_ENCODINGS])
    names = {name for match in fitting for name in match.could_be_from_charset}
    most: dict[str, list[str]] = {}  # encodings by how they read the line in which they differ most
    number = 0
    for n, raw_line in wrong.items():
        read: dict[str, list[str]] = {}
        for name in (name for name in _LEGACY_ENCODINGS if name in names):
            read.setdefault(_shown(raw_line.decode(name, "replace")), []).append(name)
        if len(read) > len(most):
            most, number = read, n
    shown = [f"`{text}` in {' or '.join(equal)}" for text, equal in most.items()]
    return f"line {number} reads {', '.join(shown)}" if shown else ""


def _shown(line: str) -> str:
    """The part of a line around its first character that is not ASCII."""
    first = next((at for at, character in enumerate(line) if not character.isascii()), 0)
    return line[max(0, first - _SHOWN) :][: 2 * _SHOWN].strip().translate(CONTROLS)


def plain(text: str) -> str:
    """Text that can be stored as UTF-8: bytes of a file name that are none are written as escapes."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()
