"""Reads the dataset contract: folders of CSV/TSV files and pictures, as Kaggle ships them.

No TFX here: `htr check` uses the same functions as the pipeline step, so both accept and reject the same rows.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import hashlib
import io
import itertools
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np

from components import storage
from components.transform.geometry import available_frames, needed_frames
from htr_client import pictures
from htr_client.errors import PictureError
from pipeline.config import DataConfig, TransformConfig

SPLITS = ("train", "validation", "eval")
ROWS = 128  # that are examined together
IMAGE_COLUMNS = ("filename", "file_name", "image", "image_path", "path", "file", "img")
TEXT_COLUMNS = ("text", "label", "identity", "transcription", "word", "words")
# Measures of a picture and its label that examples carry.
NUMBERS = ("width", "height", "text_length", "paper_level", "ink_level", "ink_share", "sharpness")
DELIMITERS = ",;\t|"
# Words in a file name or split column and the split that they mean; `test` is what the gate judges.
SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "eval", "testing": "eval", "eval": "eval", "evaluation": "eval",
}  # fmt: skip

csv.field_size_limit(16 * 2**20)
_MOST_CHARACTERS = 64 * 2**20  # of a line; one without an end would fill the memory
_MOST_LINES = 100  # of a row, whose fields may hold line breaks when they are quoted
# Normalisation takes time that grows with the square of the length, and no picture has room for so many: at most 8192
# columns, four to a frame, one character a frame, which NFC composes of at most four code points.
_LONGEST_LABEL = 10_000
_LARGE_FILE = 2**16  # bytes
_MEASURED_PIXELS, _MEASURED_ROWS, _COUNTED_PIXELS = 2**10, 16, 2**9  # at least, where a picture has them
_SECOND_DIFFERENCE = np.array([[1, -2, 1]], np.float32)
_PICTURE_NAMES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")
_NUL_SHOWN_AS = "\x1a"  # ASCII's "substitute"
_CONTROLS = {c: f"\\x{c:02x}" for c in (*range(32), *range(127, 160))}  # which a terminal would obey
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
        image, text, writer, split: positions of the columns; None where there is none.
        columns: number of columns.
        default_split: split that the file's name says, else None.
        allow_outside: whether its pictures may lie outside of `root`.
    """

    path: str
    root: str
    source: str
    delimiter: str
    encoding: str
    image: int
    text: int
    writer: int | None
    split: int | None
    columns: int
    default_split: str | None
    allow_outside: bool

    @property
    def name(self) -> str:
        """Path relative to the dataset folder, with the folder's name in front."""
        return f"{self.source}/{_below(self.path, self.root)}"


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


class Sample(NamedTuple):
    """An accepted row: a picture and its text.

    Attributes:
        id: picture's path below its dataset folder, with the folder's name in front.
        source: name of the dataset folder, as in `Table`.
        image: encoded PNG or JPEG.
        text: label, NFC-normalised.
        writer: who wrote it; empty if unknown.
        split: one of `SPLITS`.
        width, height: pixels of the picture.
        statistics: numbers that describe the picture, by name (see `describe`).
    """

    id: str
    source: str
    image: bytes
    text: str
    writer: str
    split: str
    width: int
    height: int
    statistics: dict[str, float]


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


