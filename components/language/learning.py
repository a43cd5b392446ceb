"""Learns the language model of a version: n-grams of texts, weighed on the validation split.

Which n-grams there are depends on the texts alone. How much they weigh depends on how well the network transcribes
without them, so that is tried on images that it was not trained on.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from components.common.calibration import temperatures
from components.common.metrics import PairedErrors, edits_and_length
from components.language.settings import LanguageConfig
from htr_client import ngrams
from htr_client.beam import default_decoder
from htr_client.decoding import Alphabet, BestPath, Decoded, Decoder
from htr_client.language import LanguageModel

# Weights that are tried, and the bonus of a character by weight: see docs/experiments.md.
WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7)
BONUS_BY_WEIGHT = 3.5
# Counting takes some 100 bytes of memory a character.
MOST_CHARACTERS = 10_000_000
# Coverage of the intervals that tell a difference from chance: a gain must be surer than a loss that is put up with.
_SURE, _AT_LEAST = 0.9, 0.68
_FEW = 100  # validation images; of 30, one edit in one of them decided against what brought a tenth of all errors
# Share of the labels' characters that the base's language model must know: of another script it has shown nothing.
_KNOWN = 0.9
_BATCH = 32
_ALTERNATIVES = 8  # readings besides the best one, by which confidence is fitted
# How often texts of one's own count beside the base's; labels gain nothing by it: docs/experiments.md.
_OWN = 10


class Recorded(NamedTuple):
    """What the network sees in one image, float32 [frames, C], and what is written there."""

    log_probs: np.ndarray
    label: str


class Learnt(NamedTuple):
    """A language model, None where it makes no fewer errors than the best path; and facts about it."""

    model: LanguageModel | None
    facts: dict[str, Any]


def learn(
    labels: Iterable[str],
    alphabet: Alphabet,
    validation: Sequence[Recorded],
    config: LanguageConfig,
    base: LanguageModel | None = None,
    base_texts: Iterable[str] = (),
    texts: Iterable[str] = (),
) -> Learnt:
    """Learns a language model and weighs it.

    The base's texts are left out for labels in characters that its language model does not know. Other texts count ten
    times beside them, which are many.

    Weights are tried from that of the base's language model, or the middle one, as long as no more errors are made:
    from the best one on, errors rise in both directions. Those count that transcribe as well as the best one, but for
    chance. That of the base's language model is taken if it is one of them, and even where it is not sure that it
    helps: the base's own images have shown that it does, unless the labels are in characters that it does not know. It
    must make fewer errors then than none; where the images are too few to tell, it is taken unless it is surely worse
    than none, whatever other weights do. Else the smallest is taken: the validation split may be harder than what
    comes, where the image itself tells more.

    Args:
        labels: Labels of the training split.
        alphabet: Alphabet of the network.
        validation: Images of the validation split.
        config: Settings.
        base: Language model of the base model that the training started from.
        base_texts: What that was learnt from.
        texts: Other texts. They and the base's are counted apart: what one label and one of them hold would tell of
            that label.

    Returns:
        The language model, and what the settings file of the version says about it.
    """
    # Each has half of the room, and what the other one leaves of its half.
    kept, left_out = _first(labels, MOST_CHARACTERS)
    if base is not None and not _knows(base, kept):
        base, base_texts = None, ()
    room = MOST_CHARACTERS - min(MOST_CHARACTERS // 2, sum(map(len, kept)))
    kept_texts, left_out_texts = _first(texts, room)
    kept_base, left_out_base = _first(base_texts, room - sum(map(len, kept_texts)))
    kept_others = kept_texts + kept_base
    kept, more = _first(kept, MOST_CHARACTERS - sum(map(len, kept_others)))
    ones, own = [1] * len(kept), [_OWN if kept_base else 1] * len(kept_texts)
    found = _small_enough(kept, kept_others, [*ones, *own, *[1] * len(kept_base)], alphabet, config)
    left_out += left_out_texts + left_out_base + more
    facts = {
        "order": config.order, "least_labels": config.least_labels, "texts": len(kept) + len(kept_others),
        "texts_left_out": left_out, "ngrams": len(found), "bytes": 0, "weight": 0.0,
        "base_texts": bool(kept_base), "trusts_base": False, "validation_images": len(validation),
    }  # fmt: skip
    lengths = [len(recorded.label) for recorded in validation]
    if not sum(lengths):
        return Learnt(None, facts)
    before = _edits(decoded(BestPath(), alphabet, validation), validation)
    weights = sorted({*WEIGHTS, base.weight} if base is not None else WEIGHTS)
    unweighed = LanguageModel(found, 0.0, 0.0)
    tried = _Tried([unweighed.weighed(weight, BONUS_BY_WEIGHT * weight) for weight in weights], alphabet, validation)
    usual = weights.index(base.weight) if base is not None else None
    best = tried.best(len(weights) // 2 if usual is None else usual)

    def is_good(number: int) -> bool:
        return _differs(tried.edits(best), tried.edits(number), lengths, _AT_LEAST) <= 0

    stands = usual is not None and len(lengths) < _FEW and _may_help(before, tried.edits(usual), lengths)
    if usual is not None and (stands or is_good(usual)):
        chosen = usual
    else:
        chosen = best
        while chosen > 0 and is_good(chosen - 1):
            chosen -= 1
    if usual is not None:
        facts |= {"base_weight": weights[usual], "validation_cer_base_weight": sum(tried.edits(usual)) / sum(lengths)}
    facts["validation_cer_best_path"] = sum(before) / sum(lengths)
    facts["validation_cer"] = sum(tried.edits(chosen)) / sum(lengths)
    facts["validation_weight"] = weights[chosen]
    model = tried.models[chosen]
    if _differs(before, tried.edits(chosen), lengths, _SURE) < 0:
        temperature = _temperature(tried.results(chosen), validation, base.temperature if base is not None else 1.0)
    elif base is not None and chosen == usual and len(found) > 1 and _may_help(before, tried.edits(chosen), lengths):
        temperature = base.temperature
        facts["trusts_base"] = True
    else:
        return Learnt(None, facts)
    model = model.weighed(model.weight, model.length_bonus, temperature)
    facts |= {"weight": model.weight, "temperature": temperature, "bytes": len(model.to_bytes())}
    return Learnt(model, facts)


class _Tried:
    """Language models that differ in their weight, and their texts of the images, decoded when they are asked for."""

    def __init__(self, models: Sequence[LanguageModel], alphabet: Alphabet, images: Sequence[Recorded]):
        self.models, self._alphabet, self._images = models, alphabet, images
        self._results: dict[int, list[Decoded]] = {}

    def results(self, number: int) -> list[Decoded]:
        """Texts of all images."""
        if number not in self._results:
            decoder = default_decoder(self.models[number], _ALTERNATIVES)
            self._results[number] = decoded(decoder, self._alphabet, self._images)
        return self._results[number]

    def edits(self, number: int) -> list[int]:
        """Edits of all images."""
        return _edits(self.results(number), self._images)

    def best(self, start: int) -> int:
        """The model at which edits stop falling, from another one on; of few images they may stay equal on the way."""
        at = start
        for step in (-1, 1):
            while 0 <= at + step < len(self.models) and sum(self.edits(at + step)) <= sum(self.edits(at)):
                at += step
        return at


def _first(texts: Iterable[str], most: int) -> tuple[list[str], int]:
    """The first texts, up to a number of characters, and how many are left out."""
    kept: list[str] = []
    total = left_out = 0
    for text in texts:
        if total + len(text) > most:
            left_out += 1
        else:
            kept.append(text)
            total += len(text)
    return kept, left_out


def _knows(base: LanguageModel, labels: Iterable[str]) -> bool:
    """Whether the base's language model knows most characters of the labels."""
    counts = Counter(itertools.chain.from_iterable(labels))
    known = sum(counts[character] for character in base.ngrams.characters)
    return known >= _KNOWN * counts.total()


