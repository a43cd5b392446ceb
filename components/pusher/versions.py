"""The directory of numbered versions that a model server watches: push, list, roll back.

Versions under a label (`serving.rollout`) are neither deleted nor withdrawn.
No TFX or TensorFlow here: `htr versions` and `htr rollback` start at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass

from components import storage
from serving.rollout import CONFIG_FILE, RolloutError, pinned_versions

# Servers look at numeric names only, so what is being written or deleted or has been withdrawn may lie beside them.
_INCOMING, _OUTGOING, _WITHDRAWN = ".incoming-", ".outgoing-", ".withdrawn-"


class VersionError(RuntimeError):
    """A version cannot be pushed or withdrawn; the message says why."""


@dataclass(frozen=True)
class Version:
    """A pushed version.

    Attributes:
        number: of the version; the greatest is the newest.
        path: its directory.
        withdrawn: True after a rollback.
    """

    number: int
    path: str
    withdrawn: bool


def list_versions(model_dir: str) -> list[Version]:
    """All versions below a model directory, oldest first, with those that were withdrawn."""
    found = []
    for name in storage.entries(model_dir)[0] if storage.is_dir(model_dir) else ():
        withdrawn = name.startswith(_WITHDRAWN)
        number = name.removeprefix(_WITHDRAWN)
        if number.isdigit():
            found.append(Version(int(number), os.path.join(model_dir, name), withdrawn))
    return sorted(found, key=lambda version: version.number)


def in_service(model_dir: str) -> list[Version]:
    """The versions below a model directory that have not been withdrawn, oldest first."""
    return [version for version in list_versions(model_dir) if not version.withdrawn]


def holds(version: Version, model: str) -> bool:
    """Whether a version is a copy of the SavedModel in the directory `model`."""
    return storage.digest(version.path) == storage.digest(model)


def push(source: str, model_dir: str, keep: int) -> int:
    """Copies a SavedModel into a model directory as its newest version.

    A server that polls the directory sees the whole version or none: the copy is made under a name that servers pass
    over, flushed to disk, and renamed. Buckets cannot rename: there the graph is copied last, without which a version
    does not load, and a server tries again. Under labels it is not even tried before it is promoted.

    Args:
        source: directory of the SavedModel.
        model_dir: directory of the numbered versions; made if missing.
        keep: versions that remain, this one included; older ones are deleted, as are leftovers of broken pushes.
            Versions that a label needs, or its rollback, stay in any case; all do in a bucket with labels.

    Returns:
        The version's number: the Unix time in seconds, or one more than the greatest number ever used here.

    Raises:
        VersionError: it is not known which versions bear labels.
        OSError: something cannot be read or written.
    """
    if storage.is_remote(model_dir):
        return _push_to_bucket(source, model_dir, keep)
    os.makedirs(model_dir, exist_ok=True)
    with _locked(model_dir):
        return _push(source, model_dir, keep)


def _push(source: str, model_dir: str, keep: int) -> int:
    served, earlier = _pinned(model_dir)
    for name in os.listdir(model_dir):
        if name.startswith((_INCOMING, _OUTGOING)):
            shutil.rmtree(os.path.join(model_dir, name))
    number = _next_number(model_dir)
    incoming = os.path.join(model_dir, f"{_INCOMING}{number}")
    try:
        storage.copy_tree(source, incoming)
        for folder, _, files in os.walk(incoming):
            for name in files:
                _flush(os.path.join(folder, name))
            _flush(folder)
    except OSError:
        shutil.rmtree(incoming, ignore_errors=True)  # the disk may be full, and servers write to it as well
        raise
    os.rename(incoming, os.path.join(model_dir, str(number)))
    _flush(model_dir)
    for version in in_service(model_dir)[:-keep]:
        if version.number not in served | earlier:
            outgoing = os.path.join(model_dir, f"{_OUTGOING}{version.number}")
            os.rename(version.path, outgoing)  # a server must not see half of it, whatever happens meanwhile
            shutil.rmtree(outgoing)
    return number


def _next_number(model_dir: str) -> int:
    return max([int(time.time()), *(version.number + 1 for version in list_versions(model_dir))])


def _push_to_bucket(source: str, model_dir: str, keep: int) -> int:
    model_dir = model_dir.rstrip("/")  # else the labels beside it would be looked for within
    number = _next_number(model_dir)
    storage.copy_tree(source, f"{model_dir}/{number}", last="saved_model.pb")
    if not storage.exists(f"{model_dir.rpartition('/')[0]}/{CONFIG_FILE}"):
        for version in list_versions(model_dir)[:-keep]:
            storage.remove_tree(version.path)
    return number


def roll_back(model_dir: str) -> tuple[int, int]:
    """Withdraws the newest version, so that servers go back to the one before.

    Args:
        model_dir: directory of the numbered versions.

    Returns:
        The withdrawn version's number and that of the version which is now the newest.

    Raises:
        VersionError: there is no earlier version, the newest bears a label, or the directory is in a bucket.
    """
    if storage.is_remote(model_dir):
        raise VersionError(
            f"{model_dir} is in a bucket, where versions cannot be renamed. Move the folder of the newest version out "
            "of it with the bucket's own tools: servers then go back to the one before."
        )
    if not os.path.isdir(model_dir):
        raise VersionError(f"{model_dir} does not exist: there is none to go back to.")
    with _locked(model_dir):
        return _withdraw(model_dir)


def _withdraw(model_dir: str) -> tuple[int, int]:
    serving = in_service(model_dir)
    if len(serving) < 2:
        raise VersionError(f"{model_dir} holds {len(serving)} version(s): there is none to go back to.")
    newest = serving[-1]
    if newest.number in _pinned(model_dir)[0]:
        raise VersionError(
            f"Version {newest.number} is served under a label, which would answer no more. Move the label: "
            "htr rollback --label LABEL --server HOST:PORT"
        )
    os.rename(newest.path, os.path.join(model_dir, f"{_WITHDRAWN}{newest.number}"))
    _flush(model_dir)
    return newest.number, serving[-2].number


@contextlib.contextmanager
def _locked(model_dir: str) -> Iterator[None]:
    """Waits until no other process pushes into the directory or withdraws from it."""
    descriptor = os.open(model_dir, os.O_RDONLY)
    try:
        # Not every network file system can lock a directory; there two runs must not push at once.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _pinned(model_dir: str) -> tuple[set[int], set[int]]:
    try:
        return pinned_versions(model_dir)
    except RolloutError as error:
        raise VersionError(str(error)) from error


def _flush(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
