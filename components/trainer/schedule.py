"""How long to train and how fast to learn where the configuration leaves it open. Needs no TensorFlow."""

from __future__ import annotations

import math
from dataclasses import dataclass

from components.trainer.settings import TrainConfig, TuneConfig

# From nothing: 30 epochs of 5,000 images in batches of 16, with which docs/accuracy.md's figures were measured.
# Optimiser steps grow with the square root of the number of images: a hundred times the images get a tenth of the
# epochs. Small sets get half of these steps at least, since CTC transcribes nothing at all in its first thousand or
# two; the smallest ones, of few batches, get no fewer epochs than these take.
_IMAGES, _STEPS = 5000, 9400
_FEWEST_STEPS = _STEPS // 2
STEPS_TO_READ = 2000
"""Optimiser steps before which a network with random weights may transcribe nothing."""
# A start can transcribe: less than half the steps, and a fifth for small sets, are enough (docs/accuracy.md).
_WARM_STEPS = 4400
_FEWEST_WARM_STEPS = _STEPS // 5
_EPOCHS = (3, 300)
# Epochs with a clearly worse validation CER before training stops, as a share of all.
_PATIENCE = 0.4

RATE = 2e-3
# A few images at RATE cost a start what it knows of other writers; thousands teach it more at that rate than at a low
# one. docs/experiments.md has the figures; the square root between them is a choice.
_WARM_RATE, _WARM_IMAGES = 5e-4, 300


@dataclass(frozen=True)
class Schedule:
    """What a training does, with every open setting filled in.

    Attributes:
        epochs: Passes over the training images, at most.
        patience: Epochs with a clearly worse validation CER before training stops.
        learning_rate: Peak of the learning rate.
    """

    epochs: int
    patience: int
    learning_rate: float


def epochs_for(train: TrainConfig, samples: int) -> int:
    """Number of epochs: the configured one, else as many as the number of images asks for.

    Args:
        train: Section `train` of the configuration.
        samples: Number of training images.

    Returns:
        `train.epochs` where it is set. Else, in batches of 16: 300 for 200 images, 247 for 300, 75 for 1,000, 30 for
        5,000, 15 for 20,000, 7 for 100,000, 4 for 330,000; after a warm start 145 for 200, 99 for 300, 31 for 1,000,
        14 for 5,000, 7 for 20,000. Larger batches get as many steps, so more epochs.
    """
    if train.epochs is not None:
        return train.epochs
    usual, fewest = (_WARM_STEPS, _FEWEST_WARM_STEPS) if train.is_warm else (_STEPS, _FEWEST_STEPS)
    steps = max(usual * math.sqrt(samples / _IMAGES), fewest)
    batches = math.ceil(max(samples, 1) / train.batch_size)
    least, most = _EPOCHS
    if not train.is_warm:
        most = max(most, math.ceil(STEPS_TO_READ / batches))
    return min(max(round(steps / batches), least), most)


def schedule_for(train: TrainConfig, samples: int) -> Schedule:
    """Fills in what the configuration leaves open.

    Args:
        train: Section `train` of the configuration.
        samples: Number of training images.

    Returns:
        Epochs, patience and learning rate: 0.002, and after a warm start 0.0005 up to 300 images, 0.0009 for 1,000,
        0.002 from 4,800 on.
    """
    epochs = epochs_for(train, samples)
    rate = RATE
    if train.is_warm:
        rate = min(_WARM_RATE * math.sqrt(max(samples / _WARM_IMAGES, 1.0)), RATE)
        rate = float(f"{rate:.2g}")  # no more exact than it is, also where it is printed
    return Schedule(
        epochs=epochs,
        patience=train.patience or max(5, round(_PATIENCE * epochs)),
        learning_rate=train.learning_rate or rate,
    )


def trial_epochs(tune: TuneConfig, schedule: Schedule) -> int:
    """Epochs of each short training that Tuner compares: the configured ones, else a fifth of the training's."""
    return tune.epochs or max(1, round(schedule.epochs / 5))