def _small_enough(
    labels: Sequence[str], others: Sequence[str], weights: Sequence[int], alphabet: Alphabet, config: LanguageConfig
) -> ngrams.NGrams:
    """N-grams that fit into the bytes they may have; the beginning of a text alone where the alphabet fills these."""
    allowed = int(config.max_megabytes * 1e6)
    most: int | None = None
    while True:
        found = ngrams.count(
            labels, alphabet, config.order, others=others, weights=weights, least_texts=config.least_labels, most=most
        )
        size = len(found.to_bytes())
        if size <= allowed or most == 0:
            return found
        most = int(0.95 * len(found) * allowed / size)


def decoded(decoder: Decoder, alphabet: Alphabet, images: Sequence[Recorded]) -> list[Decoded]:
    """The texts that a decoder makes of recorded images, in batches."""
    results: list[Decoded] = []
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        frames = np.array([len(recorded.log_probs) for recorded in batch])
        log_probs = np.zeros((len(batch), frames.max(), len(alphabet) + 1), np.float32)
        for row, recorded in enumerate(batch):
            log_probs[row, : frames[row]] = recorded.log_probs
        results += decoder.decode(log_probs, frames, alphabet)
    return results


def _edits(results: Sequence[Decoded], images: Sequence[Recorded]) -> list[int]:
    pairs = zip(results, images, strict=True)
    return [edits_and_length(recorded.label, result.text)[0] for result, recorded in pairs]


def _differs(before: Sequence[int], after: Sequence[int], lengths: Sequence[int], level: float) -> int:
    """Sign of the difference of CER from before to after on the same images, 0 where it may be chance."""
    paired = PairedErrors()
    for counts in zip(before, after, lengths, strict=True):
        paired.add(*counts)
    return paired.differs(level)


def _may_help(before: Sequence[int], after: Sequence[int], lengths: Sequence[int]) -> bool:
    """Whether images do not contradict that what is known to help elsewhere helps here, too."""
    if len(lengths) < _FEW:
        return _differs(before, after, lengths, _SURE) <= 0
    return sum(after) < sum(before)


def _temperature(results: Sequence[Decoded], images: Sequence[Recorded], neutral: float) -> float:
    """Temperature under which it is least surprising which texts are right (Guo et al. 2017)."""
    shares, right = [], []
    for result, recorded in zip(results, images, strict=True):
        found = [result.confidence, *(other.confidence for other in result.alternatives)]
        shares.append([*found, max(1.0 - sum(found), 0.0)])
        right.append(result.text == recorded.label)

    def surprise(temperature: float) -> float:
        total = 0.0
        for found, is_right in zip(shares, right, strict=True):
            powers = np.power(found, 1.0 / temperature)
            sure = float(np.clip(powers[0] / max(powers.sum(), 1e-300), 1e-4, 1 - 1e-4))
            total -= np.log(sure if is_right else 1.0 - sure)
        return total

    return min(temperatures(len(images), neutral), key=surprise)
