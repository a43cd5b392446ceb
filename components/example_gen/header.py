"""The header of a label file: where it stands, its encoding, delimiter and columns."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from components.common import storage
from components.example_gen import rejects
from components.example_gen.settings import DataConfig
from components.example_gen.splits import split_in_name
from components.example_gen.table import DatasetError, Table, encoding_problem, plain
from htr_client.files import OTHER_FORMATS, SUFFIXES

# By preference: of several that a table has, the first one here counts.
IMAGE_COLUMNS = ("filename", "file_name", "image", "image_path", "path", "file", "img", "filepath", "file_path",
                 "image_name", "image_file", "image_filename", "img_path", "img_name", "image_id")  # fmt: skip
TEXT_COLUMNS = ("text", "label", "identity", "transcription", "word", "words", "ground_truth", "transcript", "gt",
                "gt_text", "sentence")  # fmt: skip
# Column of `htr label` and `htr review`: the version that wrote the text; empty for a person's.
LABELLING_MODEL = "labelling_model"
GUESS = "guess"  # column of `htr review`: the text before a person has looked at it
DELIMITERS = ",;\t|"
NONE = "none"  # as the name of a column in the configuration: there is no such column
_BLANK = ' \t\r\n\f\v"' + DELIMITERS  # what Excel leaves of an empty row, too
_MOST_BLANK = 100  # lines before the header
_USUAL = {"image": IMAGE_COLUMNS, "text": TEXT_COLUMNS, "writer": ("writer",), "split": ("split",)}  # by setting
# Names that may mean the same and are not taken by themselves: splits of data in use would change.
_LIKELY = {"writer": ("writer_id", "author", "scribe", "hand"), "split": ("subset", "set", "partition")}
_LOGGED = ("model_version", "time")  # columns of `htr_client.RequestLog`: the first is what LABELLING_MODEL is
# Excel's line that names the delimiter; one that names none says nothing.
_SEPARATOR = re.compile(r'\s*"?sep=([^ \r\n"]?)"?[\s,;|]*', re.IGNORECASE)
SAVE_AS_CSV = 'Open it and save it as "CSV UTF-8" (File, Save As).'
# Headers of tables that hold no labels, by what writes them: texts of a model are no truth.
_OWN = {
    rejects.HEADER: "`htr check --rejects`",
    "file,text,confidence,model_version,error,suspicions": "`htr read`, `htr predict` or `htr-client`",
    "path,text,confidence,suspicions": "`htr transcribe`",
    "path,line,text,confidence,suspicions": "`htr transcribe`",
    "path,text,confidence": "`htr transcribe`",  # of earlier releases, as the next one
    "path,line,text,confidence": "`htr transcribe`",
}
_BLOCK = 2**20  # bytes
_WORKBOOKS = {b"PK\x03\x04": "an Excel workbook or another zip archive", b"\xd0\xcf\x11\xe0": "an Excel workbook"}


class NoLabels(NamedTuple):
    """What there is to say of a file that holds no labels.

    Attributes:
        why: Sentence that says why it holds none.
        problem: What to say where other tables hold some: it names images, so that its texts may have another header;
            else empty.
    """

    why: str
    problem: str = ""


def open_table(path: str, root: str, source: str, config: DataConfig) -> Table | NoLabels:
    """Reads the header of a label file.

    Args:
        path: Path of the file.
        root: Dataset folder that it belongs to.
        source: Name of that folder.
        config: Names of columns, encoding.

    Returns:
        The table, or why the file holds no labels.

    Raises:
        DatasetError: It is no text, or is empty.
        OSError: It cannot be read.
    """
    with storage.open_file(path) as file:
        mark = file.read(4)
    if mark in _WORKBOOKS:
        raise DatasetError(f"{path} is {_WORKBOOKS[mark]}, not a CSV file. {SAVE_AS_CSV}")
    encoding = _encoding(path, mark, config.encoding)
    try:
        header_line, line, delimiter = _find_header(path, encoding)
    except UnicodeError as error:
        raise DatasetError(encoding_problem(path, encoding, error)) from error
    if delimiter is None:
        delimiter = max(DELIMITERS, key=lambda d: len(_fields(line, d)))
    header = _Header(path, _fields(line, delimiter))
    if writer := _OWN.get(",".join(header.known)):
        return NoLabels(
            f"{path} is a table of {writer}, not of labels. Move it out of the folder; or, if people "
            "have corrected its texts, leave out its last column."
        )
    image = header.position(config.image_column, "image")
    text = header.position(config.text_column, "text")
    wanted = (("image", config.image_column, image), ("text", config.text_column, text))
    missing = [header.missing(column, what) for what, column, at in wanted if at is None]
    if image is None or text is None:
        words = header.names[0].split() if len(header.names) == 1 else []
        parts = _Header(path, words)
        named = parts.position(None, "image") is not None and parts.position(None, "text") is not None
        if named or (len(words) > 1 and words[0].lower().endswith(SUFFIXES)):
            return NoLabels(
                f"{path} has one column, `{header.names[0][:40]}`: comma, semicolon, tab or | separate fields, and not "
                "spaces. docs/data.md (Labels in another form) shows how to make such a table."
            )
        if header.hint:
            return NoLabels(f"{path} cannot be read.{header.hint}")
        columns = f"Its columns are: {_listed(header.names)}."
        problem = "" if image is None else (
            f"{source}/{plain(path.removeprefix(f'{root}/'))} names images and has no column for their texts, so its "
            f"rows are left out. {columns} If one of them holds the texts, call it as in the other tables; else move "
            "the file out of the data folder."
        )  # fmt: skip
        return NoLabels(f"{path} has no column {' and none '.join(missing)}. {columns}", problem)
    table = Table(
        path=path, root=root, source=source, delimiter=delimiter, encoding=encoding, header_line=header_line,
        names=tuple(header.names), image=image, text=text, writer=header.optional(config.writer_column, "writer"),
        split=header.optional(config.split_column, "split"),
        default_split=split_in_name(os.path.basename(path)),
        allow_outside=config.allow_outside,
        labelling_model=header.labelling_model(),
    )  # fmt: skip
    header.refuse_ambiguous()
    return table


class _Header:
    """The columns of a table, and which of them are asked for.

    Attributes:
        names: Names of the columns as they stand in the file.
        known: The same as they are compared with the usual names, and with a setting that has none to the letter.
        hint: What to do where the first line is no header but data, as the end of an error; else empty.
    """

    def __init__(self, path: str, names: list[str]):
        self.names = names
        self.known = [_compared(name) for name in names]
        data = _looks_like_data(names)
        self.hint = (
            f" The first line looks like data (`{data[:40]}`): there is no header. Add a line before it that names its "
            f"{len(names)} columns, such as `filename,text`."
            if data
            else ""
        )
        self._path = path
        self._ambiguous: dict[str, str] = {}  # column that is there twice, by the setting that names it

    def position(self, wanted: str | None, what: str) -> int | None:
        """Place of the column that a setting names, or else of the first usual name that is there.

        Args:
            wanted: Name by the setting; another data folder may have it, see `refuse_unknown_columns`.
            what: Key of `_USUAL`.
        """
        names, found = self.known, next((name for name in _USUAL[what] if name in self.known), None)
        if wanted is not None and wanted in self.names:
            names, found = self.names, wanted
        elif wanted is not None and _compared(wanted) in self.known:
            found = _compared(wanted)
        if found is None:
            return None
        if names.count(found) > 1:
            self._ambiguous[f"data.{what}_column"] = found
        return names.index(found)

    def optional(self, wanted: str | None, name: str) -> int | None:
        """As `position`, for a column that the setting may also rule out."""
        if wanted is not None and wanted.lower() == NONE:
            return None
        return self.position(wanted, name)

    def missing(self, wanted: str | None, what: str) -> str:
        """Which column is not there, after the words "has no column"."""
        usual = f"one of {', '.join(_USUAL[what])}"
        if wanted is not None:
            return f"{wanted!r} (data.{what}_column) nor one of the usual ones for {what} ({usual})"
        return f"for {what} ({usual}, or set data.{what}_column)"

    def labelling_model(self) -> int | None:
        """Place of the column with the version of the model that wrote the text."""
        logged = all(name in self.known for name in _LOGGED)
        name = LABELLING_MODEL if LABELLING_MODEL in self.known or not logged else _LOGGED[0]
        return self.known.index(name) if name in self.known else None

    def refuse_ambiguous(self) -> None:
        """Raises DatasetError where a column that was asked for is there twice: only then does it matter."""
        for setting, name in self._ambiguous.items():
            raise DatasetError(
                f"{self._path} has several columns {name!r}. Rename all but one, or choose another by {setting}."
            )


def is_addition(table: Table) -> bool:
    """Whether a command made the table from images that a model transcribed: `htr label`, `htr review`."""
    return not {LABELLING_MODEL, GUESS}.isdisjoint(map(_compared, table.names))


def refuse_unknown_columns(tables: Sequence[Table], config: DataConfig) -> None:
    """Raises DatasetError where a setting names a column that no table has: it is misspelt.

    One that some of the tables have is no fault: other folders may be of other programs, such as `htr label`.

    Args:
        tables: Tables of all data folders.
        config: Names of columns.
    """
    for what in _USUAL:
        wanted = _wanted(config, what)
        if wanted is not None and tables and not any(_has(table, wanted) for table in tables):
            first = tables[0]
            raise DatasetError(
                f"{first.path} has no column {wanted!r} (data.{what}_column)"
                f"{', nor has any other table' if len(tables) > 1 else ''}. It has: {_listed(first.names)}."
            )


def column_notes(tables: Sequence[Table], config: DataConfig) -> list[str]:
    """Sentences on columns where another one may be meant.

    Args:
        tables: Tables of all data folders.
        config: Names of columns.
    """
    found: dict[str, list[Table]] = {}
    for table in tables:
        for what, usual in _USUAL.items():
            if sentence := _about_column(table, what, usual, getattr(config, f"{what}_column")):
                found.setdefault(sentence, []).append(table)
    return [
        f"{of[0].name}{f' and {len(of) - 1} more' if len(of) > 1 else ''}: {sentence}" for sentence, of in found.items()
    ]


def _about_column(table: Table, what: str, usual: Sequence[str], wanted: str | None) -> str:
    at: int | None = getattr(table, what)
    others = [name for number, name in enumerate(table.names) if number != at]
    if at is not None and wanted is not None:
        taken = f"`{table.names[at]}` is taken instead"
        return "" if _has(table, wanted) else f"there is no column {wanted!r} (data.{what}_column); {taken}."
    if at is not None:
        instead = "`, `".join(name for name in others if _compared(name) in usual)
        return instead and (
            f"`{table.names[at]}` is taken as the column for {what}, not `{instead}`. data.{what}_column names another."
        )
    likely = next((name for name in others if _compared(name) in _LIKELY[what]), "")
    if not likely or wanted is not None or (what == "split" and table.default_split):
        return ""
    return f"the column `{likely}` is not used. If it names the {what}, set data.{what}_column={_compared(likely)}."


def _wanted(config: DataConfig, what: str) -> str | None:
    """The column that a setting names; None also where it says that there is none."""
    wanted: str | None = getattr(config, f"{what}_column")
    return None if wanted is not None and what in _LIKELY and wanted.lower() == NONE else wanted


def _has(table: Table, wanted: str) -> bool:
    return wanted in table.names or _compared(wanted) in map(_compared, table.names)


def _compared(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.lower())


def _encoding(path: str, mark: bytes, told: str) -> str:
    """The encoding that a byte order mark names; UTF-8 where the file is that; else the one of the configuration."""
    if mark.startswith(b"\xef\xbb\xbf"):
        return "utf-8-sig"
    if mark in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return "utf-32"
    if mark.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    return "utf-8" if codecs.lookup(told).name != "utf-8" and _is_utf8(path, told) else told


def _is_utf8(path: str, told: str) -> bool:
    """Whether a file is UTF-8 although the configuration names another encoding, which holds for other files then.

    Text with accents in another encoding practically never is. What is ASCII says nothing, unless that other encoding
    takes more than a byte for each letter.
    """
    decoder, is_ascii = codecs.getincrementaldecoder("utf-8")(), True
    with storage.open_file(path) as file:
        try:
            while block := file.read(_BLOCK):
                if b"\0" in block:
                    return False
                is_ascii = is_ascii and block.isascii()
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return not is_ascii or "a".encode(told) != b"a"


def _find_header(path: str, encoding: str) -> tuple[int, str, str | None]:
    """Number and text of the header's line, and the delimiter where a line before it names one."""
    delimiter = None
    with storage.open_file(path) as raw, io.TextIOWrapper(raw, encoding, newline="") as file:
        for number in range(1, _MOST_BLANK + 1):
            line = file.readline(csv.field_size_limit() + 1)
            if not line:
                break
            if "\0" in line:
                raise DatasetError(encoding_problem(path, encoding, "NUL characters in the header line"))
            if len(line) > csv.field_size_limit():
                raise DatasetError(
                    f"{path} is no table: its first line is longer than {csv.field_size_limit()} characters."
                )
            separator = _SEPARATOR.fullmatch(line)
            if separator and delimiter is None:
                delimiter = separator.group(1) or None
            elif line.strip(_BLANK):
                return number, line, delimiter
    raise DatasetError(f"{path} is empty: it needs a header line such as `filename,text` and one row an image.")


def _fields(line: str, delimiter: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))]


def _looks_like_data(header: list[str]) -> str:
    """A field that no column is called: the name of an image, or a number; empty if there is none."""
    endings = (*SUFFIXES, *OTHER_FORMATS)
    return next((name for name in header if name.lower().endswith(endings) or re.fullmatch(r"[\d.,]+", name)), "")


def _listed(header: Sequence[str]) -> str:
    """Names of columns as an error shows them: not all of thousands."""
    shown = ", ".join(name[:40] for name in header[:20])
    return shown if len(header) <= 20 else f"{shown}, ... ({len(header)} in all)"
