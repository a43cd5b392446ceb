"""What Evaluator evaluates: the texts that clients make of the log-probabilities, with and without language model.

TFMA would call a signature that gives texts. Clients get theirs by decoding, so that is done here too, for candidate
and baseline alike, each with the language model of its own version. Where nothing is written on an image clients get no
text (`htr_client.line_answers.believed`). Their texts are kept for the report.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma

from components.common.ahead import NETWORK_THREADS, ahead
from components.evaluator import kept_texts
from components.evaluator.slices import SLICES, prefix
from components.recogniser.decoders import DECODERS
from components.recogniser.model import ExportedModel, loaded
from htr_client.image_files import load
from htr_client.model_facts import LEAST_CONTRAST
from htr_client.suspicion import look


def custom_extractors(eval_shared_model: Any, eval_config: Any, tensor_adapter_config: Any) -> list[Any]:
    """Called by TFX's Evaluator: TFMA's own extractors, but for the predictions."""
    models = eval_shared_model if isinstance(eval_shared_model, list) else [eval_shared_model]
    paths = {m.model_name: m.model_path for m in models}
    reading = tfma.extractors.Extractor("ReadImages", beam.ParDo(_Read(paths, kept_texts.kept_in())))
    return tfma.default_extractors(
        eval_shared_model=eval_shared_model, eval_config=eval_config, tensor_adapter_config=tensor_adapter_config,
        custom_predict_extractor=reading,
    )  # fmt: skip


class _Read(beam.DoFn):
    """Adds the predictions of all models to a batch of extracts, and to values of slices what keeps them texts."""

    def __init__(self, paths: Mapping[str, str], folder: str):
        self._paths, self._kept_in = dict(paths), folder

    def start_bundle(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def process(self, extracts: dict[str, Any]) -> Iterator[dict[str, Any]]:
        features = extracts[tfma.FEATURES_KEY]
        images = np.ravel(features["image"]).tolist()
        by_model = _read({name: loaded(path) for name, path in self._paths.items()}, images)
        contrasts = np.ravel(features["paper_level"]) - np.ravel(features["ink_level"])
        for i in _empty(images, contrasts):
            for rows in (rows for by in by_model.values() for rows in by.values()):
                rows[i] = ("", 0.0)
        for i, image_id in enumerate(np.ravel(features["id"])):
            # TFMA leaves out the name of a model that is alone.
            read = {
                name or kept_texts.CANDIDATE: {d: rows[i] for d, rows in by.items()} for name, by in by_model.items()
            }
            self._rows.append({"id": image_id.decode(), **read})
        texts = {
            name: {decoder: np.array([[text] for text, _ in rows], object) for decoder, rows in by.items()}
            for name, by in by_model.items()
        }
        slices = {key: prefix(key).encode() + np.asarray(features[key], object) for key in SLICES}
        yield {
            **extracts,
            tfma.FEATURES_KEY: {**features, **slices},
            tfma.PREDICTIONS_KEY: texts if len(texts) > 1 else next(iter(texts.values())),
        }

    def finish_bundle(self) -> None:
        kept_texts.write(self._rows, self._kept_in)


def _empty(images: list[bytes], contrasts: np.ndarray) -> list[int]:
    """Places of the images on which nothing is written; only those of little contrast need to be decoded."""
    return [i for i in np.flatnonzero(contrasts < LEAST_CONTRAST) if look(load(images[i], sys.maxsize)).is_empty]


def _read(models: Mapping[str, ExportedModel], images: list[bytes]) -> dict[str, dict[str, list[tuple[str, float]]]]:
    """Text and confidence of each image, by the names of model and decoder."""
    read: dict[str, dict[str, list[tuple[str, float]]]] = {name: {d: [] for d in DECODERS} for name in models}
    batches = [
        (name, images[start : start + model.batch_size])
        for name, model in models.items()
        for start in range(0, len(images), model.batch_size)
    ]
    seen = ahead(lambda batch: models[batch[0]].log_probs(batch[1]), batches, NETWORK_THREADS)
    for (name, _), (log_probs, frames) in zip(batches, seen, strict=True):
        for decoder, rows in read[name].items():
            decoded = models[name].decoder(decoder).decode(log_probs, frames, models[name].alphabet)
            rows += [(result.text, float(result.confidence)) for result in decoded]
    return read
