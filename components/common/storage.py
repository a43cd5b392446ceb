"""Files here or in a bucket: paths with the standard library, addresses such as s3:// with fsspec.

fsspec is imported for an address only, so that commands on local files start at once. TensorFlow and Beam read buckets
with file systems of their own, which know other stores or none: what they read is copied here first (`here`).
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
import tempfile
import uuid
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from components.common.store_errors import as_os_error
from htr_client.whole_files import write_whole

_PIECE = 2**16  # bytes that are read at once
READERS = 16  # requests at once: enough to hide a store's latency
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}  # those of our extras; fsspec knows more schemes
# What changes with an object's content, under the names that stores give it; by preference.
_MARKS = ("ETag", "etag", "md5Hash", "mtime", "updated", "LastModified", "last_modified", "created")


class File(NamedTuple):
    """A file of a folder.

    Attributes:
        path: Path or address.
        stamp: Another one when the file was changed: size and time, in a bucket the store's digest.
    """

    path: str
    stamp: str


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
        OSError: The bucket cannot be reached.
    """
    return _info(path) is not None if is_remote(path) else os.path.exists(path)


def is_dir(path: str) -> bool:
    """Whether there is such a folder.

    Raises:
        OSError: The bucket cannot be reached.
    """
    if not is_remote(path):
        return os.path.isdir(path)
    found = _info(path)
    return found is not None and found["type"] == "directory"


def _info(path: str) -> dict[str, Any] | None:
    """What the store knows of an object or folder; None if there is none. fsspec's `isdir` would hide a refusal."""
    try:
        with _bucket(path) as bucket:
            return bucket.info(path)
    except FileNotFoundError:
        return None


def check_writable(folder: str) -> None:
    """Writes and removes a small file in a folder.

    Raises:
        OSError: It is not possible; the message says why.
    """
    probe = posixpath.join(folder, f".htr-writable-{uuid.uuid4().hex[:8]}")  # others may check it at once
    write(probe, b"")
    remove(probe)


def read(path: str, most: int = sys.maxsize, start: int = 0) -> bytes:
    """A file's content, or a part of it.

    Args:
        path: Path of the file.
        most: Number of bytes to read at most.
        start: Bytes to pass over.

    Raises:
        OSError: It cannot be read, or is no regular file.
    """
    if is_remote(path):
        return _read_object(path, most, start)
    # Python's file object asks the system six more questions, which for a small image take as long as all else here.
    descriptor = _open_regular(path, os.O_RDONLY)
    parts = []
    try:
        if start:
            os.lseek(descriptor, start, os.SEEK_SET)
        while part := os.read(descriptor, min(most, _PIECE)):
            parts.append(part)
            most -= len(part)
    finally:
        os.close(descriptor)
    return b"".join(parts)


def open_file(path: str) -> BinaryIO:
    """Opens a file for reading; one from a bucket is in memory.

    Raises:
        OSError: It cannot be read, or is no regular file: a pipe or a device may never come to an end.
    """
    return io.BytesIO(read(path)) if is_remote(path) else open(path, "rb", opener=_open_regular)


def _read_object(path: str, most: int, start: int) -> bytes:
    with _bucket(path) as bucket:
        if most == sys.maxsize and not start:
            return bucket.cat_file(path)
        try:  # without asking for the size, which would be another request
            return bucket.cat_file(path, start=start, end=min(start + most, sys.maxsize)) if most else b""
        except FileNotFoundError:
            raise
        except Exception:  # stores refuse a range that begins after the end, each in its way
            if bucket.size(path) <= start:
                return b""
            raise


def _open_regular(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK)  # without it, opening a pipe waits for someone who writes
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return descriptor


def write(path: str, content: bytes) -> None:
    """Writes a file that is seen whole or not at all; or to a device such as /dev/stdout.

    Raises:
        OSError: It cannot be written.
    """
    if is_remote(path):
        with _bucket(path) as bucket:
            bucket.pipe_file(path, content)
        return
    if os.path.isfile(path) or not os.path.exists(path):
        write_whole(path, content)
        return
    try:
        with open(path, "wb") as device:
            device.write(content)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error


def entries(folder: str) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files in a folder, sorted.

    Raises:
        OSError: It cannot be read.
    """
    if not is_remote(folder):
        with os.scandir(folder) as found:
            # os.path.isdir takes a link that leads nowhere or in circles for no folder; entry.is_dir() fails.
            kinds = sorted(
                (e.name, os.path.isdir(e.path) if e.is_symlink() else e.is_dir(follow_symlinks=False)) for e in found
            )
    else:
        with _bucket(folder) as bucket:
            # Some stores hold an empty object as the folder itself.
            objects = {_below(entry["name"], folder): entry["type"] for entry in bucket.ls(folder, detail=True)}
        kinds = sorted((name, kind == "directory") for name, kind in objects.items() if name)
    return [name for name, is_folder in kinds if is_folder], [name for name, is_folder in kinds if not is_folder]


def walk(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Each folder below and including a folder, with the names of its files, in order.

    Raises:
        OSError: One cannot be read.
    """
    if is_remote(folder):
        folders: dict[str, list[str]] = {folder: []}
        for file in files(folder):
            path, _, name = file.path.rpartition("/")
            folders.setdefault(path, []).append(name)
        yield from sorted(folders.items(), key=lambda item: item[0].split("/"))
        return
    waiting = [folder]
    while waiting:
        folder = waiting.pop()
        below, names = entries(folder)
        yield folder, names
        paths = [posixpath.join(folder, name) for name in below]
        waiting += [path for path in reversed(paths) if not os.path.islink(path)]