def find_tables(config: DataConfig) -> tuple[list[Table], list[str]]:
    """Finds the label files of all dataset folders.

    Args:
        config: paths and column names.

    Returns:
        The tables, sorted by path, and notes on CSV files that hold no labels.

    Raises:
        DatasetError: no such folder, or the same one twice, no CSV file in it, none with the needed columns, an
            unreadable or empty one, one outside of the folder.
    """
    if not config.paths:
        raise DatasetError("No data folder given: name one with --data DIR (a folder with a CSV file and pictures).")
    tables: list[Table] = []
    notes: list[str] = []
    for root, source in _sources([storage.absolute(path) for path in config.paths]).items():
        if not storage.is_dir(root):
            what = "is a file, not a folder" if storage.exists(root) else "does not exist"
            raise DatasetError(f"The data folder {root} {what}. Name the folder that holds the CSV file(s).")
        try:
            paths = _csv_files(root)
        except OSError as error:
            raise DatasetError(f"The data folder {root} cannot be read: {error.strerror or error}.") from error
        if not paths:
            raise DatasetError(f"The data folder {root} holds no .csv or .tsv file with labels.")
        found = []
        for path in paths:
            if not (config.allow_outside or storage.is_inside(path, root)):
                raise DatasetError(
                    f"{path} is a link to a file outside of the data folder. Copy it into the folder, or set "
                    f"data.allow_outside=true if you trust who made the folder."
                )
            try:
                table = _open_table(path, root, source, config)
            except OSError as error:
                raise DatasetError(f"{path} cannot be read: {error.strerror or error}. Mend or remove it.") from error
            if isinstance(table, Table):
                found.append(table)
            else:
                notes.append(table)
        if not found:
            raise DatasetError(" ".join(notes[-len(paths) :]))
        tables += found
    return tables, notes


def _sources(roots: list[str]) -> dict[str, str]:
    """Names of the dataset folders by path: their last parts, as many as are needed to tell them apart."""
    for root in roots:
        if roots.count(root) > 1:
            raise DatasetError(f"The data folder {root} is given {roots.count(root)} times. Name it once.")
    sources = {}
    for root in roots:
        parts = root.split("/")
        ends = ("/".join(parts[-count:]) for count in range(1, len(parts) + 1))
        sources[root] = plain(
            next(end for end in ends if not any(f"/{other}".endswith(f"/{end}") for other in roots if other != root))
        )
    return sources


def _csv_files(root: str) -> list[str]:
    for depth in range(2):  # archives often unpack into one more folder
        folders = [root] if depth == 0 else [os.path.join(root, name) for name in storage.entries(root)[0]]
        names = [os.path.join(folder, name) for folder in folders for name in storage.entries(folder)[1]]
        found = [path for path in names if path.lower().endswith((".csv", ".tsv"))]
        if found:
            return sorted(found)
    return []


def _open_table(path: str, root: str, source: str, config: DataConfig) -> Table | str:
    """Reads the header line. Returns the table, or a sentence that says why the file holds no labels."""
    with storage.open_file(path) as file:
        mark = file.read(4)
    encoding = config.encoding
    if mark.startswith(b"\xef\xbb\xbf"):
        encoding = "utf-8-sig"
    elif mark.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    try:
        with io.TextIOWrapper(storage.open_file(path), encoding, newline="") as text_file:
            header_line = text_file.readline(csv.field_size_limit() + 1)
    except (UnicodeError, LookupError) as error:
        raise DatasetError(_encoding_problem(path, encoding, error)) from error
    if not header_line.strip():
        raise DatasetError(f"{path} is empty: it needs a header line such as `filename,text` and one row a picture.")
    if "\0" in header_line:
        raise DatasetError(_encoding_problem(path, encoding, "NUL characters in the header line"))
    if len(header_line) > csv.field_size_limit():
        raise DatasetError(f"{path} is no table: its first line is longer than {csv.field_size_limit()} characters.")
    delimiter = max(DELIMITERS, key=lambda d: len(next(csv.reader([header_line], delimiter=d))))
    header: list[str] = [name.strip() for name in next(csv.reader([header_line], delimiter=delimiter))]
    lowered = [name.lower() for name in header]
    twice: dict[str, str] = {}  # ambiguous column by the setting that names it

    def position(wanted: str | None, usual: tuple[str, ...], setting: str) -> int | None:
        if wanted is not None:
            if wanted not in header:
                raise DatasetError(f"{path} has no column {wanted!r} ({setting}). It has: {_listed(header)}.")
            if header.count(wanted) > 1:
                twice[setting] = wanted
            return header.index(wanted)
        found = next((name for name in usual if name in lowered), None)
        if found is not None and lowered.count(found) > 1:
            twice[setting] = found
        return None if found is None else lowered.index(found)

    image = position(config.image_column, IMAGE_COLUMNS, "data.image_column")
    text = position(config.text_column, TEXT_COLUMNS, "data.text_column")
    wanted = (("image", IMAGE_COLUMNS, image), ("text", TEXT_COLUMNS, text))
    missing = [
        f"{what} (one of {', '.join(names)}, or set data.{what}_column)" for what, names, at in wanted if at is None
    ]
    if image is None or text is None:
        return f"{path} has no column for {' and none for '.join(missing)}. Its columns are: {_listed(header)}."
    words = re.split(r"[^a-z]+", os.path.basename(path).lower())
    table = Table(
        path=path, root=root, source=source, delimiter=delimiter, encoding=encoding, image=image, text=text,
        writer=position(config.writer_column, ("writer",), "data.writer_column"),
        split=position(config.split_column, ("split",), "data.split_column"),
        columns=len(header), default_split=next((SPLIT_NAMES[w] for w in words if w in SPLIT_NAMES), None),
        allow_outside=config.allow_outside,
    )  # fmt: skip
    for setting, name in twice.items():
        raise DatasetError(f"{path} has several columns {name!r}. Rename all but one, or choose another by {setting}.")
    return table


