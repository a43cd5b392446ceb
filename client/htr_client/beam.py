"""CTC prefix beam search with a lexicon and a character language model.

The search (Graves 2006; Hannun et al. 2014) goes through the frames of one image at a time in plain Python. A trained
model is certain in most frames: what is improbable is left out of a frame, frames with nothing but the blank are passed
over at once, and where one prefix is far ahead it is the only one. That is cheaper than arrays over a whole batch.
Frames x width x candidates bound the time for a noisy or hostile image.
"""

import math
from collections.abc import Sequence
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

import numpy as np

from htr_client.decoding import (
    Alphabet,
    Alternative,
    BestPath,
    Decoded,
    DecodedCharacter,
    Decoder,
    Path,
    align,
    best_paths,
    check,
    log_posteriors,
)
from htr_client.language import CharacterModel, LanguageModel, MixedAutomaton, MixedModel
from htr_client.lexicon import CompiledLexicon, Lexicon
from htr_client.ngrams import Automaton

# What one frame may hold, relative to its most probable class: the blank, and characters as (class, probability).
_Frame = tuple[float, list[tuple[int, float]]]
_MOST_ALLOWANCE = 12.0
# By how much less the language model expects what the search has dropped: from 2 to 3.5 the confidence was calibrated
# best, on validation and evaluation images alike; at 0 it was far too low.
_DROPPED = -3.0
_SMALL, _LARGE = 1e-100, 1e100
_LOWEST = -1e300  # every score that is not minus infinity is above


class PrefixBeamSearch:
    """Finds texts by the sum over their alignments, instead of the one best alignment.

    The text returned has the highest log P(text | image) + language_weight * log P(text) + length_bonus * length,
    plus what the lexicon adds, among those that the beam holds. Its confidence is P(text | image) alone, as for
    `BestPath`. With the language model of a version, which knows how sure it may be, it is the share of the text among
    what the image shows and the language model expects.

    Args:
        width: Prefixes kept after every frame.
        candidates: The most probable characters of a frame that may extend a prefix.
        pruning: Classes of a frame, and prefixes, that are less probable than e^-pruning times the best one are
            dropped; math.inf keeps them all. With a lexicon prefixes may be as much worse in addition as a word outside
            of it costs, and where it allows no other words, classes too; 12 at most.
        alternatives: How many other readings to return.
        lexicon: Words that the text is made of.
        language_model: Model of likely texts.
        language_weight: Weight of the language model; by default the model's own, which is 0.4 for a `CharacterModel`.
        length_bonus: Added for every character, which makes up for what the model takes away for every character; by
            default the model's own, as many times larger as language_weight is, and 0 without a model.

    Raises:
        ValueError: When width, candidates or pruning are not positive, or another number is infinite or none.
        TypeError: When `lexicon` or `language_model` is something else, such as a list of words.
    """

    def __init__(
        self,
        width: int = 16,
        *,
        candidates: int = 16,
        pruning: float = 8.0,
        alternatives: int = 0,
        lexicon: Lexicon | None = None,
        language_model: CharacterModel | LanguageModel | MixedModel | None = None,
        language_weight: float | None = None,
        length_bonus: float | None = None,
    ) -> None:
        if width < 1 or candidates < 1 or not pruning > 0 or alternatives < 0:
            raise ValueError("width, candidates and pruning are positive, alternatives not negative")
        if not all(math.isfinite(number or 0.0) for number in (language_weight, length_bonus)):
            raise ValueError(
                f"language_weight (--lm-weight) and length_bonus are finite, not {language_weight} and {length_bonus}"
            )
        if not isinstance(lexicon, Lexicon | None):
            raise TypeError(f"lexicon is a Lexicon, such as Lexicon(words), not a {type(lexicon).__name__}")
        if not isinstance(language_model, CharacterModel | LanguageModel | MixedModel | None):
            kind = type(language_model).__name__
            raise TypeError(f"language_model is a CharacterModel, such as CharacterModel(texts), not a {kind}")
        self._width = width
        self._candidates = candidates
        allowance = min(-lexicon.unknown, _MOST_ALLOWANCE) if lexicon is not None else 0.0
        self._pruning = pruning + allowance
        self._class_pruning = pruning if lexicon is None or lexicon.unknown > -math.inf else pruning + allowance
        self._alternatives = alternatives
        self._lexicon = lexicon
        self._language_model = language_model
        if language_model is None:
            self._weight, own_bonus = 0.0, 0.0
        else:
            self._weight = language_model.weight if language_weight is None else language_weight
            # A heavier model takes more away for every character.
            heavier = self._weight / language_model.weight if language_model.weight else 1.0
            own_bonus = heavier * language_model.length_bonus
        self._length_bonus = own_bonus if length_bonus is None else length_bonus
        self._temperature = language_model.temperature if language_model is not None else None

    def decode(self, log_probs: np.ndarray, frames: np.ndarray, alphabet: Alphabet) -> list[Decoded]:
        """Decodes a batch; see `Decoder.decode`."""
        check(log_probs, frames, alphabet)
        if len(alphabet) == 0:
            return BestPath().decode(log_probs, frames, alphabet)
        # What is compiled here is there for all that follow, so an image without frames does not come before it.
        search = _Search(
            self._width,
            self._pruning,
            self._lexicon.compile(alphabet) if self._lexicon is not None else None,
            self._language_model.compile(alphabet) if self._language_model is not None else None,
            self._weight,
            self._length_bonus,
            alphabet.blank,
        )
        if log_probs.size == 0:
            return BestPath().decode(log_probs, frames, alphabet)
        paths = best_paths(log_probs, frames, alphabet)
        found = [search.readings(*row) for row in _likely(log_probs, frames, self._candidates, self._class_pruning)]
        if self._temperature is None:
            found = [readings[: 1 + self._alternatives] for readings in found]
            confidences = _posteriors(log_probs, frames, found)
        else:
            confidences = [_shares(readings, self._temperature) for readings in found]
        other = [row for row, readings in enumerate(found) if readings[0].classes != paths[row].classes]
        texts = [found[row][0].classes for row in other]
        for row, text, spans in zip(other, texts, align(log_probs[other], frames[other], texts), strict=True):
            characters = [
                DecodedCharacter(alphabet[i], peak, span) for i, (span, peak) in zip(text, spans, strict=True)
            ]
            paths[row] = Path(text, tuple(characters))
        results = []
        for readings, sure, path, valid in zip(found, confidences, paths, frames.tolist(), strict=True):
            wanted = readings[: 1 + self._alternatives]
            best, *others = [
                Alternative(alphabet.decode(reading.classes), share if valid else 0.0)
                for reading, share in zip(wanted, sure, strict=False)
            ]
            results.append(Decoded(*best, path.characters, tuple(others)))
        return results


