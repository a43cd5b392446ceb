"""The temperature of a trained network: by what its logits are divided, so that it is as sure as it is right."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf

from components.common.calibration import temperatures
from components.trainer.fitting import Seen
from components.trainer.model import ctc_loss, needed_frames


def fit_temperature(images: Iterable[Seen], alphabet: Sequence[str], neutral: float = 1.0) -> float:
    """Temperature under which the true texts of validation images are most probable (Guo et al. 2017).

    It is fitted there and not on the evaluation split, which must stay unseen by everything that ships.

    Args:
        images: What the network sees in them, and their texts. Log probabilities are logits here, of any sum.
        alphabet: Characters of the classes.
        neutral: Temperature without any image; a few images may only tell of a higher one.

    Returns:
        The divisor of the logits; above 1 where the network is too sure of itself.
    """
    classes = {character: number for number, character in enumerate(alphabet)}
    collected = []
    for log_probs, frames, texts in images:
        known = [[classes[character] for character in text if character in classes] for text in texts]
        labels = tf.ragged.constant(known, tf.int64, ragged_rank=1).to_tensor(-1).numpy()
        possible = (needed_frames(labels).numpy() <= frames) & (labels >= 0).any(axis=1)
        parts = (labels, log_probs, frames)
        collected.append(parts if possible.all() else tuple(part[possible] for part in parts))  # most are not copied
    collected = [parts for parts in collected if len(parts[0])]
    if not collected:
        return neutral

    @functools.cache
    def surprise(temperature: float) -> float:
        losses = [ctc_loss(labels, logits / temperature, frames).numpy() for labels, logits, frames in collected]
        return float(np.concatenate(losses).mean())

    tried = temperatures(sum(len(parts[0]) for parts in collected), neutral)
    # Every fourth, then those around the best of them: there is one minimum.
    about = min(range(0, len(tried), 4), key=lambda index: surprise(tried[index]))
    return min(tried[max(about - 3, 0) : about + 4], key=surprise)
