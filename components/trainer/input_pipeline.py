"""What Transform wrote, as batches for the network: streamed, shuffled, bucketed by width, augmented."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from components.common.datasets import untuned
from components.trainer.augmentation import augment_batch
from components.trainer.model import needed_frames
from components.trainer.settings import TrainConfig
from components.transform.preprocessing import decode_batch, image_widths
from components.transform.settings import TransformConfig
from htr_client.model_facts import COLUMNS_PER_FRAME

# Bounds at quantiles of the widths: images of a bucket differ little, so that batches have little padding. So many
# buckets, and fewer where each bucket's last batch, which is not full, would make that many times as many batches.
BUCKETS = 8
_MOST_BATCHES = 1.1


@dataclass(frozen=True)
class Source:
    """Transformed examples of one split, and what one pass over them tells.

    Attributes:
        files: Gzipped TFRecords.
        feature_spec: Specification of the transformed examples.
        transform: Geometry of the image tensor.
        samples: Number of images that CTC can align.
        bounds: Widths at which a bucket ends and the next one begins.
        per_bucket: Number of images of each bucket.
        unalignable: The `id` of images that are left out.
        classes: Classes that the labels of the others have.
    """

    files: list[str]
    feature_spec: dict[str, Any]
    transform: TransformConfig
    samples: int
    bounds: list[int]
    per_bucket: list[int]
    unalignable: list[str]
    classes: frozenset[int]

    def steps(self, batch_size: int) -> int:
        """Batches of an epoch."""
        return _batches(self.per_bucket, batch_size)


def survey(
    files: Sequence[str], feature_spec: dict[str, Any], transform: TransformConfig, batch_size: int = 16
) -> Source:
    """Reads a split once: how many images, how wide, and which ones CTC cannot align.

    Args:
        files: Gzipped TFRecords.
        feature_spec: Specification of the transformed examples.
        transform: Geometry of the image tensor.
        batch_size: Images of the batches that it will make.

    Returns:
        The source of `batches`; images with fewer frames than `needed_frames` are named by their `id` and left out.
    """
    records = _records(files, {name: feature_spec[name] for name in ("image_png", "labels", "id")})
    records = records.map(_dense).padded_batch(256, {"image_png": [], "labels": [None], "id": []}, _PADDING)

    def look_at(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        alignable = _can_align(batch["image_png"], batch["labels"])
        classes = tf.unique(tf.reshape(tf.boolean_mask(batch["labels"], alignable), [-1])).y
        return image_widths(batch["image_png"]), alignable, batch["id"], classes

    read = [tuple(column.numpy() for column in batch) for batch in records.map(look_at, tf.data.AUTOTUNE)]
    columns = (np.concatenate(column) for column in zip(*read, strict=True)) if read else ([], [], [], [])
    widths, alignable, ids, classes = columns
    widths = np.asarray(widths)[np.asarray(alignable, bool)]
    bounds = _bounds(widths, batch_size) if transform.preset == "line" and len(widths) else []
    return Source(
        list(files), feature_spec, transform, len(widths), bounds, _per_bucket(widths, bounds),
        [name.decode() for name, can in zip(ids, alignable, strict=True) if not can],
        frozenset(map(int, classes)) - {_NO_CLASS},
    )  # fmt: skip


def _bounds(widths: np.ndarray, batch_size: int) -> list[int]:
    """Widths at quantiles, for as many buckets as fill their batches.

    A few images in many buckets are batches of two or three: the learning rate is for larger ones, and an epoch has far
    more optimiser steps than the schedule reckons with.
    """
    fewest = -(-len(widths) // batch_size)
    for buckets in range(BUCKETS, 1, -1):
        quantiles = np.quantile(widths, np.linspace(0, 1, buckets + 1)[1:-1], method="higher")
        bounds = sorted({int(width) + 1 for width in quantiles if width < widths.max()})
        if _batches(_per_bucket(widths, bounds), batch_size) <= _MOST_BATCHES * fewest:
            return bounds
    return []


def _per_bucket(widths: np.ndarray, bounds: Sequence[int]) -> list[int]:
    return np.bincount(np.searchsorted(bounds, widths, side="right"), minlength=len(bounds) + 1).tolist()


def _batches(per_bucket: Sequence[int], batch_size: int) -> int:
    return sum(-(-count // batch_size) for count in per_bucket)


def batches(source: Source, train: TrainConfig, epochs: int = 1, done: int = 0) -> tf.data.Dataset:
    """Shuffled and augmented batches of several epochs; memory holds the shuffle buffer and a few batches.

    The order of the images and their augmentation follow from the seed, the epoch and the number of the batch: a
    training that is resumed sees the same batches as one that was not interrupted.

    Args:
        source: Training split.
        train: Batch size, shuffling and augmentation.
        epochs: How many.
        done: Batches to leave out at the beginning.

    Returns:
        Pairs of inputs (`images`, `widths`, see `Recogniser.call`) and labels int64 [N, L] padded with -1.
    """
    spec = {name: source.feature_spec[name] for name in ("image_png", "labels")}
    first_epoch, skipped = divmod(done, source.steps(train.batch_size))

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        # The seed of this function's graph, not of the process: the order would follow from what ran before, and a
        # shuffle whose own seed is a tensor cannot be built beside a seed of 0.
        tf.compat.v1.set_random_seed(train.seed)
        dataset = _records(source.files, spec).map(_dense)
        if source.unalignable:
            dataset = dataset.filter(lambda r: _can_align(r["image_png"][tf.newaxis], r["labels"][tf.newaxis])[0])
        dataset = dataset.shuffle(train.shuffle_buffer, seed=train.seed + number, reshuffle_each_iteration=False)
        shapes = {"image_png": [], "labels": [None]}
        padding = {name: _PADDING[name] for name in shapes}
        if not source.bounds:
            return dataset.padded_batch(train.batch_size, shapes, padding)
        bucketed = dataset.bucket_by_sequence_length(
            lambda r: image_widths(r["image_png"][tf.newaxis])[0], source.bounds,
            [train.batch_size] * len(source.per_bucket), padded_shapes=shapes, padding_values=padding,
        )  # fmt: skip
        # Buckets fill at their own pace, and the last batches of an epoch would all be the odd rests.
        return bucketed.shuffle(64, seed=train.seed + number, reshuffle_each_iteration=False)

    def to_inputs(number: tf.Tensor, batch: dict[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        images, widths = decode_batch(batch["image_png"], source.transform)
        if train.augment:
            narrowest = COLUMNS_PER_FRAME * needed_frames(batch["labels"])
            seed = tf.stack([tf.constant(train.seed, tf.int64), number])
            images, widths = augment_batch(images, widths, narrowest, train.augment, train.augmentations, seed)
        return {"images": images, "widths": widths}, batch["labels"]

    dataset = tf.data.Dataset.range(first_epoch, epochs).flat_map(epoch).skip(skipped)
    dataset = tf.data.Dataset.zip((tf.data.Dataset.counter(done), dataset))
    return untuned(dataset.map(to_inputs, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE))


def divisible(dataset: tf.data.Dataset, replicas: int) -> tf.data.Dataset:
    """Batches that can be dealt out evenly: short ones repeat their first rows, which count for more by that.

    TensorFlow deals out a batch of 5 to 4 replicas as 2, 2, 1 and none, and CTC has no loss of no rows.

    Args:
        dataset: Dataset of `batches`.
        replicas: How many share a batch.

    Returns:
        The same with a multiple of `replicas` rows in each batch.
    """

    def repeat(inputs: dict[str, tf.Tensor], labels: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        rows = tf.shape(labels)[0]
        taken = tf.range(-(-rows // replicas) * replicas) % rows
        return {name: tf.gather(part, taken) for name, part in inputs.items()}, tf.gather(labels, taken)

    return dataset.map(repeat, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def plain_batches(source: Source, batch_size: int) -> tf.data.Dataset:
    """All images of a split as they are, those of about one width together.

    Args:
        source: Any split.
        batch_size: N.

    Returns:
        Pairs of inputs (see `Recogniser.call`) and texts string [N].
    """
    spec = {name: source.feature_spec[name] for name in ("image_png", "text")}
    dataset = _records(source.files, spec)
    if source.bounds:
        dataset = dataset.bucket_by_sequence_length(
            lambda r: image_widths(r["image_png"][tf.newaxis])[0], source.bounds,
            [batch_size] * len(source.per_bucket),
        )  # fmt: skip
    else:
        dataset = dataset.batch(batch_size)

    def to_inputs(batch: dict[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        images, widths = decode_batch(batch["image_png"], source.transform)
        return {"images": images, "widths": widths}, batch["text"]

    return dataset.map(to_inputs, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


_NO_CLASS = -1
_PADDING = {"image_png": b"", "labels": np.int64(_NO_CLASS), "id": b""}


def _records(files: Sequence[str], spec: dict[str, Any]) -> tf.data.Dataset:
    dataset = untuned(tf.data.TFRecordDataset(list(files), compression_type="GZIP"))
    return dataset.map(lambda record: tf.io.parse_single_example(record, spec), tf.data.AUTOTUNE)


def _dense(record: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {**record, "labels": tf.sparse.to_dense(record["labels"])}


def _can_align(image_png: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Whether each of N images has as many frames as CTC needs, and a label at all: bool [N]."""
    frames = -(-image_widths(image_png) // COLUMNS_PER_FRAME)
    return (needed_frames(labels) <= frames) & tf.reduce_any(labels >= 0, axis=1)
