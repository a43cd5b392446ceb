"""From the model's log-probabilities to text: alphabet, CTC probabilities, best path, and the decoder protocol.

Names used throughout: `log_probs` is float32 [N, T, C], natural logarithms; `frames` is int32 [N], how many of the T
frames of each row are valid; classes 0..C-2 are the characters of the alphabet and class C-1 is the blank.

Everything works on whole batches in numpy, which lets go of the interpreter lock while it computes.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, overload, runtime_checkable

import numpy as np


class Alphabet(Sequence[str]):
    """The characters a model can write, in class order; the blank comes after the last one.

    Args:
        characters: One string a class. Usually single code points; a longer one (a letter with a combining mark) works.

    Raises:
        ValueError: When a character is empty or comes twice.
    """

    def __init__(self, characters: Iterable[str]) -> None:
        self._characters = tuple(characters)
        self._ids = {character: i for i, character in enumerate(self._characters)}
        if "" in self._ids or len(self._ids) != len(self._characters):
            raise ValueError("the characters of an alphabet are different and not empty")
        # Longest first, so that a letter with its combining mark wins over the bare letter.
        longest_first = sorted(self._characters, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._is_simple = all(len(character) == 1 for character in self._characters)

    @property
    def blank(self) -> int:
        """The class of the blank."""
        return len(self._characters)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        return self._characters[index]

    def __len__(self) -> int:
        return len(self._characters)

    def __iter__(self) -> Iterator[str]:
        return iter(self._characters)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Alphabet) and self._characters == other._characters

    def __hash__(self) -> int:
        return hash(self._characters)

    def __repr__(self) -> str:
        return f"Alphabet({self._characters!r})"

    def encode(self, text: str, *, skip_unknown: bool = False) -> list[int]:
        """Classes of a text.

        Args:
            text: Text in the same Unicode normal form as the alphabet (NFC).
            skip_unknown: Whether to leave out characters that are not in the alphabet.

        Returns:
            One class a character.

        Raises:
            ValueError: When a character is not in the alphabet and not to be skipped.
        """
        ids, at = [], 0
        while at < len(text):
            match = self._pattern.match(text, at)
            if match is not None:
                ids.append(self._ids[match.group()])
            elif not skip_unknown:
                raise ValueError(f"{text[at]!r} is not in the alphabet")
            at = match.end() if match is not None else at + 1
        return ids

    def pieces(self, text: str) -> list[list[int]]:
        """Classes of a text, in pieces between characters that are not in the alphabet.

        Args:
            text: Text in the same Unicode normal form as the alphabet (NFC).

        Returns:
            The pieces, one more than there are such characters.
        """
        if self._is_simple and self._ids.keys() >= set(text):  # the usual case, several times as fast
            return [[self._ids[character] for character in text]]
        pieces: list[list[int]] = [[]]
        at = 0
        for match in self._pattern.finditer(text):
            pieces += [[] for _ in range(match.start() - at)]
            pieces[-1].append(self._ids[match.group()])
            at = match.end()
        return pieces + [[] for _ in range(len(text) - at)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of classes (without blanks).

        Args:
            ids: Classes 0..C-2.

        Returns:
            The text.
        """
        return "".join([self._characters[i] for i in ids])


class DecodedCharacter(NamedTuple):
    """One character of a decoded text.

    Attributes:
        text: The character.
        confidence: The highest probability of the character over the frames of its run, 0 to 1.
        span: First frame of its run and the frame after the last one.
    """

    text: str
    confidence: float
    span: tuple[int, int]


class Alternative(NamedTuple):
    """Another reading of the same image.

    Attributes:
        text: The text.
        confidence: Probability that it is right, 0 to 1, as that of `Decoded`: P(text | image), or with a version's
            language model its share of all that the search found.
    """

    text: str
    confidence: float


@dataclass(frozen=True)
class Decoded:
    """What a decoder makes of one image.

    Attributes:
        text: The text.
        confidence: Probability that the whole text is right, 0 where there is no valid frame: P(text | image), the sum
            over all CTC alignments; with a version's language model, the text's share of all that the search found.
        characters: The characters of the text with their confidence and span.
        alternatives: Other readings, best first, when the decoder was asked for them.
    """

    text: str
    confidence: float
    characters: tuple[DecodedCharacter, ...]
    alternatives: tuple[Alternative, ...] = ()


@runtime_checkable
class Decoder(Protocol):
    """Anything that makes texts of a batch of log-probabilities."""

    def decode(self, log_probs: np.ndarray, frames: np.ndarray, alphabet: Alphabet) -> list[Decoded]:
        """Decodes a batch.

        Args:
            log_probs: float32 [N, T, C].
            frames: int [N], 0..T.
            alphabet: Alphabet of C - 1 characters.

        Returns:
            N results, in order.

        Raises:
            ValueError: When the shapes do not fit each other or a number is not a number.
        """
        ...


