"""An exported model in this process, asked through the signatures that clients ask a server for."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import tensorflow as tf

from components.recogniser.decoders import BEST_PATH, DEFAULT
from htr_client.beam import default_decoder
from htr_client.decoding import Alphabet, BestPath, Decoder
from htr_client.language import LanguageModel
from serving.version_directory import SETTINGS_FILE

# Activations grow with the image: a batch holds as many pixels as 256 words of 32 x 128.
_PIXELS_PER_BATCH = 256 * 32 * 128


class ExportedModel:
    """A SavedModel of this pipeline.

    Attributes:
        alphabet: Characters of the classes.
        language_model: Language model of the version; None where it has none, or one of a later format.
    """

    def __init__(self, directory: str):
        """Loads it.

        Args:
            directory: Directory of the SavedModel.
        """
        self._directory = directory
        self._loaded = tf.saved_model.load(directory)
        self._recognise = self._loaded.signatures["serving_default"]
        self.alphabet = Alphabet(c.decode() for c in self._told("alphabet")["characters"][0])
        told = self._told("language_model")  # versions of earlier releases lack the signature
        content = told["model_bytes"][0] if told else b""
        self.language_model = LanguageModel.of_version(content)
        self._decoder = default_decoder(self.language_model)

    def _told(self, signature: str) -> dict[str, np.ndarray]:
        if signature not in self._loaded.signatures:
            return {}
        answer = self._loaded.signatures[signature](query=tf.constant([""]))
        return {name: value.numpy() for name, value in answer.items()}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the model was trained with, and facts about the training."""
        with tf.io.gfile.GFile(os.path.join(self._directory, SETTINGS_FILE)) as file:
            return json.loads(file.read())

    @cached_property
    def batch_size(self) -> int:
        """Number of images that are best transcribed together."""
        geometry = self.settings["transform"]
        return max(8, min(256, _PIXELS_PER_BATCH // (geometry["height"] * geometry["width"])))

    @cached_property
    def weight_bytes(self) -> int:
        """Size of the weights."""
        files = tf.io.gfile.glob(os.path.join(self._directory, "variables", "*"))
        return sum(tf.io.gfile.stat(path).length for path in files)

    def log_probs(self, images: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities float32 [N, T, C] and valid frames int32 [N] of encoded images."""
        outputs = self._recognise(image_bytes=tf.constant(list(images), tf.string))
        return outputs["log_probs"].numpy(), outputs["frames"].numpy()

    def decoder(self, name: str = DEFAULT) -> Decoder:
        """What makes texts of log-probabilities, by its name: as clients do by default, or best path."""
        return {DEFAULT: self._decoder, BEST_PATH: BestPath()}[name]


@lru_cache(maxsize=2)
def loaded(directory: str) -> ExportedModel:
    """A model that steps of one run share: loading takes a second. What lies in `directory` must not change."""
    return ExportedModel(directory)
