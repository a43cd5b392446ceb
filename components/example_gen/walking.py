"""Folders and files of a dataset: all but those of a workspace, which the next run would take for data."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Iterator

from components.common import storage
from components.common.workspace import is_workspace
from components.example_gen.outages import unreadable
from components.example_gen.table import DatasetError


def walk(root: str) -> Iterator[tuple[str, list[str]]]:
    """Each folder of a dataset with the names of its files, in the order of `storage.walk`.

    Args:
        root: Path of the dataset folder.

    Raises:
        DatasetError: A folder cannot be read.
    """
    workspace = None
    with readable(root):
        for folder, names in storage.walk(root):
            if workspace and folder.startswith(f"{workspace}/"):
                continue
            if folder != root and is_workspace(folder, names):
                workspace = folder
                continue
            yield folder, names


def files(root: str) -> Iterator[storage.File]:
    """All files of a dataset with their stamps.

    Args:
        root: Path of the dataset folder.

    Raises:
        DatasetError: A folder cannot be read.
    """
    with readable(root):
        if storage.is_remote(root):  # whose list has the stamps already
            yield from storage.files(root)
            return
        for folder, names in walk(root):
            for path in (posixpath.join(folder, name) for name in names):
                yield storage.File(path, storage.stamp(path))


def refuse_workspace(root: str) -> None:
    """Refuses a workspace as a dataset folder: a run would read what earlier ones have written.

    Args:
        root: Path of the dataset folder.

    Raises:
        DatasetError: It is a workspace.
        OSError: It cannot be read.
    """
    if is_workspace(root, storage.entries(root)[1]):
        raise DatasetError(
            f"The data folder {root} is the workspace of earlier runs, whose files would be read as data. Keep the two "
            "apart: name another folder with --data, or with --workspace."
        )


@contextlib.contextmanager
def readable(root: str) -> Iterator[None]:
    """Turns errors of reading a dataset folder into a `DatasetError`."""
    try:
        yield
    except OSError as error:
        what = f"{str(error.filename)[:200]}: {error.strerror}" if error.filename else error
        raise unreadable(f"A folder below {root} cannot be read ({what}).", error, "Mend or remove it.") from error
