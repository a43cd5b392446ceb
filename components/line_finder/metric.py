"""How well lines are found: precision, recall and F1 of baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from components.line_finder.geometry import points, x_heights
from htr_client.pages import Line

FindLines = Callable[[np.ndarray], tuple[Line, ...]]
"""From a page, uint8 [height, width], to its lines in its pixels, in reading order."""
COVERED = 0.7
"""Share of a baseline that the other one must cover."""
TOLERANCE = 0.5
"""Distance within which a baseline covers another one, in x-heights."""
_SAMPLES = 200  # of a baseline


@dataclass(frozen=True)
class LineScore:
    """Counts of lines, which add up over pages.

    Attributes:
        true: Lines that there are.
        found: Lines that were found.
        matched: Pairs of them.
    """

    true: int = 0
    found: int = 0
    matched: int = 0

    def __add__(self, other: LineScore) -> LineScore:
        return LineScore(self.true + other.true, self.found + other.found, self.matched + other.matched)

    @property
    def precision(self) -> float:
        """Share of the found lines that are true; 1 where none was found."""
        return self.matched / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        """Share of the true lines that were found; 1 where there are none."""
        return self.matched / self.true if self.true else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1 where there are no lines and none was found."""
        return 2 * self.matched / (self.true + self.found) if self.true + self.found else 1.0


def score_page(true: Sequence[Line], found: Sequence[Line]) -> LineScore:
    """Compares the lines found on a page with the true ones.

    A found line counts when its baseline covers 70 % of a true one within half an x-height, and the true one 70 % of
    it. The pairs are one to one: a line that was found twice, or two lines found as one, count once at most. The
    x-height is that of the true line, see `geometry.x_heights`. The measure is stricter than that of cBAD (Grüning et
    al. 2018, arXiv 1705.03311), which credits parts of lines.

    Args:
        true: Lines with baselines and polygons.
        found: Lines with baselines.

    Returns:
        The counts.
    """
    courses = [points(line.baseline) for line in found]
    pairs = []
    for i, (line, x_height) in enumerate(zip(true, x_heights(true), strict=True)):
        course = points(line.baseline)
        for j, other in enumerate(courses):
            if not _may_meet(course, other, TOLERANCE * x_height):
                continue
            share = min(covered(course, other, TOLERANCE * x_height), covered(other, course, TOLERANCE * x_height))
            if share >= COVERED:
                pairs.append((share, i, j))
    # Hardly a line has two candidates: the better pair first is as good as the best assignment.
    taken_true: set[int] = set()
    taken_found: set[int] = set()
    for _, i, j in sorted(pairs, reverse=True):
        if i not in taken_true and j not in taken_found:
            taken_true.add(i)
            taken_found.add(j)
    return LineScore(len(true), len(found), len(taken_true))


def score_pages(pages: Iterable[tuple[Sequence[Line], Sequence[Line]]]) -> LineScore:
    """The sum of `score_page` over pairs of true and found lines: every line counts the same, whatever its page."""
    return sum((score_page(true, found) for true, found in pages), LineScore())


def _may_meet(one: np.ndarray, other: np.ndarray, distance: float) -> bool:
    return bool(
        len(one) and len(other)
        and (one.min(0) <= other.max(0) + distance).all() and (other.min(0) <= one.max(0) + distance).all()
    )  # fmt: skip


def covered(course: np.ndarray, by: np.ndarray, distance: float) -> float:
    """Share of a baseline that lies within a distance of another one.

    Args:
        course: Polyline, float64 [n, 2].
        by: The other one.
        distance: Distance in the same unit.
    """
    samples = _sampled(course)
    starts, ends = (by[:-1], by[1:]) if len(by) > 1 else (by, by)
    steps = ends - starts
    along = ((samples[:, None] - starts) * steps).sum(-1) / np.maximum((steps**2).sum(-1), 1e-9)
    nearest = starts + along.clip(0, 1)[..., None] * steps
    return float((np.linalg.norm(samples[:, None] - nearest, axis=-1).min(1) <= distance).mean())


def _sampled(course: np.ndarray) -> np.ndarray:
    """Points at equal distances along a polyline."""
    lengths = np.linalg.norm(np.diff(course, axis=0), axis=1)
    along = np.concatenate([[0.0], lengths.cumsum()])
    places = np.linspace(0, along[-1], _SAMPLES)
    return np.stack([np.interp(places, along, course[:, axis]) for axis in (0, 1)], axis=1)
