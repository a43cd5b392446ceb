"""Reads what the report is about: the examples of all splits, and what models make of the evaluation split.

Examples are streamed; of the images only those that are shown stay in memory.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

from components.example_gen.measures import NUMBERS
from components.example_gen.splits import SPLITS
from components.report import analysis
from components.report.material import Reading, Split
from htr_client.decoding import Alphabet, BestPath, align
from htr_client.image_files import load
from htr_client.spans import pixel_spans
from htr_client.suspicion import look
from serving.version_directory import SETTINGS_FILE

_INTEGERS = ("width", "height", "text_length")
_TEXTS = ("id", "source", "writer", "length_band", "text")
# Activations grow with the image: a batch holds as many pixels as 256 words of 32 x 128.
_PIXELS_PER_BATCH = 256 * 32 * 128


def records(examples_uri: str, split: str) -> Iterator[dict[str, Any]]:
    """The examples of a split: `image` bytes, `_TEXTS` str, `NUMBERS` float, in the order of the files."""
    spec: dict[str, Any] = {name: tf.io.FixedLenFeature([], tf.string) for name in ("image", *_TEXTS)}
    for name in NUMBERS:
        spec[name] = tf.io.FixedLenFeature([], tf.int64 if name in _INTEGERS else tf.float32)
    files = sorted(tf.io.gfile.glob(os.path.join(examples_uri, f"Split-{split}", "*")))
    dataset = tf.data.TFRecordDataset(files, compression_type="GZIP").batch(256)
    for batch in dataset.map(lambda serialized: tf.io.parse_example(serialized, spec)).as_numpy_iterator():
        for values in zip(*batch.values(), strict=True):
            record = dict(zip(batch, values, strict=True))
            yield {**record, **{name: record[name].decode() for name in _TEXTS}}


def read_splits(examples_uri: str) -> tuple[dict[str, Split], str]:
    """Reads all splits.

    Args:
        examples_uri: of the Examples artifact.

    Returns:
        The splits by name, and a digest of ids, labels and images: the same for the same data in any order and place.
    """
    splits, digests = {}, []
    for name in SPLITS:
        split, numbers = Split(), []
        for record in records(examples_uri, name):
            image = hashlib.sha256(record["image"]).digest()
            digests.append(hashlib.sha256(f"{name}\0{record['id']}\0{record['text']}\0".encode() + image).digest())
            split.samples += 1
            split.writers[record["writer"]] += 1
            split.characters.update(record["text"])
            split.images.setdefault(image, (record["text"], record["id"]))
            numbers.append([record[column] for column in NUMBERS])
        table = np.array(numbers, np.float32).reshape(-1, len(NUMBERS))
        split.numbers = {column: table[:, i] for i, column in enumerate(NUMBERS)}
        splits[name] = split
    return splits, hashlib.sha256(b"".join(sorted(digests))).hexdigest()


class Model:
    """An exported model, asked through the signature that services ask."""

    def __init__(self, directory: str):
        """Loads a SavedModel.

        Args:
            directory: of the SavedModel, with its settings in assets.extra.
        """
        self._loaded = tf.saved_model.load(directory)
        self._recognise = self._loaded.signatures["serving_default"]
        answer = self._loaded.signatures["alphabet"](query=tf.constant([""]))
        self.alphabet = Alphabet([c.decode() for c in answer["characters"].numpy()[0]])
        with tf.io.gfile.GFile(os.path.join(directory, SETTINGS_FILE)) as file:
            self.settings: dict[str, Any] = json.loads(file.read())
        geometry = self.settings["transform"]
        self.batch_size = max(8, min(256, _PIXELS_PER_BATCH // (geometry["height"] * geometry["width"])))
        self.bytes = sum(
            tf.io.gfile.stat(path).length for path in tf.io.gfile.glob(os.path.join(directory, "variables", "*"))
        )

    def log_probs(self, images: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities float32 [N, T, C] and valid frames int32 [N] of encoded images."""
        outputs = self._recognise(image_bytes=tf.constant(list(images), tf.string))
        return outputs["log_probs"].numpy(), outputs["frames"].numpy()

    def read(self, images: Sequence[bytes]) -> list[Any]:
        """Best-path texts with confidence, as the client decodes them."""
        return BestPath().decode(*self.log_probs(images), self.alphabet)


def predict(examples_uri: str, model: Model, baseline: Model | None) -> pd.DataFrame:
    """Lets models read the evaluation split once.

    Args:
        examples_uri: of the Examples artifact.
        model: the candidate.
        baseline: the model to compare with, if there is one.

    Returns:
        A table of predictions, see `components.report.analysis`.
    """
    rows: list[dict[str, Any]] = []
    stream = records(examples_uri, "eval")
    while batch := list(itertools.islice(stream, model.batch_size)):
        images = [record.pop("image") for record in batch]
        before = [result.text for result in baseline.read(images)] if baseline else [""] * len(batch)
        for record, result, text in zip(batch, model.read(images), before, strict=True):
            rows.append({**record, "prediction": result.text, "confidence": result.confidence, "baseline": text})
    columns = [*analysis.TEXT_COLUMNS, *analysis.NUMBER_COLUMNS]
    return analysis.count_edits(pd.DataFrame(rows, columns=columns), compared=baseline is not None)


def look_closely(examples_uri: str, model: Model, texts: dict[int, str]) -> dict[int, Reading]:
    """Reads some images of the evaluation split again, this time keeping what the model saw in each frame.

    Args:
        examples_uri: of the Examples artifact.
        model: to read with.
        texts: labels by the image's place in the split.

    Returns:
        Readings by place.
    """
    stream = records(examples_uri, "eval")
    images = {place: record["image"] for place, record in enumerate(stream) if place in texts}
    readings = {}
    places = sorted(images)
    for start in range(0, len(places), model.batch_size):
        batch = places[start : start + model.batch_size]
        log_probs, frames = model.log_probs([images[place] for place in batch])
        labels = [model.alphabet.encode(texts[place], skip_unknown=True) for place in batch]
        aligned = align(log_probs, frames, labels)
        decoded = BestPath().decode(log_probs, frames, model.alphabet)
        for i, place in enumerate(batch):
            ways = list(zip(labels[i], aligned[i], strict=True)) if aligned[i] else []
            truth = [(model.alphabet[c], p, run) for c, (run, p) in ways]
            read = [(c.text, c.confidence, c.span) for c in decoded[i].characters]
            probabilities = np.exp(log_probs[i, : frames[i]])
            image, valid = images[place], int(frames[i])
            readings[place] = Reading(
                image, probabilities, model.alphabet, located(read, image, valid), located(truth, image, valid)
            )
    return readings


def located(
    characters: Sequence[tuple[str, float, tuple[int, int]]], image: bytes, frames: int
) -> list[tuple[str, float, tuple[float, float]]]:
    """Says where in its image each character stands.

    Args:
        characters: Text, probability and run of frames of each character.
        image: Encoded image.
        frames: Number of valid frames of the image.

    Returns:
        Text, probability and span of each character; spans as shares of the image's width.
    """
    grey = load(image)
    left, right = (edge / grey.shape[1] for edge in look(grey).ink)
    spans = pixel_spans([run for _, _, run in characters], frames, 1.0, (left, right))
    return [(text, p, span) for (text, p, _), span in zip(characters, spans, strict=True)]
