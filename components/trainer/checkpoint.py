"""The state of a training as one file that is always whole, and the name under which a later process finds it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from components.common import code_version
from components.common.console import console

CHECKPOINT_FILE = "checkpoint.npz"


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
    """Writes a state: the file is the old one or the new one, never a part.

    Args:
        path: Path of the file; its directory is made.
        arrays: Values of all variables by name.
        progress: What else is to be known, as JSON holds it.
    """
    buffer = io.BytesIO()
    np.savez(buffer, progress=np.frombuffer(json.dumps(progress).encode(), np.uint8), **arrays)
    tf.io.gfile.makedirs(os.path.dirname(path))
    incoming = f"{path}.incoming"
    with tf.io.gfile.GFile(incoming, "wb") as file:
        file.write(buffer.getvalue())
    tf.io.gfile.rename(incoming, path, overwrite=True)


def load(path: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Reads a state.

    Args:
        path: Path of the file.

    Returns:
        What `save` was given; None where there is no file, or, said in words, a damaged one.
    """
    if not tf.io.gfile.exists(path):
        return None
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            arrays = dict(np.load(io.BytesIO(file.read()), allow_pickle=False))
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        console().print(f"  {path} is damaged ({error}): the training starts anew", markup=False)
        return None
    return arrays, json.loads(arrays.pop("progress").tobytes())


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