def _listed(header: list[str]) -> str:
    """Names of columns as an error shows them: not all of thousands."""
    shown = ", ".join(name[:40] for name in header[:20])
    return shown if len(header) <= 20 else f"{shown}, ... ({len(header)} in all)"


def _encoding_problem(path: str, encoding: str, error: object) -> str:
    return f"{path} is not {encoding} text ({error}). Save it as UTF-8, or name its encoding with data.encoding."


def read_rows(table: Table) -> Iterator[Row]:
    """Reads the rows of a table; empty lines are passed over.

    Raises:
        DatasetError: the file is not text in its encoding, or breaks the CSV format.
    """
    with io.TextIOWrapper(storage.open_file(table.path), table.encoding, newline="") as file:
        reader = csv.reader(_lines(file, table.path), delimiter=table.delimiter)
        try:
            line = 0
            for fields in reader:
                if fields == [_END]:
                    return
                if reader.line_num - line > _MOST_LINES or (fields and fields[-1].endswith(_END)):
                    break
                if fields and line:  # the first one is the header
                    yield Row(table, reader.line_num, tuple(fields))
                line = reader.line_num
            raise DatasetError(
                f"{table.path}, line {line + 1}: a quotation mark is opened that is not closed within {_MOST_LINES} "
                f"lines, so that rows would be lost in a field. Close it; one that belongs to a text is written twice."
            )
        except UnicodeError as error:
            raise DatasetError(_encoding_problem(table.path, table.encoding, error)) from error
        except csv.Error as error:
            raise DatasetError(f"{table.path}, line {reader.line_num}: {error}.") from error


def read_together(table: Table) -> Iterator[list[Row]]:
    """Reads the rows of a table in lists of at most `ROWS`, for `examine_rows`; errors as of `read_rows`."""
    rows = read_rows(table)
    while together := list(itertools.islice(rows, ROWS)):
        yield together


def _lines(file: io.TextIOWrapper, path: str) -> Iterator[str]:
    """Lines for a csv.reader, then `_END`, which becomes a row of its own unless a quotation mark is still open."""
    while line := file.readline(_MOST_CHARACTERS):
        if len(line) == _MOST_CHARACTERS:
            raise DatasetError(f"{path} is no table: it has a line of more than {_MOST_CHARACTERS} characters.")
        yield line.replace("\0", _NUL_SHOWN_AS)  # at which Python 3.10's csv stops
    yield _END


