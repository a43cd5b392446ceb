"""Characters that a training would forget: those of its start that no training label has.

A network that is trained on some hundred labels has classes for their characters only, since others would only learn
never to be written, as those of a given alphabet do. It gets these classes back, with the weights of its start, when it
has learnt: all that is before the classes has changed little for them, and it goes on reading digits or umlauts that
the labels happen to lack.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import tensorflow as tf

from components.common.console import console
from components.trainer.fitting import Seen, log_probs_of, read_first
from components.trainer.input_pipeline import Source
from components.trainer.model import Recogniser, build
from components.trainer.outcome import Validation, compare
from components.trainer.settings import ModelConfig
from components.trainer.transfer import learn_from, start_from
from components.trainer.warm_start import alphabet_of
from htr_client.decoding import Alphabet, BestPath

# With fewer validation images training images are evaluated, too: of five that are all transcribed wrongly the
# randomisation test cannot tell that this is no chance. In a training image, a character that is in no label is an
# error wherever it comes out, as a Latin letter does in place of the Greek one that looks like it.
_ENOUGH = 10


class Kept(NamedTuple):
    """A trained network, its characters, and the traced function of `fitting.log_probs_of` for it.

    Where that is known, also what it sees in the first validation images (`fitting.read_first`), and what the
    characters of its start add to its CER on these, best path. A batch's log probabilities need not sum to one.
    """

    model: Recogniser
    alphabet: list[str]
    log_probs: Callable[[dict[str, tf.Tensor]], tuple[tf.Tensor, tf.Tensor]]
    seen: Sequence[Seen] = ()
    added_cer: float = 0.0


def with_characters_of(
    version: str, trained: Kept, config: ModelConfig, training: Source, validation: Source, is_given: bool = False
) -> Kept:
    """Adds the characters of its start to a trained network, unless it is clearly worse with them.

    Args:
        version: Directory of the version that the training started from.
        trained: The trained network.
        config: Its sizes.
        training: Images that it was trained on.
        validation: Images that decide, with those it was trained on where they are few.
        is_given: Whether its characters are all that it may write; those that no label has get the start's weights.

    Returns:
        Another network, or the same where there is nothing to add.
    """
    added = _addable(alphabet_of(version), {trained.alphabet[number] for number in training.classes})
    if is_given:
        added &= {*trained.alphabet}
    if not added:
        return trained
    characters = sorted({*trained.alphabet, *added})
    wide = build(config, len(characters) + 1, validation.transform.height or 0)
    start_from(wide, characters, version)
    learn_from(wide, characters, trained.model, trained.alphabet, added)
    kept = Kept(wide, characters, log_probs_of(wide))
    kept = kept._replace(seen=list(read_first(kept.log_probs, validation)))
    before = [character for character in trained.alphabet if character not in added]
    without, found = _compared(kept.alphabet, before, kept.seen)
    kept = kept._replace(added_cer=found.rate - without.rate)
    are_enough = validation.samples >= _ENOUGH
    if not are_enough:
        learnt = read_first(kept.log_probs, training)
        without, found = _compared(kept.alphabet, before, itertools.chain(kept.seen, learnt))
    is_worse = found.is_clearly_worse(without.images)
    outcome = "left out" if is_worse else "kept"
    console().print(
        f"  characters of the start that no training label has: {len(added)}, {outcome} "
        f"({'validation' if are_enough else 'validation and training'} CER {found.rate:.4f} with them, "
        f"{without.rate:.4f} without)"
    )
    if is_worse and not is_given:  # else its own weights for these characters are not those that were tried
        columns = _columns(kept.alphabet, trained.alphabet)
        return trained._replace(seen=[seen._replace(log_probs=seen.log_probs[..., columns]) for seen in kept.seen])
    return trained if is_worse else kept


def _addable(known: Sequence[str], labelled: set[str]) -> set[str]:
    """Characters of the start that no label has; without letters where it knows no letter of the labels."""
    letters = {character for character in labelled if character.isalpha()}
    is_other_script = letters and letters.isdisjoint(known)
    return {c for c in known if c not in labelled and not (is_other_script and c.isalpha())}


def _compared(characters: Sequence[str], some: Sequence[str], images: Iterable[Seen]) -> tuple[Validation, Validation]:
    """How a network transcribes images with some of its characters, and with all of them."""
    columns = _columns(characters, some)
    texts: list[str] = []
    some_classes: list[str] = []
    all_classes: list[str] = []
    decoder, few, many = BestPath(), Alphabet(some), Alphabet(characters)
    for log_probs, frames, labels in images:
        texts += labels
        some_classes += [result.text for result in decoder.decode(log_probs[..., columns], frames, few)]
        all_classes += [result.text for result in decoder.decode(log_probs, frames, many)]
    return compare(texts, some_classes), compare(texts, all_classes)


def _columns(characters: Sequence[str], some: Sequence[str]) -> list[int]:
    """The classes of some characters, and the blank."""
    return [*map(characters.index, some), len(characters)]
