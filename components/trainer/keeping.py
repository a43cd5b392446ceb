"""Characters that a training would forget: those of its start that no training label has.

A network that is trained on some hundred labels has classes for their characters only, since others would only learn
never to be written. It gets these classes back, with the weights of its start, when it has learnt: all that is before
the classes has changed little for them, and it goes on reading digits or umlauts that the labels happen to lack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from components.common.console import console
from components.trainer.base import alphabet_of
from components.trainer.fitting import log_probs_of, read_images
from components.trainer.input_pipeline import Source, plain_batches
from components.trainer.model import Recogniser, build
from components.trainer.outcome import Validation, compare
from components.trainer.settings import ModelConfig
from components.trainer.transfer import learn_from, start_from
from htr_client.decoding import Alphabet, BestPath

_MOST = 1024  # validation images that are read
_BATCH = 16


class Kept(NamedTuple):
    """A trained network, its characters, and the traced function of `fitting.log_probs_of` for it."""

    model: Recogniser
    alphabet: list[str]
    log_probs: Callable[[dict[str, tf.Tensor]], tuple[tf.Tensor, tf.Tensor]]


def with_characters_of(version: str, trained: Kept, config: ModelConfig, validation: Source) -> Kept:
    """Adds the characters of its start to a trained network, unless validation is clearly worse with them.

    Args:
        version: Directory of the version that the training started from.
        trained: The trained network.
        config: Its sizes.
        validation: Images that decide.

    Returns:
        Another network, or the same where there is nothing to add.
    """
    characters = sorted({*trained.alphabet, *alphabet_of(version)})
    added = [character for character in characters if character not in set(trained.alphabet)]
    if not added:
        return trained
    wide = build(config, len(characters) + 1, validation.transform.height or 0)
    start_from(wide, characters, version)
    learn_from(wide, characters, trained.model, trained.alphabet)
    kept = Kept(wide, characters, log_probs_of(wide))
    without, found = _read(kept, trained.alphabet, validation)
    is_worse = found.is_clearly_worse(without.images)
    outcome = "left out" if is_worse else "kept"
    console().print(
        f"  characters of the start that no training label has: {len(added)}, {outcome} "
        f"(validation CER {found.rate:.4f} with them, {without.rate:.4f} without)"
    )
    return trained if is_worse else kept


def _read(kept: Kept, alphabet: Sequence[str], source: Source) -> tuple[Validation, Validation]:
    """How a network reads images with some of its characters, and with all of them."""
    characters = kept.alphabet
    columns = [*(characters.index(character) for character in alphabet), len(characters)]

    texts: list[str] = []
    some_classes: list[str] = []
    all_classes: list[str] = []
    decoder, few, many = BestPath(), Alphabet(alphabet), Alphabet(characters)
    for log_probs, frames, labels in read_images(kept.log_probs, plain_batches(source, _BATCH).take(_MOST // _BATCH)):
        texts += labels
        some_classes += [result.text for result in decoder.decode(log_probs[..., columns], frames, few)]
        all_classes += [result.text for result in decoder.decode(log_probs, frames, many)]
    return compare(texts, some_classes), compare(texts, all_classes)