def named_splits(tables: list[Table]) -> frozenset[str]:
    """Splits that names of files or split columns give; the rest is drawn (see `assign_split`).

    Raises:
        DatasetError: a table cannot be read.
    """
    named = {table.default_split for table in tables}
    for table in tables:
        if table.split is not None:
            values = {row.fields[table.split] for row in read_rows(table) if len(row.fields) == table.columns}
            named |= {SPLIT_NAMES.get(value.strip().lower()) for value in values}
    return frozenset(split for split in named if split)


def assign_split(named: str | None, key: str, given: frozenset[str], config: DataConfig) -> str:
    """The split of one row.

    A split that the data names is kept, with two exceptions that make sure that training never sees what the gate
    judges: a named `validation` becomes `eval` where no `eval` is named, and `validation` is then drawn from `train`.
    Everything else is drawn by the SHA-256 of `key` (the writer, or the picture's id): the same key is always in the
    same split, whatever else the dataset holds.

    Args:
        named: split that the file name or column gives, or None.
        key: writer, or the picture's id where writers are unknown.
        given: all splits that the dataset names.
        config: fractions and salt.
    """
    draw = int.from_bytes(hashlib.sha256(f"{config.split_salt}\0{key}".encode()).digest()[:8], "big") / 2**64
    has_eval, has_validation = "eval" in given, "validation" in given
    if named == "eval" or (named == "validation" and has_eval):
        return named
    if named == "validation":
        return "eval"
    if named == "train" and has_eval and has_validation:
        return "train"
    if draw < config.eval_fraction and not (has_eval or has_validation):
        return "eval"
    drawn = config.eval_fraction <= draw < config.eval_fraction + config.validation_fraction
    if drawn and not (has_eval and has_validation):
        return "validation"
    return "train"


def examine_all(data: DataConfig, transform: TransformConfig) -> Iterator[Sample | Reject]:
    """Checks all rows of the dataset folders, see `examine_rows`.

    Args:
        data: folders, and what to refuse.
        transform: geometry of the image tensor.

    Yields:
        A sample or a reject for each row, in the order of the files.

    Raises:
        DatasetError: no table was found, or one cannot be read.
    """
    tables, _ = find_tables(data)
    given = named_splits(tables)
    for table in tables:
        for rows in read_together(table):
            yield from examine_rows(rows, given, data, transform)


def examine_rows(
    rows: Sequence[Row], given: frozenset[str], data: DataConfig, transform: TransformConfig
) -> list[Sample | Reject]:
    """Checks rows completely: their fields, their pictures, their labels against the frames.

    Args:
        rows: to check; a hundred or so, since the pictures of all are held in memory.
        given: splits that the dataset names, from `named_splits`.
        data: what to refuse.
        transform: geometry of the image tensor, for the number of frames.

    Returns:
        For each row the sample, or the reject with its reason.
    """
    examined = examine_with_pixels(rows, given, data, transform)
    return [result if isinstance(result, Reject) else result[0] for result in examined]


def examine_with_pixels(
    rows: Sequence[Row], given: frozenset[str], data: DataConfig, transform: TransformConfig
) -> list[tuple[Sample, np.ndarray] | Reject]:
    """As `examine_rows`, with the decoded pictures, uint8 [height, width], for callers that need them too."""
    # One step for all rows before the next: its code and data then stay in the processor's caches, which saves a sixth.
    checked = [_attempt(row, _check_fields, row, data) for row in rows]
    files = [
        fields if isinstance(fields, Reject) else _attempt(row, _read_file, fields.path, data)
        for row, fields in zip(rows, checked, strict=True)
    ]
    read = [
        _attempt(row, _decode, file, data) if isinstance(file, bytes) else file
        for row, file in zip(rows, files, strict=True)
    ]
    measured = iter(describe([picture[1] for picture in read if not isinstance(picture, Reject)]))
    return [
        picture
        if isinstance(picture, Reject)
        else _attempt(row, _accept, row, fields, *picture, next(measured), given, data, transform)
        for row, fields, picture in zip(rows, checked, read, strict=True)
    ]


