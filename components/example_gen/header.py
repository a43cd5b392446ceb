"""The header of a label file: where it stands, its encoding, delimiter and columns."""

from __future__ import annotations

import csv
import io
import os
import re

from components.common import storage
from components.example_gen import rejects
from components.example_gen.settings import DataConfig
from components.example_gen.splits import split_in_name
from components.example_gen.table import DatasetError, Table, encoding_problem
from htr_client.files import OTHER_FORMATS, SUFFIXES

# By preference: of several that a table has, the first one here counts.
IMAGE_COLUMNS = ("filename", "file_name", "image", "image_path", "path", "file", "img", "filepath", "file_path",
                 "image_name", "image_file", "image_filename", "img_path", "img_name", "image_id")  # fmt: skip
TEXT_COLUMNS = ("text", "label", "identity", "transcription", "word", "words", "ground_truth", "transcript", "gt",
                "gt_text", "sentence")  # fmt: skip
LABELLING_MODEL = "labelling_model"  # column of `htr label`: the version that wrote the text
DELIMITERS = ",;\t|"
NONE = "none"  # as the name of a column in the configuration: there is no such column
_BLANK = ' \t\r\n\f\v"' + DELIMITERS  # what Excel leaves of an empty row, too
_MOST_BLANK = 100  # lines before the header
# Excel's line that names the delimiter; one that names none says nothing.
_SEPARATOR = re.compile(r'\s*"?sep=([^ \r\n"]?)"?[\s,;|]*', re.IGNORECASE)
SAVE_AS_CSV = 'Open it and save it as "CSV UTF-8" (File, Save As).'
# Headers of tables that hold no labels, by what writes them: texts of a model are no truth.
_OWN = {
    rejects.HEADER: "htr check --rejects",
    "path,text,confidence": "htr transcribe",
    "path,line,text,confidence": "htr transcribe",
}
_WORKBOOKS = {b"PK\x03\x04": "an Excel workbook or another zip archive", b"\xd0\xcf\x11\xe0": "an Excel workbook"}


def open_table(path: str, root: str, source: str, config: DataConfig) -> Table | str:
    """Reads the header of a label file.

    Args:
        path: Path of the file.
        root: Dataset folder that it belongs to.
        source: Name of that folder.
        config: Names of columns, encoding.

    Returns:
        The table, or a sentence that says why the file holds no labels.

    Raises:
        DatasetError: It is no text, is empty, or lacks a column that the configuration names.
        OSError: It cannot be read.
    """
    with storage.open_file(path) as file:
        mark = file.read(4)
    if mark in _WORKBOOKS:
        raise DatasetError(f"{path} is {_WORKBOOKS[mark]}, not a CSV file. {SAVE_AS_CSV}")
    encoding = config.encoding
    if mark.startswith(b"\xef\xbb\xbf"):
        encoding = "utf-8-sig"
    elif mark in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        encoding = "utf-32"
    elif mark.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    try:
        header_line, line, delimiter = _find_header(path, encoding)
    except UnicodeError as error:
        raise DatasetError(encoding_problem(path, encoding, error)) from error
    if delimiter is None:
        delimiter = max(DELIMITERS, key=lambda d: len(_fields(line, d)))
    header = _fields(line, delimiter)
    known = [re.sub(r"[\s-]+", "_", name.lower()) for name in header]
    if ",".join(known) in _OWN:
        return (
            f"{path} is a table of `{_OWN[','.join(known)]}`, not of labels. Move it out of the folder; or, if people "
            "have corrected its texts, leave out its last column."
        )
    data = _looks_like_data(header)
    hint = (
        f" The first line looks like data (`{data[:40]}`): there is no header. Add a line before it that names its "
        f"{len(header)} columns, such as `filename,text`."
        if data
        else ""
    )
    twice: dict[str, str] = {}  # ambiguous column by the setting that names it

    def position(wanted: str | None, usual: tuple[str, ...], setting: str) -> int | None:
        if wanted is not None:
            if wanted not in header:
                raise DatasetError(f"{path} has no column {wanted!r} ({setting}). It has: {_listed(header)}.{hint}")
            if header.count(wanted) > 1:
                twice[setting] = wanted
            return header.index(wanted)
        found = next((name for name in usual if name in known), None)
        if found is not None and known.count(found) > 1:
            twice[setting] = found
        return None if found is None else known.index(found)

    def optional(wanted: str | None, name: str) -> int | None:
        if wanted is not None and wanted.lower() == NONE:
            return None
        return position(wanted, (name,), f"data.{name}_column")

    image = position(config.image_column, IMAGE_COLUMNS, "data.image_column")
    text = position(config.text_column, TEXT_COLUMNS, "data.text_column")
    wanted = (("image", IMAGE_COLUMNS, image), ("text", TEXT_COLUMNS, text))
    missing = [
        f"{what} (one of {', '.join(names)}, or set data.{what}_column)" for what, names, at in wanted if at is None
    ]
    if image is None or text is None:
        if hint:
            return f"{path} cannot be read.{hint}"
        return f"{path} has no column for {' and none for '.join(missing)}. Its columns are: {_listed(header)}."
    table = Table(
        path=path, root=root, source=source, delimiter=delimiter, encoding=encoding, header_line=header_line,
        names=tuple(header), image=image, text=text, writer=optional(config.writer_column, "writer"),
        split=optional(config.split_column, "split"),
        default_split=split_in_name(os.path.basename(path)),
        allow_outside=config.allow_outside,
        labelling_model=known.index(LABELLING_MODEL) if LABELLING_MODEL in known else None,
    )  # fmt: skip
    if twice:
        setting, name = next(iter(twice.items()))
        raise DatasetError(f"{path} has several columns {name!r}. Rename all but one, or choose another by {setting}.")
    return table


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


def _listed(header: list[str]) -> str:
    """Names of columns as an error shows them: not all of thousands."""
    shown = ", ".join(name[:40] for name in header[:20])
    return shown if len(header) <= 20 else f"{shown}, ... ({len(header)} in all)"
