"""Data that cannot be read: for good, or because its store or the network fails, so that another try may succeed."""

from __future__ import annotations

import errno

from components.common import storage
from components.common.store_errors import NoCredentials
from components.example_gen.table import DatasetError

# Of a disk, a network file system or a machine that has too little of something, not of a path.
_OUTAGES = frozenset(
    {
        errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN,
        errno.ENETUNREACH, errno.ENETRESET, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.ENOTCONN,
        errno.EREMOTEIO, errno.EAGAIN, errno.EBUSY, errno.ENOMEM, errno.ENFILE, errno.EMFILE,
    }
)  # fmt: skip


class StoreError(DatasetError):
    """The data cannot be read at the moment; orchestrators try again."""


def is_outage(error: BaseException | None) -> bool:
    """Whether another try may succeed where a file or folder could not be read.

    Args:
        error: What reading it has raised. Errors of a bucket have no number (`storage`).
    """
    if isinstance(error, StoreError):
        return True
    if not isinstance(error, OSError) or isinstance(error, FileNotFoundError | PermissionError):
        return False
    # A missing package and an unknown scheme are settings.
    wrong_setting = isinstance(error.__cause__, ImportError) or type(error.__cause__) is ValueError
    return error.errno in _OUTAGES if error.errno is not None else not wrong_setting


def is_of_the_store(path: str, error: Exception) -> bool:
    """Whether one file of many cannot be read for a reason that is not its own, so that it must not be rejected.

    Args:
        path: Path of the file.
        error: What reading it has raised.
    """
    if storage.is_remote(path) and isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
        return True
    return is_outage(error) and getattr(error, "errno", None) != errno.EIO  # which a bad sector gives as well


def unreadable(what: str, error: Exception, advice: str = "") -> DatasetError:
    """The error to raise for data that cannot be read.

    Args:
        what: A sentence that says what cannot be read, and why.
        error: What reading it has raised.
        advice: A sentence that says what to do, unless another try may succeed.
    """
    if isinstance(error, StoreError | NoCredentials):  # which say what to do
        return StoreError(what)
    if is_outage(error):
        return StoreError(f"{what} Its store, disk or network fails: try again.")
    return DatasetError(f"{what} {advice}".strip())