def default_decoder(language_model: LanguageModel | None, alternatives: int = 0) -> Decoder:
    """How a version is decoded unless something else is asked for.

    Args:
        language_model: Language model of the version; None where it has none.
        alternatives: How many other readings to return; the best path has none.

    Returns:
        A beam search with the language model, or the best path.
    """
    if language_model is None:
        return BestPath()
    # Half as wide, long lines have 1 % more errors; wider, next to none fewer (docs/experiments.md).
    return PrefixBeamSearch(16, pruning=6.0, alternatives=alternatives, language_model=language_model)


class _Reading(NamedTuple):
    """One text of an image, with the logarithms of what the search knows of P(text | image), and of all that counts."""

    classes: list[int]
    probability: float
    score: float


def _posteriors(log_probs: np.ndarray, frames: np.ndarray, found: Sequence[Sequence[_Reading]]) -> list[list[float]]:
    """P(text | image) of the readings of each row."""
    rows = np.repeat(np.arange(len(found)), [len(readings) for readings in found])
    texts = [reading.classes for readings in found for reading in readings]
    posteriors = iter(np.exp(log_posteriors(log_probs[rows], frames[rows], texts)).tolist())
    return [[next(posteriors) for _ in readings] for readings in found]


def _shares(readings: Sequence[_Reading], temperature: float) -> list[float]:
    """How probable each reading is, given what the image shows and what the language model expects.

    What the search has dropped counts too, as if the language model expected it less than the least expected reading:
    where the image shows nothing, the language model alone makes no text sure.
    """
    best = readings[0].score
    if best == -math.inf:
        return [0.0] * len(readings)
    dropped = 1.0 - sum([math.exp(min(reading.probability, 0.0)) for reading in readings])
    weights = [math.exp((reading.score - best) / temperature) for reading in readings]
    total = sum(weights)
    if dropped > 0.0:
        earned = min([reading.score - reading.probability for reading in readings])
        excess = (math.log(dropped) + earned + _DROPPED - best) / temperature
        if excess <= 0.0:
            total += math.exp(excess)
        else:  # of a long line without anything certain it may be more than exp can tell
            shrink = math.exp(-excess)
            weights = [weight * shrink for weight in weights]
            total = total * shrink + 1.0
    return [weight / total for weight in weights]


