"""Changes in the directory of numbered versions that a model server watches: push, roll back, restore.

Versions under a label (`serving.rollout.labels`) are neither deleted nor withdrawn.
No TFX or TensorFlow here: `htr versions` and `htr rollback` start at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator

from components.common import storage
from components.common.in_service import VersionError, config_in_bucket
from components.common.versions import Version, list_versions, offered
from components.common.words import counted
from serving.file_lock import LockHeld, NoLocks, locked
from serving.rollout.labels import RolloutError, labels_locked, pinned_versions
from serving.version_directory import GRAPH_FILE, WITHDRAWN, nothing_pushed

# Servers look at numeric names only, so what is being written or deleted may lie beside them.
_INCOMING, _OUTGOING = ".incoming-", ".outgoing-"
# Beside the versions as well. Not `.lock`: that is a workspace's, which may be the model directory.
_LOCK_FILE = ".versions.lock"
_PUSH_TAKES = 24 * 3600  # seconds at most
WITHDRAWN_VERSION = "withdrawn_version"
"""Property of PushedModel that is not pushed: path that the version with the same model had before it was withdrawn."""


def push(source: str, model_dir: str, keep: int) -> int:
    """Copies a SavedModel into a model directory as its newest version.

    A server that polls the directory sees the whole version or none: the copy is made under a name that servers pass
    over, flushed to disk, and renamed. Buckets cannot rename: there the graph is written last, as one object, and
    deleted first. Without it a version counts for none of our readers, and no server can load it: TensorFlow Serving
    tries again after a minute. Under labels it is not even tried before it is promoted.

    Args:
        source: Directory of the SavedModel.
        model_dir: Directory of the numbered versions; made if missing.
        keep: Versions that remain, this one included; older ones are deleted, as are leftovers of broken pushes that
            began more than a day ago. Versions that a label needs, or its rollback, stay in any case; all do in a
            bucket with labels.

    Returns:
        The version's number: the Unix time in seconds, or one more than the greatest number ever used here.

    Raises:
        VersionError: It is not known which versions have labels.
        OSError: Something cannot be read or written.
    """
    if storage.is_remote(model_dir):
        return _push_to_bucket(source, model_dir, keep)
    os.makedirs(model_dir, exist_ok=True)
    with _locked(model_dir):
        return _push(source, model_dir, keep)


def _push(source: str, model_dir: str, keep: int) -> int:
    _pinned(model_dir)  # fails before anything is copied
    _delete_leftovers(model_dir)
    # A name of its own: where the file system has no locks, another machine may push at the same time.
    incoming = os.path.join(model_dir, f"{_INCOMING}{uuid.uuid4().hex}")
    try:
        storage.copy_tree(source, incoming)
        for folder, _, files in os.walk(incoming):
            for name in files:
                _flush(os.path.join(folder, name))
            _flush(folder)
        number = _publish(incoming, model_dir)
    except OSError:
        shutil.rmtree(incoming, ignore_errors=True)  # the disk may be full, and servers write to it as well
        raise
    _flush(model_dir)
    _delete_old(model_dir, keep)
    return number


def _delete_old(model_dir: str, keep: int) -> None:
    """Deletes all versions but the newest, and those that have a label by now."""
    outgoing = []
    with _labels_kept(model_dir, wait=True):
        served, earlier = _pinned(model_dir)
        for version in offered(model_dir)[:-keep]:
            if version.number not in served | earlier:
                aside = os.path.join(model_dir, f"{_OUTGOING}{uuid.uuid4().hex}")
                with contextlib.suppress(FileNotFoundError):  # another machine deletes it
                    os.rename(version.path, aside)  # a server must not see half of it, whatever happens meanwhile
                    outgoing.append(aside)
    for aside in outgoing:
        _delete(aside)


def _publish(incoming: str, model_dir: str) -> int:
    number = _next_number(model_dir)
    while True:
        try:
            os.rename(incoming, os.path.join(model_dir, str(number)))
            return number
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        number = max(number + 1, _next_number(model_dir))  # another machine has just taken that one


def _delete_leftovers(model_dir: str) -> None:
    """Deletes what broken pushes have left: by age, since a push on another machine need not see our lock."""
    for name in os.listdir(model_dir):
        path = os.path.join(model_dir, name)
        with contextlib.suppress(FileNotFoundError):
            old = name.startswith(_INCOMING) and os.stat(path).st_mtime < time.time() - _PUSH_TAKES
            if old or name.startswith(_OUTGOING):
                _delete(path)


def _delete(folder: str) -> None:
    """Deletes a folder that another machine may be deleting too."""

    def failed(_function: object, _path: str, reason: tuple[type[BaseException], BaseException, object]) -> None:
        if not isinstance(reason[1], FileNotFoundError):
            raise reason[1]

    shutil.rmtree(folder, onerror=failed)


def _next_number(model_dir: str) -> int:
    return max([int(time.time()), *(v.number + 1 for v in list_versions(model_dir, unfinished=True))])


def _push_to_bucket(source: str, model_dir: str, keep: int) -> int:
    number = _next_number(model_dir)
    storage.copy_tree(source, f"{model_dir.rstrip('/')}/{number}", last=GRAPH_FILE)
    if not storage.exists(config_in_bucket(model_dir)):
        finished = list_versions(model_dir)
        # Nothing is locked here: what is unfinished and younger may be another run's push.
        broken = [
            version
            for version in list_versions(model_dir, unfinished=True)
            if version not in finished and version.number < number - _PUSH_TAKES
        ]
        for version in finished[:-keep] + broken:
            storage.remove_tree(version.path, first=GRAPH_FILE)
    return number


def roll_back(model_dir: str, options: str = "") -> tuple[int, int]:
    """Withdraws the newest version, so that servers go back to the one before.

    Args:
        model_dir: Directory of the numbered versions.
        options: What suggested `htr` commands need besides.

    Returns:
        The withdrawn version's number and that of the version which is now the newest.

    Raises:
        VersionError: There is no earlier version, the newest has a label, a label is being moved, a push has brought
            a newer one meanwhile, or the directory is in a bucket.
    """
    if storage.is_remote(model_dir):
        raise VersionError(
            f"{model_dir} is in a bucket, where versions cannot be renamed. Move the folder of the newest version out "
            "of it with the bucket's own tools: servers then go back to the one before."
        )
    if not list_versions(model_dir):
        raise VersionError(nothing_pushed(model_dir, options))
    meant = offered(model_dir)[-1:]
    with _locked(model_dir):
        return _withdraw(model_dir, meant, options)


def _withdraw(model_dir: str, meant: list[Version], options: str) -> tuple[int, int]:
    serving = offered(model_dir)
    if serving[-1:] != meant:  # who asked saw another one fail
        raise VersionError(
            f"Another process has just changed what is the newest version in {model_dir}, so nothing is withdrawn. "
            f"Look at htr versions{options}. htr rollback{options} withdraws version {serving[-1].number} now."
            if serving else f"Another process has just withdrawn the versions in {model_dir}."
        )  # fmt: skip
    if len(serving) < 2:
        raise VersionError(f"{model_dir} holds {counted(len(serving), 'version')}: there is none to go back to.")
    newest = serving[-1]
    with _labels_kept(model_dir, wait=False):
        if newest.number in _pinned(model_dir)[0]:
            raise VersionError(
                f"Version {newest.number} is served under a label, which would answer no more. Move the label: "
                f"htr rollback{options} --label LABEL --server HOST:PORT"
            )
        os.rename(newest.path, os.path.join(model_dir, f"{WITHDRAWN}{newest.number}"))
    _flush(model_dir)
    return newest.number, serving[-2].number


def restore(model_dir: str, number: int) -> int:
    """Brings a withdrawn version back.

    Args:
        model_dir: Directory of the numbered versions.
        number: Number of the version.

    Returns:
        The version that is now the newest.

    Raises:
        VersionError: No such version is withdrawn, or the directory is in a bucket.
    """
    if storage.is_remote(model_dir):
        raise VersionError(
            f"{model_dir} is in a bucket, where versions cannot be renamed. Move the folder of the version back with "
            "the bucket's own tools."
        )
    _find_withdrawn(model_dir, number)  # where there is no such directory nothing can be locked
    with _locked(model_dir):
        os.rename(_find_withdrawn(model_dir, number).path, os.path.join(model_dir, str(number)))
        _flush(model_dir)
    return offered(model_dir)[-1].number


def _find_withdrawn(model_dir: str, number: int) -> Version:
    found = {version.number: version for version in list_versions(model_dir)}
    withdrawn = ", ".join(str(version.number) for version in found.values() if version.withdrawn) or "none"
    if number not in found:
        raise VersionError(f"There is no version {number} in {model_dir}. Withdrawn are: {withdrawn}.")
    if not found[number].withdrawn:
        raise VersionError(f"Version {number} of {model_dir} is not withdrawn. Withdrawn are: {withdrawn}.")
    return found[number]


def why_withheld(number: int, options: str = "") -> str:
    """Why a model is not pushed that a person has taken out of service, as the end of a sentence.

    Args:
        number: Number of the withdrawn version.
        options: What `htr restore` needs besides.
    """
    return (
        f"this model is version {number}, which `htr rollback` has withdrawn; `htr restore {number}{options}` brings "
        "it back"
    )


@contextlib.contextmanager
def _locked(model_dir: str) -> Iterator[None]:
    """Waits until no other process pushes into the directory or withdraws from it, and says so."""
    path = os.path.join(model_dir, _LOCK_FILE)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(NoLocks):  # pushes that overlap are whole all the same
            try:
                stack.enter_context(locked(path))
            except LockHeld:
                from components.common.console import announced

                # A push copies a whole version, which may take minutes on a network file system.
                with announced(f"Waiting for the end of a push into {model_dir}", after=0.2):
                    stack.enter_context(locked(path, wait=True))
        yield


@contextlib.contextmanager
def _labels_kept(model_dir: str, wait: bool) -> Iterator[None]:
    """Keeps the labels where they are, so that no version gets one while it is deleted or withdrawn.

    Where there are no locks no label is moved either (`serving.rollout.moving`). Nor is one by this user where only
    others may write beside the model directory; of them, nobody can be kept out.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(labels_locked(model_dir, wait))
        except LockHeld as error:
            raise VersionError(f"A label is being moved. Try again when that has ended. {error}") from None
        except OSError as error:
            if not (isinstance(error, NoLocks) or error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)):
                raise
        yield


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
