"""Locks between processes, also those of several machines where their file system has such locks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class LockHeld(RuntimeError):
    """Another process holds the lock."""


class NoLocks(OSError):
    """The file system has no locks."""


@contextlib.contextmanager
def locked(path: str, wait: bool = False, held: Exception | None = None) -> Iterator[None]:
    """Holds the lock of a file; the kernel drops it when the process ends, however it ends.

    NFS locks regular files that are open for writing, but no directories. The file stays behind, empty: after its
    deletion two processes could hold the locks of two files with its name.

    Args:
        path: File to lock; made if missing, for everybody who may write into its directory.
        wait: Whether to wait while another process holds the lock.
        held: What is raised instead of `LockHeld`.

    Raises:
        LockHeld: Another process holds the lock, and `wait` is false.
        NoLocks: The file system has no locks.
        OSError: The file cannot be opened for writing.
    """
    descriptor = _open(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise held or LockHeld(f"Another process has locked {path}.") from None
        except OSError as error:
            kind = NoLocks if error.errno in _NO_LOCKS else OSError
            raise kind(error.errno, f"cannot be locked: {error.strerror}", path) from None
        yield
    finally:
        os.close(descriptor)


def _open(path: str) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return os.open(path, os.O_RDWR)
    with contextlib.suppress(OSError):  # not every network file system has permissions
        os.fchmod(descriptor, os.stat(os.path.dirname(path) or ".").st_mode & 0o222 | 0o444)
    return descriptor