def _attempt(row: Row, step: Callable[..., Any], *arguments: Any) -> Any:
    """What a step makes of its arguments, or a reject of the row."""
    try:
        return step(*arguments)
    except Rejected as rejected:
        columns = (row.table.image, row.table.text)
        image, text = (row.fields[column] if len(row.fields) > column else "" for column in columns)
        return Reject(
            row.table.name, row.line, plain(image[:500]), plain(text[:200]), rejected.reason,
            plain(rejected.detail[:1000]).translate(_CONTROLS),
        )  # fmt: skip


class _Fields(NamedTuple):
    """What the fields of a row say, once they are checked; `named` is the split, where the data gives one."""

    label: str
    path: str
    named: str | None


def _check_fields(row: Row, data: DataConfig) -> _Fields:
    table, fields = row.table, row.fields
    if len(fields) != table.columns:
        raise Rejected("malformed_row", f"{len(fields)} fields where the header has {table.columns}")
    label = _check_label(fields[table.text], data)
    path = resolve_image(fields[table.image].strip(), table)
    named = table.default_split
    if table.split is not None and fields[table.split].strip():
        named = SPLIT_NAMES.get(fields[table.split].strip().lower())
        if named is None:
            raise Rejected("unknown_split", f"{fields[table.split]!r} is none of {', '.join(SPLIT_NAMES)}")
    return _Fields(label, path, named)


def _accept(
    row: Row, fields: _Fields, encoded: bytes, grey: np.ndarray, statistics: dict[str, float],
    given: frozenset[str], data: DataConfig, transform: TransformConfig,
) -> tuple[Sample, np.ndarray]:  # fmt: skip
    table, (label, path, named) = row.table, fields
    height, width = grey.shape
    frames = available_frames(width, height, transform)
    if 2 * len(label) > frames and (needed := needed_frames(label)) > frames:  # twice the length is always enough
        raise Rejected(
            "label_too_long",
            f"{len(label)} characters need {needed} frames, a {width} x {height} picture has {frames}",
        )
    writer = row.fields[table.writer].strip() if table.writer is not None else ""
    below = _below(path, table.root)
    # Not by the id, which depends on whether another folder has the same name.
    key = writer or f"{plain(table.root.rpartition('/')[2])}/{below}"
    sample = Sample(
        id=f"{table.source}/{below}", source=table.source, image=encoded, text=label, writer=writer,
        split=assign_split(named, key, given, data), width=width, height=height, statistics=statistics,
    )  # fmt: skip
    return sample, grey


def _below(path: str, root: str) -> str:
    """Path relative to a dataset folder."""
    return plain(path[len(root) + 1 :] if path.startswith(f"{root}/") else os.path.relpath(path, root))