def files(folder: str) -> Iterator[File]:
    """All files below a folder; a bucket is asked once for a thousand of them.

    Raises:
        OSError: A folder cannot be read, or there is none.
    """
    if not is_remote(folder):
        yield from (File(path, stamp(path)) for path in _paths(folder))
        return
    with _bucket(folder) as bucket:
        found = bucket.find(folder, detail=True)
        if not found:
            raise FileNotFoundError(folder)
    for name, entry in sorted(found.items()):
        if entry["type"] == "file" and not name.endswith("/") and (below := _below(name, folder)):
            yield File(posixpath.join(folder, below), _stamp(entry))


def stamp(path: str) -> str:
    """The stamp of a file, as in `File`; empty if there is none."""
    if is_remote(path):
        found = _info(path)
        return _stamp(found) if found else ""
    try:
        status = os.stat(path)
    except OSError:  # a link that leads nowhere
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}"


def _stamp(entry: dict[str, Any]) -> str:
    mark = str(next((entry[key] for key in _MARKS if entry.get(key)), "")).strip('"')
    return f"{entry['size']}-{mark}"


def _paths(folder: str) -> Iterator[str]:
    return (posixpath.join(place, name) for place, names in walk(folder) for name in names)


def _below(name: str, folder: str) -> str:
    """Name of an object below a folder, which fsspec gives with the bucket and without the scheme."""
    place = folder.partition("://")[2].rstrip("/")
    return name.strip("/")[len(place) :].strip("/")


def copy_tree(source: str, target: str, last: str = "") -> None:
    """Copies a folder; either side may be in a bucket.

    Args:
        source: Folder.
        target: Folder, made if missing.
        last: Name of a file in `source` that is copied after all others.

    Raises:
        OSError: Something cannot be read or written.
    """
    source, target = source.rstrip("/"), target.rstrip("/")
    for path in sorted(_paths(source), key=lambda path: path == posixpath.join(source, last)):
        below = path.removeprefix(source)
        if ".." in below.split("/"):  # which an object may be called, but no file
            raise OSError(f"{path}: its name leads out of the folder")
        copy_file(path, target + below)


def copy_file(source: str, target: str) -> None:
    """Copies a file; either side may be in a bucket. The folder is made if missing.

    Raises:
        OSError: It cannot be read or written.
    """
    if not is_remote(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if is_remote(source):
            with _bucket(source) as bucket:
                bucket.get_file(source, target)
        else:
            with open_file(source) as original, open(target, "wb") as copy:
                shutil.copyfileobj(original, copy)
    elif is_remote(source):
        write(target, read(source))
    else:
        with _bucket(target) as bucket:
            bucket.put_file(source, target)


@contextlib.contextmanager
def here(folder: str) -> Iterator[str]:
    """Yields a folder of this machine with the content and name of a folder: itself, or a copy deleted at the end.

    Raises:
        OSError: It cannot be read.
    """
    if not is_remote(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        copy_tree(folder, copy := os.path.join(place, folder.rstrip("/").rpartition("/")[2]))  # a version's number
        yield copy


def remove(path: str) -> None:
    """Deletes a file.

    Raises:
        OSError: It cannot be deleted.
    """
    if not is_remote(path):
        os.remove(path)
        return
    with _bucket(path) as bucket:
        bucket.rm_file(path)


def remove_tree(folder: str, first: str = "") -> None:
    """Deletes a folder with all that is in it.

    Args:
        folder: Folder to delete.
        first: Name of a file in `folder` that is deleted before all others; in a bucket only.

    Raises:
        OSError: It cannot be deleted.
    """
    if not is_remote(folder):
        shutil.rmtree(folder)
        return
    paths = list(_paths(folder))
    before = [path for path in paths if path == posixpath.join(folder, first)]
    with _bucket(folder) as bucket:
        for some in filter(None, (before, [path for path in paths if path not in before])):
            bucket.rm(some)


def digest(folder: str) -> str:
    """SHA-256 of all files below a folder, with their names.

    Raises:
        OSError: One cannot be read.
    """
    total, folder = hashlib.sha256(), folder.rstrip("/")
    for path in _paths(folder):
        content = hashlib.sha256(read(path)).hexdigest()
        total.update(f"{path.removeprefix(folder)}\0{content}\n".encode())
    return total.hexdigest()


@functools.lru_cache(maxsize=8)
def _file_system(scheme: str) -> Any:
    """One for all threads: fsspec itself would make one for each, with connections of its own."""
    import fsspec

    return fsspec.filesystem(scheme, use_listings_cache=False)  # other processes write as well


os.register_at_fork(after_in_child=_file_system.cache_clear)


@contextlib.contextmanager
def _bucket(path: str) -> Iterator[Any]:
    """Yields the file system of an address; its errors become OSError, with the address."""
    scheme = path.partition("://")[0]
    try:
        bucket = _file_system(scheme)
    except ImportError as error:
        advice = f"pip install {_PACKAGES[scheme]}" if scheme in _PACKAGES else error
        raise OSError(f"{path}: the package for {scheme}:// is not installed: {advice}") from error
    except Exception as error:  # an unknown scheme, or settings that the store cannot do without
        raise OSError(f"{path}: {error}") from error
    try:
        yield bucket
    except Exception as error:
        raise as_os_error(path, error) from error
