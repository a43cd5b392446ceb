"""The first line of a label file: encoding, delimiter, columns."""

from __future__ import annotations

import csv
import io
import os
import re

from components import storage
from components.example_gen.splits import SPLIT_NAMES
from components.example_gen.table import DatasetError, Table, encoding_problem
from pipeline.config import DataConfig

IMAGE_COLUMNS = ("filename", "file_name", "image", "image_path", "path", "file", "img")
TEXT_COLUMNS = ("text", "label", "identity", "transcription", "word", "words")
DELIMITERS = ",;\t|"


def open_table(path: str, root: str, source: str, config: DataConfig) -> Table | str:
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
        raise DatasetError(encoding_problem(path, encoding, error)) from error
    if not header_line.strip():
        raise DatasetError(f"{path} is empty: it needs a header line such as `filename,text` and one row a picture.")
    if "\0" in header_line:
        raise DatasetError(encoding_problem(path, encoding, "NUL characters in the header line"))
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
