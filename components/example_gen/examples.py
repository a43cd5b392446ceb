"""Reads the examples that ExampleGen has written, one at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from components.common.datasets import untuned
from components.example_gen.measures import NUMBERS

_INTEGERS = ("width", "height", "text_length")
_TEXTS = ("id", "source", "writer", "length_band", "text")


def records(examples_uri: str, split: str) -> Iterator[dict[str, Any]]:
    """The examples of a split: `image` bytes, `_TEXTS` str, `NUMBERS` int or float, in the order of the files.

    Args:
        examples_uri: URI of the Examples artifact.
        split: Name of the split.
    """
    spec: dict[str, Any] = {name: tf.io.FixedLenFeature([], tf.string) for name in ("image", *_TEXTS)}
    for name in NUMBERS:
        spec[name] = tf.io.FixedLenFeature([], tf.int64 if name in _INTEGERS else tf.float32)
    dataset = _batches(examples_uri, split).map(lambda examples: tf.io.parse_example(examples, spec))
    for batch in dataset.prefetch(1).as_numpy_iterator():
        for values in zip(*batch.values(), strict=True):
            record = dict(zip(batch, values, strict=True))
            yield {**record, **{name: record[name].decode() for name in _TEXTS}}


def serialized(examples_uri: str, split: str) -> Iterator[bytes]:
    """The same examples as serialized tf.Examples.

    Args:
        examples_uri: URI of the Examples artifact.
        split: Name of the split.
    """
    for batch in _batches(examples_uri, split).prefetch(1).as_numpy_iterator():
        yield from batch.tolist()


def _batches(examples_uri: str, split: str) -> tf.data.Dataset:
    files = sorted(tf.io.gfile.glob(os.path.join(examples_uri, f"Split-{split}", "*")))
    # A few at a time: photographs have megabytes, and three batches are in memory at once.
    return untuned(tf.data.TFRecordDataset(files, compression_type="GZIP")).batch(32)
