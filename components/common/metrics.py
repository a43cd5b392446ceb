"""CER and WER: the one implementation that training, Evaluator, command line and benchmarks share.

CER = sum of edit distances / sum of reference lengths in characters, over all samples (micro-average). WER is the same
over words between white space. Neither is a mean of per-sample rates: one wrong letter in a word of two would weigh
as much as ten in a line of twenty. Texts are compared as they are, in NFC, without stripping or folding anything.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from rapidfuzz.distance import Levenshtein

Unit = Literal["character", "word"]
RESAMPLES = 2000
_BLOCK = 50  # resamples that are in memory at once
RANDOMISATIONS = 20_000


@dataclass
class ErrorCounts:
    """How often each pair (edits, reference length) occurred: all that rate and interval need.

    A few hundred distinct pairs stand for millions of samples, and counts merge in any order to the same result.
    """

    pairs: Counter[tuple[int, int]] = field(default_factory=Counter)

    def add(self, reference: str, prediction: str, unit: Unit = "character") -> None:
        """Counts one sample."""
        self.pairs[edits_and_length(reference, prediction, unit)] += 1

    def merge(self, others: Iterable[ErrorCounts]) -> ErrorCounts:
        """Adds other counts to these and returns them."""
        for other in others:
            self.pairs.update(other.pairs)
        return self

    @property
    def samples(self) -> int:
        """Number of samples."""
        return sum(self.pairs.values())

    @property
    def edits(self) -> int:
        """Sum of the edit distances."""
        return sum(edits * count for (edits, _), count in self.pairs.items())

    @property
    def length(self) -> int:
        """Sum of the reference lengths."""
        return sum(length * count for (_, length), count in self.pairs.items())

    @property
    def rate(self) -> float:
        """Edits / length; NaN without reference characters."""
        return self.edits / self.length if self.length else float("nan")

    @property
    def exact(self) -> float:
        """Share of samples without an edit; NaN without samples."""
        right = sum(count for (edits, _), count in self.pairs.items() if edits == 0)
        return right / self.samples if self.pairs else float("nan")

    def interval(self, level: float) -> tuple[float, float]:
        """Bootstrap percentile interval of the rate over samples (Efron 1979), always the same for the same counts.

        A bootstrap knows only errors that occurred: with few of them its upper end is too low, and without any it is 0.
        For the upper end a sample of mean length that is wholly wrong is therefore added to those that are drawn from
        (after Gaffke 2005, who adds the largest possible value). Without errors it is `unseen_share`.

        Args:
            level: Its coverage, e.g. 0.95.

        Returns:
            Lower and upper end; NaN without reference characters.
        """
        if not self.length:
            return float("nan"), float("nan")
        unseen = unseen_share(self.samples, level)
        if not self.edits:
            return 0.0, unseen
        pairs = sorted(self.pairs)
        counts, values = np.array([self.pairs[pair] for pair in pairs]), np.array(pairs, np.float64)
        low, high = np.quantile(_resampled_rates(counts, values), [(1 - level) / 2, (1 + level) / 2])
        wrong = self.length / self.samples
        rates = _resampled_rates(np.append(counts, 1), np.append(values, [[wrong, wrong]], axis=0))
        # Rates may exceed one: then the sample that is added is one of the better ones.
        return float(low), max(float(high), float(np.quantile(rates, (1 + level) / 2)), unseen)


@dataclass
class PairedErrors:
    """Errors of two models on the same samples: whether their difference is more than luck of the draw.

    Pairs of edits on one sample vary together, since a hard image is hard for both, so that a comparison by samples
    sees differences that lie far within the two models' own intervals.
    """

    triples: Counter[tuple[int, int, int]] = field(default_factory=Counter)

    def add(self, before: int, after: int, length: int) -> None:
        """Counts one sample: edits of either model and the length of the reference."""
        self.triples[(before, after, length)] += 1

    @property
    def difference(self) -> float:
        """Rate of the model after minus rate of the model before; NaN without reference characters."""
        length = sum(n * count for (_, _, n), count in self.triples.items())
        edits = sum((after - before) * count for (before, after, _), count in self.triples.items())
        return edits / length if length else float("nan")

    def interval(self, level: float) -> tuple[float, float]:
        """Bootstrap percentile interval of the difference over samples, always the same for the same counts.

        Args:
            level: Its coverage, e.g. 0.95.

        Returns:
            Lower and upper end; NaN without reference characters.
        """
        if np.isnan(self.difference):
            return float("nan"), float("nan")
        triples = sorted(self.triples)
        totals = _resampled(np.array([self.triples[t] for t in triples]), np.array(triples, np.float64))
        differences = (totals[:, 1] - totals[:, 0]) / np.maximum(totals[:, 2], 1.0)
        low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def differs(self, level: float) -> int:
        """Whether the difference is more than chance: interval and randomisation test must both say so.

        The interval of a few samples may be a single point, so that one sample alone would prove a difference.

        Args:
            level: Confidence, e.g. 0.95.

        Returns:
            -1 where the model after is better, 1 where it is worse, 0 where that cannot be told from chance.
        """
        low, high = self.interval(level)
        sign = int(low > 0) - int(high < 0)
        return sign if sign and self.p_value <= 1 - level else 0

    @property
    def p_value(self) -> float:
        """Probability of a difference at least that large if it were chance which model made which text.

        Approximate randomisation test (Noreen 1989), two-sided, by `RANDOMISATIONS` draws; at least one in as many.
        """
        gaps: Counter[int] = Counter()
        for (before, after, _), count in self.triples.items():
            gaps[abs(after - before)] += count
        sizes = np.array(sorted(set(gaps) - {0}))
        observed = abs(sum((a - b) * count for (b, a, _), count in self.triples.items()))
        if not observed:
            return 1.0
        counts = np.array([gaps[size] for size in sizes])
        ups = np.random.default_rng(0).binomial(counts, 0.5, size=(RANDOMISATIONS, len(sizes)))
        drawn = np.abs((2 * ups - counts) @ sizes)
        return float((np.count_nonzero(drawn >= observed) + 1) / (RANDOMISATIONS + 1))


def _resampled(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sums [RESAMPLES, k] over samples drawn with replacement: `counts` [m] samples have the `values` [m, k]."""
    # Drawing n samples with replacement is drawing the multinomial counts of the distinct values.
    # In blocks, which are the same numbers: of 100,000 lines hardly two have the same values.
    random, shares = np.random.default_rng(0), counts / counts.sum()
    blocks = (random.multinomial(int(counts.sum()), shares, size=_BLOCK) for _ in range(RESAMPLES // _BLOCK))
    return np.concatenate([drawn @ values for drawn in blocks])


def _resampled_rates(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Rates [RESAMPLES] of `_resampled` edits and lengths."""
    totals = _resampled(counts, values)
    return totals[:, 0] / np.maximum(totals[:, 1], 1.0)


def unseen_share(samples: int, level: float) -> float:
    """Largest share that samples can have of which none was drawn, at a confidence: 3 / samples at 0.95.

    The rule of three (Hanley and Lippman-Hand 1983), exactly.
    """
    return float(1 - (1 - level) ** (1 / samples))


def samples_for(share: float, level: float) -> int:
    """Fewest samples for which `unseen_share` is at most a share."""
    return math.ceil(math.log1p(-level) / math.log1p(-share))


def edits_and_length(reference: str, prediction: str, unit: Unit = "character") -> tuple[int, int]:
    """Edit distance of one sample and the length of its reference, in characters or words."""
    reference = unicodedata.normalize("NFC", reference)
    prediction = unicodedata.normalize("NFC", prediction)
    if unit == "word":
        words = reference.split()
        return Levenshtein.distance(words, prediction.split()), len(words)
    return Levenshtein.distance(reference, prediction), len(reference)


def count_errors(references: Iterable[str], predictions: Iterable[str], unit: Unit = "character") -> ErrorCounts:
    """Counts all samples of two equally long sequences.

    Raises:
        ValueError: One is longer than the other.
    """
    counts = ErrorCounts()
    for reference, prediction in zip(references, predictions, strict=True):
        counts.add(reference, prediction, unit)
    return counts