class BestPath:
    """The most probable class of every frame; repeats merged, blanks dropped.

    It is fast, and what a client takes where the version has no language model.
    """

    def decode(self, log_probs: np.ndarray, frames: np.ndarray, alphabet: Alphabet) -> list[Decoded]:
        """Decodes a batch; see `Decoder.decode`."""
        check(log_probs, frames, alphabet)
        paths = best_paths(log_probs, frames, alphabet)
        posteriors = np.exp(log_posteriors(log_probs, frames, [path.classes for path in paths]))
        confidences = np.where(frames > 0, posteriors, 0.0).tolist()
        return [
            Decoded("".join([character.text for character in path.characters]), confidence, path.characters)
            for path, confidence in zip(paths, confidences, strict=True)
        ]


class Path(NamedTuple):
    """The most probable path of one image: classes of its text, and its characters."""

    classes: list[int]
    characters: tuple[DecodedCharacter, ...]


def best_paths(log_probs: np.ndarray, frames: np.ndarray, alphabet: Alphabet) -> list[Path]:
    """The most probable path of each row; it is also the most probable alignment of its own text.

    Args:
        log_probs: float [N, T, C].
        frames: int [N].
        alphabet: Alphabet of C - 1 characters.

    Returns:
        N paths.
    """
    count, length, _ = log_probs.shape
    if log_probs.size == 0:
        return [Path([], ()) for _ in range(count)]
    ids = log_probs.argmax(axis=2)
    best = np.take_along_axis(log_probs, ids[:, :, None], axis=2)[:, :, 0]
    ids[np.arange(length) >= frames[:, None]] = alphabet.blank
    # A run is a stretch of equal classes; runs of the blank are dropped. Cutting also at every row's start keeps
    # runs of neighbouring rows apart, so that the whole batch is one flat sequence.
    starts_run = np.ones_like(ids, dtype=bool)
    starts_run[:, 1:] = ids[:, 1:] != ids[:, :-1]
    starts = np.flatnonzero(starts_run)
    ends = np.append(starts[1:], ids.size)
    peaks = np.maximum.reduceat(best.ravel(), starts)
    classes = ids.ravel()[starts]
    kept = classes != alphabet.blank
    rows, firsts = np.divmod(starts[kept], length)
    lasts = (ends[kept] - rows * length).tolist()
    found = classes[kept].tolist()
    confidences = np.exp(np.minimum(peaks[kept], 0.0)).tolist()
    characters = [
        DecodedCharacter(alphabet[c], p, (a, b))
        for c, p, a, b in zip(found, confidences, firsts.tolist(), lasts, strict=True)
    ]
    bounds = itertools.pairwise(np.searchsorted(rows, np.arange(count + 1)).tolist())
    return [Path(found[a:b], tuple(characters[a:b])) for a, b in bounds]


def check(log_probs: np.ndarray, frames: np.ndarray, alphabet: Alphabet) -> None:
    """Refuses a batch whose parts do not fit each other.

    Args:
        log_probs: float [N, T, C].
        frames: int [N].
        alphabet: Alphabet of C - 1 characters.

    Raises:
        ValueError: With what does not fit.
    """
    if log_probs.ndim != 3 or log_probs.shape[2] != len(alphabet) + 1:
        raise ValueError(f"log_probs of shape {log_probs.shape} do not fit {len(alphabet)} characters and a blank")
    if frames.shape != log_probs.shape[:1]:
        raise ValueError(f"frames of shape {frames.shape} do not fit log_probs of shape {log_probs.shape}")
    if frames.size and not (frames.min() >= 0 and frames.max() <= log_probs.shape[1]):
        raise ValueError(f"frames outside 0..{log_probs.shape[1]}")
    if log_probs.size and not log_probs.max() < np.inf:
        raise ValueError("log_probs holds NaN or infinity")


