"""The state of a training as one file that is always whole, and the name under which a later process finds it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import time
import uuid
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from components.common import code_version
from components.common.console import console

CHECKPOINT_FILE = "checkpoint.npz"
_INCOMING = f"{CHECKPOINT_FILE}.incoming-"
_STALE_SECONDS = 3600.0  # of a file that a process which was killed has not finished
_ABANDONED_SECONDS = 30 * 24 * 3600.0
_STATE_DIRECTORY = re.compile(r"(lines-)?[0-9a-f]{16}(-\w+)?")


def values_of(parts: Mapping[str, Sequence[Any]]) -> dict[str, np.ndarray]:
    """The values of variables by name, as `save` takes them.

    Args:
        parts: Variables by the name of their part; their order tells them apart.
    """
    return {f"{part}/{i}": v.numpy() for part, variables in parts.items() for i, v in enumerate(variables)}


def assign(parts: Mapping[str, Sequence[Any]], arrays: Mapping[str, np.ndarray]) -> None:
    """Gives variables the values that `values_of` took from them.

    Args:
        parts: As for `values_of`.
        arrays: Values by name; others may be among them.
    """
    for part, variables in parts.items():
        for i, variable in enumerate(variables):
            variable.assign(arrays[f"{part}/{i}"])


def save(path: str, arrays: Mapping[str, np.ndarray], progress: Mapping[str, Any]) -> None:
    """Writes a state: the file is the old one or the new one, never a part, also where two runs write the same one.

    Args:
        path: Path of the file; its directory is made.
        arrays: Values of all variables by name.
        progress: What else is to be known, as JSON holds it.
    """
    buffer = io.BytesIO()
    np.savez(buffer, progress=np.frombuffer(json.dumps(progress).encode(), np.uint8), **arrays)
    directory = os.path.dirname(path)
    tf.io.gfile.makedirs(directory)
    _remove_stale(directory)
    incoming = os.path.join(directory, f"{_INCOMING}{uuid.uuid4().hex}")
    try:
        with tf.io.gfile.GFile(incoming, "wb") as file:
            file.write(buffer.getvalue())
        tf.io.gfile.rename(incoming, path, overwrite=True)
    except BaseException:
        with contextlib.suppress(tf.errors.OpError):
            tf.io.gfile.remove(incoming)
        raise


def load(path: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Reads a state.

    Args:
        path: Path of the file.

    Returns:
        What `save` was given; None where there is no file, or, said in words, a damaged one.
    """
    for is_last in (False, True):
        try:
            with tf.io.gfile.GFile(path, "rb") as file:
                arrays = dict(np.load(io.BytesIO(file.read()), allow_pickle=False))
            return arrays, json.loads(arrays.pop("progress").tobytes())
        except tf.errors.NotFoundError:
            return None
        except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            if is_last:  # at first another run may have put its own file there while this one was read
                console().print(f"  {path} is damaged ({error}): the training starts anew", markup=False)
    return None


def forget(directory: str) -> None:
    """Deletes the state of a training that has been used, and beside it those that were abandoned 30 days ago.

    Args:
        directory: Directory of the state, among those of other trainings; another run may be using it, too.
    """
    _remove(os.path.join(directory, CHECKPOINT_FILE))
    _remove_stale(directory)
    parent = os.path.dirname(directory)
    for name in _names(parent):
        sibling = os.path.join(parent, name)
        if sibling != directory and _STATE_DIRECTORY.fullmatch(name) and _is_abandoned(sibling):
            with contextlib.suppress(tf.errors.NotFoundError):
                tf.io.gfile.rmtree(sibling)


def _is_abandoned(directory: str) -> bool:
    """Whether this holds nothing but states, and none has been written for long."""
    names = _names(directory)
    ages = [_age(path) for path in (directory, *(os.path.join(directory, name) for name in names))]
    return all(name.startswith(CHECKPOINT_FILE) for name in names) and min(ages) > _ABANDONED_SECONDS


def _remove_stale(directory: str) -> None:
    for name in _names(directory):
        path = os.path.join(directory, name)
        if name.startswith(_INCOMING) and _age(path) > _STALE_SECONDS:
            _remove(path)


def _names(directory: str) -> list[str]:
    try:
        return [name.rstrip("/") for name in tf.io.gfile.listdir(directory)]
    except tf.errors.NotFoundError:
        return []


def _age(path: str) -> float:
    """Seconds since a file was written; 0 where it has just been deleted."""
    try:
        return time.time() - tf.io.gfile.stat(path).mtime_nsec / 1e9
    except tf.errors.NotFoundError:
        return 0.0


def _remove(path: str) -> None:
    with contextlib.suppress(tf.errors.NotFoundError):  # another run has deleted it
        tf.io.gfile.remove(path)


def has_checkpoint(directory: str) -> bool:
    """Whether an interrupted training has left its state in a directory."""
    return tf.io.gfile.exists(os.path.join(directory, CHECKPOINT_FILE))


def fingerprint(files: Sequence[str], *settings: str, module: str) -> str:
    """Name of a training: the same for the same files (path and size), settings and code, so that it can be resumed.

    Args:
        files: Examples that it learns from.
        settings: Whatever else decides about the result.
        module: Whose code it is, with all that it imports.
    """
    parts = [
        code_version.digest([module]),
        *settings,
        *(f"{file} {tf.io.gfile.stat(file).length}" for file in sorted(files)),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
