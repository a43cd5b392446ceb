"""What a training came to, in facts and words, for the terminal, the settings file and the report. No TensorFlow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.common.metrics import ErrorCounts, PairedErrors, edits_and_length
from components.trainer.schedule import STEPS_TO_READ

# Share of validation images that come out empty, or all alike, from which on a network counts as collapsed.
_COLLAPSED = 0.95
_LEVEL = 0.95  # of the interval of the difference between two validations


@dataclass(frozen=True)
class Validation:
    """How a network transcribes the validation split.

    Attributes:
        images: Edits and length of the label, of each image.
        empty: Images in which the network recognises nothing.
        alike: Images that come out as the most frequent text.
    """

    images: Sequence[tuple[int, int]]
    empty: int
    alike: int

    @property
    def rate(self) -> float:
        """CER."""
        return ErrorCounts(Counter(self.images)).rate

    def is_clearly_worse(self, best: Sequence[tuple[int, int]]) -> bool:
        """Whether these images are transcribed worse than in another validation, by more than the luck of their choice.

        Args:
            best: `images` of the other validation.
        """
        errors = PairedErrors()
        for (before, length), (after, _) in zip(best, self.images, strict=True):
            errors.add(before, after, length)
        return errors.differs(_LEVEL) > 0

    @property
    def collapse(self) -> str | None:
        """A sentence where the network has collapsed: it recognises nothing, or the same text everywhere."""
        images = len(self.images)
        if images and self.empty >= _COLLAPSED * images:
            return f"the network recognises nothing: {self.empty} of {images} validation images come out empty"
        if images > 1 and self.alike >= _COLLAPSED * images and self.rate > 0.5:
            # Without the text, since the sentence goes along with the version.
            return f"the network recognises one text only: {self.alike} of {images} validation images come out alike"
        return None


def compare(references: Sequence[str], predictions: Sequence[str]) -> Validation:
    """Compares a network's texts with the labels.

    Args:
        references: Labels.
        predictions: Texts, in the same order.

    Returns:
        Errors, and how many texts are empty or alike.
    """
    texts = Counter(predictions)
    alike = max(texts.values(), default=0)
    images = [edits_and_length(*pair, "character") for pair in zip(references, predictions, strict=True)]
    return Validation(images, texts[""], alike)


@dataclass(frozen=True)
class Outcome:
    """Facts about a training; the settings file of a model has them in its section `training`.

    `history.json` has the entries of all epochs: `epoch`, `loss`, `validation_cer`, `empty` (validation images that
    come out empty), `learning_rate`, `seconds` since the start. A warm start's first entry is epoch 0, the start before
    the first optimiser step; its loss is null.

    Attributes:
        images: Number of training images.
        validation_images: Number of validation images.
        epochs: Epochs that were planned.
        epochs_done: Epochs that were finished.
        steps: Optimiser steps that were done.
        best_epoch: Epoch whose weights were kept, see `fitting.Fitting`; 0 for those of the start.
        best_validation_cer: Its CER on the validation split. The settings' own `best_validation_cer` is that of the
            exported network, to which characters of its start may have been added since.
        base_validation_cer: CER of the start before the first step; None from nothing.
        ended: "epochs" after the last one, "patience" where validation was clearly worse for long, "loss" where it was
            not finite.
        still_falling: Whether the validation CER still fell when the training ended: more epochs would help.
        collapse: Sentence that says so where the kept weights give no text, or the same one everywhere.
        device: What the training ran on.
        seconds: Time of the training.
    """

    images: int
    validation_images: int
    epochs: int
    epochs_done: int
    steps: int
    best_epoch: int
    best_validation_cer: float
    base_validation_cer: float | None
    ended: str
    still_falling: bool
    collapse: str | None
    device: str
    seconds: float


def still_falling(history: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the validation CER still fell in the last epochs.

    Args:
        history: Entries of all epochs.

    Returns:
        True where one of the last epochs is the best and the last quarter has brought a twentieth or more.
    """
    cer = [entry["validation_cer"] for entry in history]
    recent = max(2, len(cer) // 10)
    return len(cer) >= 5 and min(cer) in cer[-recent:] and min(cer) < 0.95 * cer[len(cer) * 3 // 4 - 1]


def advice_for_collapse(collapse: str, steps: int, epochs: int, learning_rate: float) -> str:
    """What to do about a training from nothing that has ended collapsed.

    Args:
        collapse: Sentence of `Validation.collapse`.
        steps: Optimiser steps that were done.
        epochs: Epochs that were planned.
        learning_rate: Peak of the learning rate.

    Returns:
        The sentence, with what to try, the likeliest first.
    """
    longer = f"more epochs (train.epochs is {epochs}: {steps:,} optimiser steps; a network needs some thousands)"
    slower = f"a lower train.learning_rate (it is {learning_rate:g})"
    ways = [longer, slower] if steps < STEPS_TO_READ else [slower, longer]
    return f"{collapse}. Try {ways[0]}, {ways[1]}, or more labels."