def log_posteriors(log_probs: np.ndarray, frames: np.ndarray, labels: Sequence[Sequence[int]]) -> np.ndarray:
    """The logarithm of P(text | image) for one text a row: the CTC forward algorithm (Graves 2006).

    Args:
        log_probs: float [N, T, C].
        frames: int [N].
        labels: N sequences of classes, without blanks.

    Returns:
        float64 [N], at most 0; -inf for a text that cannot be aligned with so few frames.
    """
    count, length, classes = log_probs.shape
    states, last, skips = _states(labels, classes - 1)
    posteriors = np.where((frames == 0) & (last == 0), 0.0, -np.inf)
    if length == 0 or count == 0:
        return posteriors
    # Probabilities instead of logarithms: one exponential for the whole batch, then sums and products only. They are
    # relative to the best path, so what underflows (1e-308) would be 0 as a probability anyway; nothing overflows
    # because the scale is moved to the logarithm now and then.
    peaks = log_probs.max(axis=2).astype(np.float64)
    peaks[~np.isfinite(peaks)] = 0.0
    emissions = np.take_along_axis(log_probs, states[:, None, :], axis=2).transpose(1, 0, 2).astype(np.float64)
    emissions = np.exp(np.subtract(emissions, peaks.T[:, :, None], out=emissions), out=emissions)
    scale = np.cumsum(peaks, axis=1)
    moved = np.zeros(count)
    skipping = np.zeros(states.shape)
    skipping[:, 2:] = skips
    # Two columns of zeros in front stand for the states before the first one. Before the first frame the text is as
    # if on its leading blank, from where state 1 is one step away.
    alpha = np.zeros((count, states.shape[1] + 2))
    alpha[:, 2] = 1.0
    ends = set(frames.tolist())
    with np.errstate(divide="ignore"):
        for t in range(int(frames.max(initial=0))):
            step = alpha[:, :-2] * skipping
            step += alpha[:, 1:-1]
            step += alpha[:, 2:]
            np.multiply(step, emissions[t], out=alpha[:, 2:])
            if t + 1 in ends:
                rows = np.flatnonzero(frames == t + 1)
                ending = alpha[rows, last[rows] + 2] + np.where(last[rows] > 0, alpha[rows, last[rows] + 1], 0.0)
                posteriors[rows] = np.log(ending) + moved[rows] + scale[rows, t]
            if t % 16 == 15:
                total = alpha.sum(axis=1)
                total[total == 0] = 1.0
                alpha /= total[:, None]
                moved += np.log(total)
    return np.minimum(posteriors, 0.0)


def align(
    log_probs: np.ndarray, frames: np.ndarray, labels: Sequence[Sequence[int]]
) -> list[list[tuple[tuple[int, int], float]]]:
    """Where each character of one text a row stands: the most probable CTC alignment (Viterbi).

    Args:
        log_probs: float [N, T, C].
        frames: int [N].
        labels: N sequences of classes, without blanks.

    Returns:
        For each row and each of its characters the span (first frame, frame after the last) and the highest
        probability of the character in it; empty rows for texts that cannot be aligned.
    """
    count, length, classes = log_probs.shape
    states, last, skips = _states(labels, classes - 1)
    if length == 0 or count == 0:
        return [[] for _ in labels]
    emissions = np.take_along_axis(log_probs, states[:, None, :], axis=2).transpose(1, 0, 2)
    score = np.full(states.shape, -np.inf)
    score[:, 0] = 0.0
    came_from = np.zeros((length, *states.shape), np.int8)
    choices = np.full((3, *states.shape), -np.inf)
    for t in range(int(frames.max(initial=0))):
        choices[0] = score
        choices[1, :, 1:] = score[:, :-1]
        choices[2, :, 2:] = np.where(skips, score[:, :-2], -np.inf)
        came_from[t] = choices.argmax(axis=0)
        score = np.where((t < frames)[:, None], choices.max(axis=0) + emissions[t], score)
    rows = np.arange(count)
    at = np.where((last > 0) & (score[rows, last - 1] > score[rows, last]), last - 1, last)
    reached = np.isfinite(score[rows, at]) & (frames > 0)
    path = np.full((count, length), -1)
    for t in range(length - 1, -1, -1):
        active = t < frames
        path[:, t] = np.where(active, at, -1)
        at = np.where(active, at - came_from[t, rows, at], at)
    results: list[list[tuple[tuple[int, int], float]]] = []
    for row, ids in enumerate(labels):
        if not reached[row]:
            results.append([])
            continue
        # States never go back, so a character's frames are found by bisection.
        starts = np.searchsorted(path[row, : frames[row]], 2 * np.arange(len(ids)) + 1, side="left").tolist()
        ends = np.searchsorted(path[row, : frames[row]], 2 * np.arange(len(ids)) + 1, side="right").tolist()
        results.append(
            [
                ((a, b), float(np.exp(min(0.0, log_probs[row, a:b, i].max()))))
                for i, a, b in zip(ids, starts, ends, strict=True)
            ]
        )
    return results


def _states(labels: Sequence[Sequence[int]], blank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """CTC states of one text a row: blanks around every character.

    Returns:
        Classes of the states, int [N, S]; the last state of each row, int [N]; and for the states from 2 on whether
        the state two before leads to it (a new character, not the same as the one before), bool [N, S - 2].
    """
    lengths = np.array([len(ids) for ids in labels], int)
    # At least one character wide, so that the slices of the callers hold for a batch of empty texts too.
    states = np.full((len(labels), 2 * max(1, int(lengths.max(initial=0))) + 1), blank)
    for row, ids in enumerate(labels):
        states[row, 1 : 2 * len(ids) : 2] = ids
    return states, 2 * lengths, (states[:, 2:] != blank) & (states[:, 2:] != states[:, :-2])
