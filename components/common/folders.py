"""Folders that are whole or not there, and the disks that they are on."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def free_space(folder: str) -> int:
    """Bytes that are free where a folder is, or would be made."""
    while not os.path.exists(folder):
        folder = os.path.dirname(os.path.abspath(folder))
    return shutil.disk_usage(folder).free


def nearest(folder: str) -> str:
    """A folder, or the nearest one above it that exists, in which it would be made."""
    folder = os.path.abspath(folder)
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    return folder


@contextlib.contextmanager
def made_whole(folder: Path) -> Iterator[Path]:
    """Lets a folder be filled under another name; it gets its own when that has ended without an exception.

    Args:
        folder: Path of the folder, which does not exist yet.

    Yields:
        Path to fill, which does not exist either: what an interruption left there is deleted.
    """
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    yield unfinished
    unfinished.rename(folder)