def _likely(
    log_probs: np.ndarray, frames: np.ndarray, candidates: int, pruning: float
) -> list[tuple[list[_Frame], float]]:
    """The frames of each row with what is probable in them, and the logarithm of the probability of its best path.

    Of frames that follow each other with nothing but the blank only the first one is among them.
    """
    count, length, _ = log_probs.shape
    peaks = log_probs.max(axis=2)
    valid = np.arange(length) < frames[:, None]
    with np.errstate(invalid="ignore", over="ignore"):
        probabilities = np.exp(log_probs - peaks[:, :, None])
    kept = (probabilities > math.exp(-pruning)) & valid[:, :, None]
    blanks = np.where(kept[:, :, -1], probabilities[:, :, -1], 0.0).ravel().tolist()
    kept[:, :, -1] = False
    numbers = kept.sum(axis=2)
    if (crowded := numbers > candidates).any():
        least = np.argpartition(probabilities[crowded][:, :-1], -candidates, axis=1)[:, :-candidates]
        few = kept[crowded]
        np.put_along_axis(few, least, False, axis=1)
        kept[crowded], numbers[crowded] = few, candidates
    wanted = np.ones_like(numbers, dtype=bool)
    wanted[:, 1:] = (numbers[:, 1:] > 0) | (numbers[:, :-1] > 0)
    wanted &= valid
    row, t, character = np.nonzero(kept)
    values = probabilities[kept]
    order = np.lexsort((-values, row * length + t))  # of each frame the most probable first
    characters = list(zip(character[order].tolist(), values[order].tolist(), strict=True))
    ends = np.cumsum(numbers).tolist()
    starts = [0, *ends[:-1]]
    found: list[list[_Frame]] = [[] for _ in range(count)]
    for place in np.flatnonzero(wanted).tolist():
        found[place // length].append((blanks[place], characters[starts[place] : ends[place]]))
    return list(zip(found, np.where(valid, peaks, 0.0).sum(axis=1, dtype=float).tolist(), strict=True))


class _Prefix:
    """A beginning of the text: probabilities of its alignments that end in a blank, and in its last character."""

    __slots__ = ("blank", "character", "earned", "last", "new_blank", "new_last", "node", "number", "parent", "state")

    def __init__(
        self, number: int, parent: "_Prefix | None", character: int, earned: float, state: int, node: int
    ) -> None:
        self.number, self.parent, self.character = number, parent, character
        self.earned, self.state, self.node = earned, state, node  # from model and lexicon, and where it is in them
        self.blank = self.last = self.new_blank = self.new_last = 0.0


class _Search:
    """A beam search; the settings are those of `PrefixBeamSearch`."""

    def __init__(
        self,
        width: int,
        pruning: float,
        lexicon: CompiledLexicon | None,
        model: Automaton | MixedAutomaton | None,
        weight: float,
        length_bonus: float,
        blank: int,
    ) -> None:
        self._width, self._pruning = width, pruning
        # A lexicon may rule out what is most probable: then only scores are compared, which it has a part in.
        self._share = math.exp(-pruning) if lexicon is None else 0.0
        self._highest = length_bonus + (lexicon.highest if lexicon is not None else 0.0)
        self._following = lexicon.following if lexicon is not None and lexicon.is_strict else None
        self._lexicon, self._model, self._weight, self._length_bonus = lexicon, model, weight, length_bonus
        self._blank = blank

    def readings(self, frames: Sequence[_Frame], best_path: float) -> list[_Reading]:
        """The readings of one image that are left at its end.

        Args:
            frames: As `_likely` gives them.
            best_path: Logarithm of the probability of the best path.

        Returns:
            The readings, best first. Only the empty text when a lexicon lets none of the prefixes end.
        """
        root = _Prefix(0, None, -1, 0.0, self._model.start if self._model is not None else 0, 0)
        root.blank = 1.0
        beam = [root]
        known: dict[int, _Prefix] = {}  # by the number of the prefix before it x classes + its last character
        scale = best_path
        for blank, characters in frames:
            if not characters:
                for prefix in beam:
                    prefix.blank, prefix.last = prefix.blank + prefix.last, 0.0
                continue
            beam = self._extend(beam, known, blank, characters)
            # Or those of a long line would underflow; or overflow, where so many alignments are as good as the best.
            most = max([prefix.blank + prefix.last for prefix in beam], default=1.0)
            if not _SMALL < most < _LARGE:
                scale += math.log(most)
                for prefix in beam:
                    prefix.blank /= most
                    prefix.last /= most
        readings = []
        for prefix in beam:
            probability = scale + math.log(prefix.blank + prefix.last)
            score = probability + prefix.earned + self._at_end(prefix)
            if score > -math.inf:
                readings.append(_Reading(_read_back(prefix), probability, score))
        readings.sort(key=attrgetter("score"), reverse=True)
        return readings or [_Reading([], -math.inf, -math.inf)]

    def _extend(
        self, beam: list[_Prefix], known: dict[int, _Prefix], blank: float, characters: list[tuple[int, float]]
    ) -> list[_Prefix]:
        """The beam after one frame."""
        now, base = dict(characters), self._blank
        least = self._share * max([prefix.blank + prefix.last for prefix in beam], default=0.0)
        old: dict[int, _Prefix] = {prefix.number: prefix for prefix in beam}
        # New prefixes, which can be reached in one way only: score, parent, character, probability, and what it earns.
        found: list[tuple[float, _Prefix, int, float, tuple[float, int, int]]] = []
        lowest = _LOWEST  # what a score must reach, as far as is known
        for prefix in beam:
            ends_in_blank, last = prefix.blank, prefix.character
            total = ends_in_blank + prefix.last
            prefix.new_blank += total * blank
            if last in now:
                prefix.new_last += prefix.last * now[last]
            highest = prefix.earned + self._highest
            possible = characters
            if self._following is not None:
                possible = [(each, now[each]) for each in self._following[prefix.node] if each in now]
            for character, probability in possible:
                added = total * probability
                if added <= least:
                    break
                if character == last:  # it needs a blank in between
                    added = ends_in_blank * probability
                    if added <= least:
                        continue
                child = known.get(prefix.number * base + character)
                if child is not None:
                    child.new_last += added
                    old[child.number] = child
                    continue
                logarithm = math.log(added)
                if logarithm + highest < lowest:
                    continue
                earned = self._follow(prefix, character)
                score = logarithm + earned[0]
                if score > lowest:
                    found.append((score, prefix, character, added, earned))
                    lowest = max(lowest, score - self._pruning)
        scored: list[Any] = []
        for prefix in old.values():
            prefix.blank, prefix.last = prefix.new_blank, prefix.new_last
            prefix.new_blank = prefix.new_last = 0.0
            total = prefix.blank + prefix.last
            if total > 0.0:
                scored.append((math.log(total) + prefix.earned, prefix))
        scored += found
        scored.sort(key=itemgetter(0), reverse=True)
        lowest = scored[0][0] - self._pruning if scored else 0.0
        kept = []
        for score, prefix, *new in scored[: self._width]:
            if score < lowest:
                break
            if new:
                character, added, earned = new
                number = len(known) + 1
                parent, prefix = prefix, _Prefix(number, prefix, character, *earned)
                known[parent.number * base + character] = prefix
                prefix.last = added
            kept.append(prefix)
        return kept

    def _follow(self, prefix: _Prefix, character: int) -> tuple[float, int, int]:
        """What a prefix has earned, and where it is in model and lexicon, after one more character."""
        earned, state, node = prefix.earned + self._length_bonus, 0, 0
        if self._model is not None:
            logarithm, state = self._model.step(prefix.state, character)
            earned += self._weight * logarithm
        if self._lexicon is not None:
            added, node = self._lexicon.step(prefix.node, character)
            earned += added
        return earned, state, node

    def _at_end(self, prefix: _Prefix) -> float:
        """What a prefix earns for being the whole text."""
        earned = 0.0
        if self._model is not None:
            earned += self._weight * self._model.step(prefix.state, self._blank)[0]
        if self._lexicon is not None:
            earned += self._lexicon.end(prefix.node)
        return earned


def _read_back(prefix: _Prefix) -> list[int]:
    classes = []
    while prefix.parent is not None:
        classes.append(prefix.character)
        prefix = prefix.parent
    return classes[::-1]
