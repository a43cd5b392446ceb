"""Files that are seen whole or not at all."""

import contextlib
import errno
import os
import uuid


def write_whole(path: str | os.PathLike[str], data: bytes, *, new: bool = False, mode: int | None = None) -> None:
    """Writes a file that is seen whole or not at all, also after a power cut, whoever writes it at the same time.

    Args:
        path: Path of the file. One that is there is replaced.
        data: Content.
        new: Whether a file that is there is an error instead.
        mode: Permissions, whatever the umask; by default those of any new file.

    Raises:
        OSError: It cannot be written; with its path.
    """
    # A short name of its own: neither another process's, nor longer than file systems allow.
    incoming = os.path.join(os.path.dirname(path), f".{uuid.uuid4().hex}")
    # With its permissions from the start: nobody has opened it before it got them.
    allowed = 0o666 if mode is None else mode
    try:
        with open(incoming, "xb", opener=lambda name, flags: os.open(name, flags, allowed)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave an empty file with the name
        if mode is not None:
            os.chmod(incoming, mode)
        if new:
            _publish_new(incoming, path)
        else:
            os.replace(incoming, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    finally:
        with contextlib.suppress(OSError):
            os.remove(incoming)


def _publish_new(incoming: str, path: str | os.PathLike[str]) -> None:
    """Gives a file its name unless there is one of that name."""
    try:
        os.link(incoming, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
        os.replace(incoming, path)
