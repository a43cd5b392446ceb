"""How long a training takes, before it begins. No TensorFlow here."""

from __future__ import annotations

import math

import numpy as np

from components.trainer.schedule import epochs_for
from components.trainer.settings import TrainConfig
from htr_client.cores import usable_cores

# Seconds of CPU time for an image of a batch, fitted to trainings of the default network with 4,096, 16,384 and about
# 62,000 pixels an image (docs/accuracy.md): 6.7, 19 and 80 ms.
_SECONDS_AN_IMAGE, _SECONDS_A_PIXEL = 2.5e-3, 1.1e-6
_VALIDATION = 0.3  # cost of an image that is only read, relative to one that is learnt from
# What the cores of a machine bring besides the first: 1.5 of two were busy (docs/accuracy.md); more than eight bring
# nothing to batches of this size.
_MOST_CORES, _GAIN = 8, 0.5
# Labelled images, and the CER on other writers of trainings on them that began at the base model for lines: words of a
# source that it had never seen (docs/accuracy.md).
_ADAPTED = ((0, 0.267), (50, 0.232), (100, 0.232), (300, 0.202), (700, 0.196))
FEWEST_ADAPTED = _ADAPTED[1][0]  # fewer were not measured


def expected_steps(train: TrainConfig, samples: int) -> int:
    """Optimiser steps of a training that runs all its epochs; up to a tenth more where images have different widths.

    Args:
        train: Settings.
        samples: Number of images of the training split.
    """
    return epochs_for(train, samples) * math.ceil(samples / train.batch_size)


def expected_seconds(
    train: TrainConfig, samples: int, validation: int, pixels: float, cores: int | None = None
) -> float:
    """Time that a training on CPUs takes which runs all its epochs, right to a factor of about two.

    Args:
        train: Settings.
        samples: Number of images of the training split.
        validation: Number of images of the validation split.
        pixels: Pixels of an image in the image tensor, on average.
        cores: Cores of the machine; those that this process may use if None.
    """
    count = cores or usable_cores()
    at_once = 1 + _GAIN * (min(count, _MOST_CORES) - 1)
    images = float(expected_steps(train, samples) * train.batch_size)
    images += _VALIDATION * validation * epochs_for(train, samples)
    return images * (_SECONDS_AN_IMAGE + _SECONDS_A_PIXEL * pixels) / at_once


def adapted_cer(images: int) -> tuple[float, float]:
    """What so many labels have brought where it was measured: words of a source that the base model had never seen.

    Args:
        images: Number of labelled ones, from `FEWEST_ADAPTED` to the most that were measured.

    Returns:
        CER of the base model, and of the model that was adapted, both on other writers; between the numbers that were
        measured, a straight line over the logarithm of the number of images.
    """
    counts, rates = zip(*_ADAPTED, strict=True)
    return rates[0], float(np.interp(math.log1p(images), np.log1p(counts), rates))


def in_words(seconds: float) -> str:
    """A time as an estimate says it: no more exact than it is."""
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        count = seconds / length
        if count >= 1.5:
            return f"about {count:.0f} {unit}s"
    return "a minute or two"
