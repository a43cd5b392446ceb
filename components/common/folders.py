"""Folders that are whole or not there, and the disks that they are on."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from serving import file_lock


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
def emptied_on_error(folder: Path) -> Iterator[None]:
    """Deletes a folder that was new or empty if what fills it ends with an exception: the same command can try again.

    Args:
        folder: Path of the folder; the error of a full disk then names it.
    """
    try:
        yield
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            error.filename = str(folder)
        raise


@contextlib.contextmanager
def made_whole(folder: Path) -> Iterator[Path]:
    """Lets a folder be filled under another name; it gets its own when that has ended without an exception.

    Args:
        folder: Path of the folder, which does not exist yet, or is empty; or of a link to such a folder.

    Yields:
        Path to fill, which does not exist: what a kill left there is deleted.

    Raises:
        LockHeld: Another process fills it.
        OSError: It is not empty, or cannot be replaced, such as a mount point.
    """
    folder = folder.resolve()
    if folder.exists():  # now, rather than when the work is done
        folder.rmdir()
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    lock = str(unfinished / ".lock")
    held = file_lock.LockHeld(
        f"Another command writes {folder} and holds {lock}. Wait for it to end, or name another folder."
    )
    with contextlib.ExitStack() as alone:
        with contextlib.suppress(file_lock.NoLocks):
            alone.enter_context(file_lock.locked(lock, held=held))
        with emptied_on_error(unfinished):
            target = unfinished / folder.name
            if target.exists():
                shutil.rmtree(target)
            yield target
        target.rename(folder)
    # Behind the lock: on NFS an open file's name stays in its folder, which is then not empty.
    shutil.rmtree(unfinished, ignore_errors=True)