def plain(text: str) -> str:
    """Text that can be stored as UTF-8: bytes of a file name that are none are written as escapes."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def _check_label(text: str, data: DataConfig) -> str:
    text = text.strip()
    if len(text) > _LONGEST_LABEL:
        raise Rejected("label_too_long", f"{len(text)} characters are more than any picture has frames for")
    label = unicodedata.normalize("NFC", text)
    if not label:
        raise Rejected("empty_label", "the label is empty")
    if label in data.placeholders:
        raise Rejected("placeholder_label", f"{label!r} stands for 'no text' (data.placeholders)")
    if not label.isprintable():
        control = sorted({c for c in label if unicodedata.category(c) in ("Cc", "Cs")})
        if control:
            raise Rejected("control_character", f"the label holds {', '.join(map(repr, control))}")
    if data.alphabet is not None:
        unknown = sorted(set(label) - set(data.alphabet))
        if unknown:
            raise Rejected("unknown_character", f"not in data.alphabet: {' '.join(map(repr, unknown))}")
    return label


def resolve_image(name: str, table: Table) -> str:
    """Finds the picture that a row names: relative to the CSV, else below the dataset folder by its base name.

    Raises:
        Rejected: there is none, or several of that base name, or it lies outside of the dataset folder.
    """
    if not name:
        raise Rejected("missing_file", "the row names no picture")
    end = name.rfind("/") + 1
    base = name[end:] if name[end:].strip(".") else ""  # `.` and `..` name folders
    folder, is_inside = _beside(table.path, table.root, name[:end] if base else name)
    path = f"{folder}/{base}" if base else folder
    if is_inside and storage.is_plain_file(path):  # one question to the system, where those below are three
        return path
    # No server is asked only because a row names it.
    foreign = storage.is_remote(path) and not storage.is_inside(path, table.root)
    if foreign or not storage.exists(path):
        base = os.path.basename(name.replace("\\", "/"))
        found = _files_by_name(table.root).get(unicodedata.normalize("NFC", base[:1000]), [])
        if len(found) > 1:
            raise Rejected("ambiguous_file", f"{len(found)} files of that name, among them {found[0]} and {found[1]}")
        if not found:
            raise Rejected("missing_file", f"no file {name} beside the CSV nor anywhere below {table.root}")
        path = found[0]
    if not (table.allow_outside or storage.is_inside(path, table.root)):
        raise Rejected("outside_folder", f"{path} lies outside of {table.root} (data.allow_outside)")
    return path


@functools.lru_cache(maxsize=1024)
def _beside(path: str, root: str, name: str) -> tuple[str, bool]:
    """Absolute path of a folder that is named relative to a file, and whether it lies in a dataset folder of this
    machine when links have been followed; cached, since most pictures lie in few folders.
    """  # noqa: D205
    folder = storage.absolute(name if storage.is_remote(name) else os.path.join(os.path.dirname(path), name))
    return folder.rstrip("/"), not storage.is_remote(folder) and storage.is_inside(folder, root)


@functools.lru_cache(maxsize=16)
def _files_by_name(root: str) -> dict[str, list[str]]:
    """Paths by base name in NFC: archives made on a Mac hold names in NFD."""
    index: dict[str, list[str]] = {}
    for folder, files in _walk(root):
        for file in files:
            index.setdefault(unicodedata.normalize("NFC", file), []).append(os.path.join(folder, file))
    return index


def _walk(root: str) -> Iterator[tuple[str, list[str]]]:
    try:
        yield from storage.walk(root)
    except OSError as error:
        what = f"{str(error.filename)[:200]}: {error.strerror}" if error.filename else error
        raise DatasetError(f"A folder below {root} cannot be read ({what}). Mend or remove it.") from error


def _read_file(path: str, data: DataConfig) -> bytes | tuple[bytes, np.ndarray]:
    """Returns the file; if it is large, the decoded picture instead, since files of many rows are held in memory."""
    try:
        encoded = storage.read(path, pictures.MAX_BYTES + 1)  # one more, so that a larger one is refused
    except OSError as error:
        raise Rejected("unreadable_file", f"{path}: {error.strerror or error}") from error
    return encoded if len(encoded) <= _LARGE_FILE else _decode(encoded, data)


def _decode(encoded: bytes, data: DataConfig) -> tuple[bytes, np.ndarray]:
    """Returns bytes that the Transform graph can decode, and the grey picture uint8 [height, width]."""
    try:
        packed, grey = pictures.pack_with_pixels(encoded, int(data.max_megapixels * 1e6))
    except PictureError as error:
        reason = "picture_too_large" if error.reason == "too_large" else f"picture_{error.reason}"
        raise Rejected(reason, str(error)) from error
    return packed.data, grey


def describe(greys: Sequence[np.ndarray]) -> list[dict[str, float]]:
    """Cheap numbers that move when pictures change: drift in the images becomes visible in their statistics.

    Args:
        greys: pictures, uint8 [height, width] each.

    Returns:
        Of each its paper_level and ink_level (95th and 2nd percentile of the grey values, 0..255), ink_share (share of
        pixels darker than half-way), sharpness (root mean square of the second difference along the rows, over the
        contrast); all from a sample of its pixels.
    """
    if not greys:
        return []
    # Some rows of a large picture, and some of their pixels, have the grey values of all, for a part of the price.
    some = [g[:: max(1, min(g.size // _MEASURED_PIXELS, len(g) // _MEASURED_ROWS))] for g in greys]
    counted = [rows.ravel()[:: max(1, rows.size // _COUNTED_PIXELS)] for rows in some]
    levels = np.array([np.bincount(pixels, minlength=256) for pixels in counted]).cumsum(axis=1)
    totals = levels[:, -1:]
    ink, paper = ((levels >= np.ceil(share * totals).astype(int)).argmax(axis=1) for share in (0.02, 0.95))
    dark = levels[np.arange(len(levels)), (ink + paper) // 2] / totals[:, 0]
    bends = np.array([cv2.norm(cv2.filter2D(rows, cv2.CV_16S, _SECOND_DIFFERENCE)) for rows in some])
    shares = np.where(paper > ink, dark, 0.0)
    sharpness = bends / np.sqrt([rows.size for rows in some]) / np.maximum(paper - ink, 1)
    columns = (column.astype(float).tolist() for column in (paper, ink, shares, sharpness))
    return [
        {"paper_level": paper, "ink_level": ink, "ink_share": share, "sharpness": sharp}
        for paper, ink, share, sharp in zip(*columns, strict=True)
    ]


def fingerprint(tables: list[Table]) -> str:
    """Changes when a label file or any picture of the dataset changes (content or name).

    Label files count by content, pictures by path, size and modification time: reading hundreds of thousands of
    pictures only to find that nothing changed would cost more than it saves. In a bucket pictures count by path alone,
    since size and time would take a request for each.
    """
    digest = hashlib.sha256()
    for table in tables:
        digest.update(os.fsencode(table.path) + b"\0" + hashlib.sha256(storage.read(table.path)).digest())
        for path in sorted(set(_unusual_pictures(table))):
            digest.update(_stamp(path))
    for root in sorted({table.root for table in tables}):
        for folder, files in _walk(root):
            for name in files:
                if name.lower().endswith(_PICTURE_NAMES):
                    digest.update(_stamp(os.path.join(folder, name)))
    return digest.hexdigest()


def _unusual_pictures(table: Table) -> Iterator[str]:
    """Pictures of a table that do not look like pictures by their names, or lie outside of its dataset folder."""
    for row in read_rows(table):
        name = row.fields[table.image].strip() if len(row.fields) == table.columns else ""
        unusual = not name.lower().endswith(_PICTURE_NAMES)
        if unusual or table.allow_outside:
            with contextlib.suppress(Rejected):
                path = resolve_image(name, table)
                if unusual or not storage.is_inside(path, table.root):
                    yield path


def _stamp(path: str) -> bytes:
    size_and_time = ""
    if not storage.is_remote(path):
        with contextlib.suppress(OSError):  # a link that leads nowhere
            stat = os.stat(path)
            size_and_time = f"{stat.st_size}\0{stat.st_mtime_ns}"
    return os.fsencode(path) + f"\0{size_and_time}\n".encode()


def write_rejects(rejects: list[Reject], file: io.TextIOBase) -> None:
    """Writes rejects as CSV with a header line."""
    writer = csv.writer(file)
    writer.writerow(["csv", "row", "image", "text", "reason", "detail"])
    writer.writerows([r.table, r.line, r.image, r.text, r.reason, r.detail] for r in rejects)
