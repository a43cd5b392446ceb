"""Folders and files of a dataset: all but those of a workspace, which the next run would take for data."""

from __future__ import annotations

import contextlib
import os
import posixpath
from collections.abc import Iterator

from components.common import storage
from components.common.workspace import is_workspace
from components.example_gen.table import DatasetError


def walk(root: str) -> Iterator[tuple[str, list[str]]]:
    """Each folder of a dataset with the names of its files, in the order of `storage.walk`.

    Args:
        root: Path of the dataset folder.

    Raises:
        DatasetError: A folder cannot be read.
    """
    with readable(root):
        if storage.is_remote(root):  # where no workspace can be
            yield from storage.walk(root)
            return
        waiting = [root]
        while waiting:
            folder = waiting.pop()
            below, names = storage.entries(folder)
            if folder != root and is_workspace(folder, names):
                continue
            yield folder, names
            paths = [posixpath.join(folder, name) for name in below]
            waiting += [path for path in reversed(paths) if not os.path.islink(path)]


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
    if holds_workspace(root):
        raise DatasetError(
            f"The data folder {root} is the workspace of earlier runs, whose files would be read as data. Keep the two "
            "apart: name another folder with --data, or with --workspace."
        )


def holds_workspace(folder: str) -> bool:
    """Whether a folder is a workspace.

    Args:
        folder: Path of the folder.

    Raises:
        OSError: It cannot be read.
    """
    return not storage.is_remote(folder) and is_workspace(folder, storage.entries(folder)[1])


@contextlib.contextmanager
def readable(root: str) -> Iterator[None]:
    """Turns errors of reading a dataset folder into a `DatasetError`."""
    try:
        yield
    except OSError as error:
        what = f"{str(error.filename)[:200]}: {error.strerror}" if error.filename else error
        raise DatasetError(f"A folder below {root} cannot be read ({what}). Mend or remove it.") from error
