"""From the image that a row names to a file of its dataset folder."""

from __future__ import annotations

import functools
import os
import unicodedata
from collections.abc import Iterator

from components import storage
from components.example_gen.rejects import Rejected
from components.example_gen.table import DatasetError, Table

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")


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
    for folder, files in walk(root):
        for file in files:
            index.setdefault(unicodedata.normalize("NFC", file), []).append(os.path.join(folder, file))
    return index


def walk(root: str) -> Iterator[tuple[str, list[str]]]:
    """Folders of a dataset with the names of their files, see `storage.walk`.

    Raises:
        DatasetError: one cannot be read.
    """
    try:
        yield from storage.walk(root)
    except OSError as error:
        what = f"{str(error.filename)[:200]}: {error.strerror}" if error.filename else error
        raise DatasetError(f"A folder below {root} cannot be read ({what}). Mend or remove it.") from error
