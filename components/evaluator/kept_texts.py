"""The texts of the images of an evaluation: Evaluator keeps them, so that the report need not ask the models again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import tensorflow as tf

from components.common.artifacts import write_text

FOLDER = "readings"
"""Folder in the evaluation artifact."""
CANDIDATE, BASELINE = "candidate", "baseline"
"""Names of the models in an evaluation."""

_folder: ContextVar[str] = ContextVar("_folder")


@contextlib.contextmanager
def keeping_in(folder: str) -> Iterator[None]:
    """Says where an evaluation that begins within the context keeps them: TFX cannot tell extractors."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def kept_in() -> str:
    """Folder of the evaluation that begins."""
    return _folder.get()


def write(rows: Iterable[dict[str, Any]], folder: str) -> None:
    """Adds the texts of some images; the same rows written again change nothing.

    Args:
        rows: An image each: `id`, and by the name of a model the text and its confidence by the name of a decoder.
        folder: Where they are kept.
    """
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    name = hashlib.sha256(content.encode()).hexdigest()[:16]
    write_text(os.path.join(folder, f"{name}.jsonl"), content)


def read(folder: str) -> dict[str, dict[str, Any]]:
    """Rows by the id of their image; see `write`."""
    rows: dict[str, dict[str, Any]] = {}
    for path in sorted(tf.io.gfile.glob(os.path.join(folder, "*.jsonl"))):
        with tf.io.gfile.GFile(path) as file:
            for line in file.read().split("\n")[:-1]:
                row = json.loads(line)
                rows[row["id"]] = row
    return rows
