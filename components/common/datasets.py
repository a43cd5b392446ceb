"""Files as TensorFlow reads and writes them, and tf.data pipelines that end when they are read."""

from __future__ import annotations

import os
from collections.abc import Sequence

import tensorflow as tf


def expand(patterns: Sequence[str]) -> list[str]:
    """The files that patterns stand for, sorted.

    Args:
        patterns: Patterns such as `.../Split-train/*`.
    """
    return sorted(file for pattern in patterns for file in tf.io.gfile.glob(pattern))


def write_text(path: str, text: str) -> None:
    """Writes a file in UTF-8, as `components.common.artifacts.write_text`, where TFX is not needed.

    Args:
        path: Path of the file; its folder is made if missing.
        text: Content.
    """
    tf.io.gfile.makedirs(os.path.dirname(path))
    with tf.io.gfile.GFile(path, "w") as file:
        file.write(text)


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The same dataset without the thread that tunes its parallelism while it is read.

    That thread looks at the dataset ever more rarely, up to a minute apart, and whoever lets go of the iterator waits
    for it: now and then it misses the signal to end (TensorFlow 2.16, `Model::OptimizeLoop`), and a training of 20
    seconds ended after 40. Without it `tf.data.AUTOTUNE` means as many calls at once as there are cores, 16 at most.

    Args:
        dataset: What an iterator is made of; also of those that are derived from it.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
