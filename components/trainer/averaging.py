"""Moving averages of a network's weights, which make fewer errors than those of any single step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf


class AveragedWeights:
    """Weights of a network and their moving averages (Polyak & Juditsky 1992), normalisation statistics among them."""

    def __init__(self, model: keras.Model, span: float, is_warm: bool = False):
        """Starts the averages at the weights as they are.

        Args:
            model: The network.
            span: Optimiser steps over which to average.
            is_warm: Whether the weights are those of a start. Averages go over a tenth of all steps at first, so that
                random weights are soon forgotten; a start counts as if many steps had led to it, and is not.
        """
        self._model, self._span = model, max(span, 1.0)
        self._averaged = [v for v in model.variables if v.dtype == "float32"]
        self._averages = [tf.Variable(v.numpy(), trainable=False) for v in self._averaged]
        self._steps = tf.Variable(9.0 * self._span if is_warm else 0.0, trainable=False)

    def update(self) -> None:
        """Takes the weights after a step in; to be called in the graph of the step."""
        steps = self._steps.assign_add(1.0)
        share = tf.maximum(1.0 / self._span, 9.0 / (9.0 + steps))
        for average, variable in zip(self._averages, self._averaged, strict=True):
            average.assign_add(share * (tf.convert_to_tensor(variable.value) - average))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The network with its averaged weights, for as long as the block lasts."""
        own = self.current()
        for variable, average in zip(self._averaged, self._averages, strict=True):
            variable.assign(average)
        try:
            yield
        finally:
            self.assign(own)

    def current(self) -> list[np.ndarray]:
        """The weights that the network has now, as `assign` takes them."""
        return [variable.numpy() for variable in self._model.variables]

    def assign(self, weights: Sequence[np.ndarray]) -> None:
        """Gives the network weights that `current` took from it."""
        for variable, value in zip(self._model.variables, weights, strict=True):
            variable.assign(value)

    @property
    def state(self) -> list[Any]:
        """Variables that a checkpoint needs to go on averaging."""
        return [*self._averages, self._steps]
