"""Files here or in a bucket: paths with the standard library, addresses such as gs:// with TensorFlow's file systems.

TensorFlow is imported for an address only, so that commands on local files start at once.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import io
import os
import posixpath
import shutil
import stat
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

_PIECE = 2**16  # bytes that are read at once


def is_remote(path: str) -> bool:
    """Whether the path is an address such as gs://bucket/folder."""
    return "://" in path


def absolute(path: str) -> str:
    """The path without `.` and `..`, from the root or with its scheme; symbolic links stay."""
    if not is_remote(path):
        return os.path.abspath(path)
    scheme, _, rest = path.partition("://")
    return f"{scheme}://{posixpath.normpath(rest)}"


def is_inside(path: str, folder: str) -> bool:
    """Whether a path lies in a folder, when symbolic links have been followed."""
    if is_remote(path):
        return f"{absolute(path)}/".startswith(f"{absolute(folder)}/")
    if os.path.islink(path):
        return _is_really_inside(path, folder)
    # Most files of a dataset lie in one folder, whose answer is kept.
    return path == folder or _is_folder_inside(os.path.dirname(path), folder)


def is_plain_file(path: str) -> bool:
    """Whether this is a regular file of this machine, not a symbolic link."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except (OSError, ValueError):  # there is none, or its name holds a NUL
        return False


def _is_really_inside(path: str, folder: str) -> bool:
    return f"{os.path.realpath(path)}/".startswith(f"{os.path.realpath(folder)}/")


_is_folder_inside = functools.lru_cache(maxsize=1024)(_is_really_inside)


def exists(path: str) -> bool:
    """Whether there is such a file or folder.

    Raises:
        OSError: the bucket cannot be reached.
    """
    if not is_remote(path):
        return os.path.exists(path)
    with _bucket(path) as bucket:
        return bucket.exists(path)


def is_dir(path: str) -> bool:
    """Whether there is such a folder.

    Raises:
        OSError: the bucket cannot be reached.
    """
    if not is_remote(path):
        return os.path.isdir(path)
    with _bucket(path) as bucket:
        return bucket.isdir(path)


def read(path: str, most: int = sys.maxsize) -> bytes:
    """A file's content, or its first bytes.

    Args:
        path: of the file.
        most: number of bytes to read at most.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    if is_remote(path):
        with open_file(path) as file:
            return file.read(most)
    # Python's file object asks the system six more questions, which for a small image take as long as all else here.
    descriptor = _open_regular(path, os.O_RDONLY)
    parts = []
    try:
        while part := os.read(descriptor, min(most, _PIECE)):
            parts.append(part)
            most -= len(part)
    finally:
        os.close(descriptor)
    return b"".join(parts)


def open_file(path: str) -> BinaryIO:
    """Opens a file for reading; one from a bucket is in memory.

    Raises:
        OSError: it cannot be read, or is no regular file: a pipe or a device may never come to an end.
    """
    if not is_remote(path):
        return open(path, "rb", opener=_open_regular)
    with _bucket(path) as bucket, bucket.GFile(path, "rb") as file:
        return io.BytesIO(file.read())


def _open_regular(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK)  # without it, opening a pipe waits for someone who writes
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return descriptor


def write_text(path: str, text: str) -> None:
    """Writes a file of this machine, in UTF-8, that is seen whole or not at all; or to a device such as /dev/stdout.

    Raises:
        OSError: it cannot be written.
    """
    incoming = path if os.path.exists(path) and not os.path.isfile(path) else f"{path}.incoming"
    try:
        with open(incoming, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        if incoming != path:
            os.replace(incoming, path)
    except OSError as error:
        if incoming != path:
            with contextlib.suppress(OSError):
                os.remove(incoming)
        raise OSError(error.errno, error.strerror, path) from error


def entries(folder: str) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files in a folder, sorted.

    Raises:
        OSError: it cannot be read.
    """
    if not is_remote(folder):
        with os.scandir(folder) as found:
            # os.path.isdir takes a link that leads nowhere or in circles for no folder; entry.is_dir() fails.
            kinds = sorted(
                (e.name, os.path.isdir(e.path) if e.is_symlink() else e.is_dir(follow_symlinks=False)) for e in found
            )
    else:
        with _bucket(folder) as bucket:
            names = sorted(bucket.listdir(folder))
        kinds = []
        for name in names:
            # Buckets mark folders with a slash; asking for each image would be a request for each.
            bare = name.rstrip("/")
            kinds.append((bare, name != bare or ("." not in bare and is_dir(posixpath.join(folder, bare)))))
    return [name for name, is_folder in kinds if is_folder], [name for name, is_folder in kinds if not is_folder]


def walk(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Each folder below and including a folder, with the names of its files, in order.

    Raises:
        OSError: one cannot be read.
    """
    waiting = [folder]
    while waiting:
        folder = waiting.pop()
        folders, files = entries(folder)
        yield folder, files
        paths = [posixpath.join(folder, name) for name in folders]
        waiting += [path for path in reversed(paths) if is_remote(path) or not os.path.islink(path)]


def copy_tree(source: str, target: str, last: str = "") -> None:
    """Copies a folder; either side may be in a bucket.

    Args:
        source: folder.
        target: folder, made if missing.
        last: name of a file in `source` that is copied after all others.

    Raises:
        OSError: something cannot be read or written.
    """
    paths = [posixpath.join(folder, name) for folder, files in walk(source) for name in files]
    for path in sorted(paths, key=lambda path: path == posixpath.join(source, last)):
        destination = target + path.removeprefix(source)
        if is_remote(destination):
            with _bucket(destination) as bucket:
                bucket.makedirs(posixpath.dirname(destination))
                with bucket.GFile(destination, "wb") as file:
                    file.write(read(path))
        else:
            os.makedirs(os.path.dirname(destination), exist_ok=True)
            with open_file(path) as original, open(destination, "wb") as copy:
                shutil.copyfileobj(original, copy)


def remove_tree(folder: str) -> None:
    """Deletes a folder with all that is in it.

    Raises:
        OSError: it cannot be deleted.
    """
    if not is_remote(folder):
        shutil.rmtree(folder)
        return
    with _bucket(folder) as bucket:
        bucket.rmtree(folder)


def digest(folder: str) -> str:
    """SHA-256 of all files below a folder, with their names.

    Raises:
        OSError: one cannot be read.
    """
    total = hashlib.sha256()
    for path, files in walk(folder):
        for name in files:
            content = hashlib.sha256(read(posixpath.join(path, name))).hexdigest()
            total.update(f"{path.removeprefix(folder)}/{name}\0{content}\n".encode())
    return total.hexdigest()


@contextlib.contextmanager
def _bucket(path: str) -> Iterator[Any]:
    """Yields tf.io.gfile for an address; its errors become OSError."""
    import tensorflow as tf

    if path.startswith("s3://"):
        try:
            import tensorflow_io  # noqa: F401 - its import registers the file system
        except ImportError as error:
            raise OSError(
                f"{path}: s3:// needs the package tensorflow-io of this TensorFlow, which is not installed. Install "
                "it, or mount the bucket and use its path."
            ) from error
    try:
        yield tf.io.gfile
    except tf.errors.OpError as error:
        raise OSError(f"{path}: {error.message}") from error
