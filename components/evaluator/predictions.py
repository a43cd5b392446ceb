"""What Evaluator evaluates: the texts that clients read in the log-probabilities, with and without language model.

TFMA would call a signature that gives texts. Clients get theirs by decoding, so that is done here too, for candidate
and baseline alike, each with the language model of its own version.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma

from components.evaluator.decoders import BEST_PATH, DECODERS
from components.recogniser.model import ExportedModel


def custom_extractors(eval_shared_model: Any, eval_config: Any, tensor_adapter_config: Any) -> list[Any]:
    """Called by TFX's Evaluator: TFMA's own extractors, but for the predictions."""
    models = eval_shared_model if isinstance(eval_shared_model, list) else [eval_shared_model]
    reading = tfma.extractors.Extractor("ReadImages", beam.ParDo(_Read({m.model_name: m.model_path for m in models})))
    return tfma.default_extractors(
        eval_shared_model=eval_shared_model, eval_config=eval_config, tensor_adapter_config=tensor_adapter_config,
        custom_predict_extractor=reading,
    )  # fmt: skip


@functools.lru_cache(maxsize=2)
def _load(path: str) -> ExportedModel:
    return ExportedModel(path)


class _Read(beam.DoFn):
    """Adds the predictions of all models to a batch of extracts."""

    def __init__(self, paths: Mapping[str, str]):
        self._paths = dict(paths)

    def process(self, extracts: dict[str, Any]) -> Iterator[dict[str, Any]]:
        images = np.ravel(extracts[tfma.FEATURES_KEY]["image"]).tolist()
        by_model = {name: _read(_load(path), images) for name, path in self._paths.items()}
        # TFMA expects the names of models only where there are several.
        predictions = by_model if len(by_model) > 1 else next(iter(by_model.values()))
        yield {**extracts, tfma.PREDICTIONS_KEY: predictions}


def _read(model: ExportedModel, images: list[bytes]) -> dict[str, np.ndarray]:
    """Texts by name of the prediction, a column each."""
    texts: dict[str, list[str]] = {name: [] for name in DECODERS}
    for start in range(0, len(images), model.batch_size):
        log_probs, frames = model.log_probs(images[start : start + model.batch_size])
        for name, column in texts.items():
            decoded = model.decoder(name == BEST_PATH).decode(log_probs, frames, model.alphabet)
            column += [result.text for result in decoded]
    return {name: np.array(column, object)[:, np.newaxis] for name, column in texts.items()}
