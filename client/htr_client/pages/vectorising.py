"""From the line finder's maps to lines: baselines and polygons in the page's pixels.

The network marks for each cell of a grid over the page whether it lies on a baseline, in the body of a line, and where
a line begins or ends, as ARU-Net (Grüning et al. 2019, arXiv 1802.03345) and kraken's segmenter (Kiessling 2020) do.
Here ridges of the first map are followed from column to column; the third map parts what touches; the second one
tells how far a line reaches above and below its baseline.

The ridges are followed by hand: skeletons, as the papers use them, need scikit-image or OpenCV's contrib modules,
have spurs that must be pruned, and join lines whose strokes touch. Lines may be skewed by up to 30 degrees; text that
runs from top to bottom is not found, the page has to be turned first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from htr_client.pages.model import Line, Points
from htr_client.pages.reading_order import with_columns

BASELINE, BODY, ENDS = range(3)
"""Channels of the maps."""

_WEAKEST = 0.25  # probability of a baseline on its ridge
_MEAN = 0.7  # mean probability along a line
_END = 0.6  # probability of an end within a line, where it is parted
_BODY = 0.5
_SILENT = 3  # columns that a ridge may be missing
_STEEPEST = 0.7  # rows for a column that a ridge may rise or fall
_GAP = 1.5  # of a line's height, between two pieces of a line
_JUMP = 0.3  # of a line's height, upwards or downwards between two pieces of a line
_BESIDE = 0.5  # of a line's height: ridges that are nearer to each other belong to one line
_BRANCH = 0.7  # share of a ridge beside a longer one of its line, from which on it adds nothing
_OVERLAP = 0.5  # largest share of a ridge beside another one that is its continuation
_SHORTEST_PART = 2.0  # of the usual height: an end nearer than that to the end of a ridge is its own
_SHORTEST = 1.0  # length of a line, of the height of this one or of most of the page
_FEWEST_CELLS = 4  # of a line
# Where the bodies of two lines touch, shares of the distance between their baselines; strokes of both lie between them.
_REACH_ABOVE, _REACH_BELOW = 0.8, 0.4
_LOWEST = 2.0  # cells of a body above the baseline


@dataclass
class _Ridge:
    """A baseline in cells, one point for each column.

    Attributes:
        start: Its first column.
        ys: Row for each column, float64.
    """

    start: int
    ys: np.ndarray

    @property
    def end(self) -> int:
        """The last column."""
        return self.start + len(self.ys) - 1

    def at(self, first: int, last: int) -> np.ndarray:
        """Rows of some of its columns, the last one included."""
        return self.ys[first - self.start : last - self.start + 1]

    @property
    def columns(self) -> np.ndarray:
        return np.arange(self.start, self.end + 1)

    @property
    def cells(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the cells that it passes."""
        return np.rint(self.ys).astype(int), self.columns


def find_lines(maps: np.ndarray, scale: float, width: int, height: int) -> tuple[Line, ...]:
    """Finds the lines of a page in the maps of the line finder.

    Args:
        maps: float32 [rows, columns, 3], probabilities of `BASELINE`, `BODY` and `ENDS`, or uint8, 255 for certainty.
            Cells beyond the page are allowed and hold nothing.
        scale: Cells of the maps for a pixel of the page.
        width: Width of the page in pixels.
        height: Height of the page in pixels.

    Returns:
        Lines with baseline and polygon, without text, in reading order; of several columns, each is a region.

    Raises:
        ValueError: The maps have another shape, or the scale is not positive.
    """
    if maps.ndim != 3 or maps.shape[2] != 3 or not scale > 0:
        raise ValueError(f"Maps are [rows, columns, 3] with a scale above 0, not {list(maps.shape)} with {scale}.")
    maps = maps[: math.ceil(height * scale), : math.ceil(width * scale)].astype(np.float32) / (
        255 if maps.dtype == np.uint8 else 1
    )
    if not maps.size:
        return ()
    baseline = cv2.GaussianBlur(maps[..., BASELINE], (3, 3), 0.7)
    gaps = _nearest(maps[..., BODY] < _BODY)
    ridges = _follow(baseline)
    usual = _usual_height(ridges, *_heights(ridges, gaps))
    ridges = _parted(ridges, baseline, maps[..., ENDS], max(_FEWEST_CELLS, round(_SHORTEST_PART * usual)))
    above, below = _heights(ridges, gaps)
    ridges = _without_forks(ridges, _lines_heights(above, below))
    above, below = _heights(ridges, gaps)
    ridges = _joined(ridges, _lines_heights(above, below), maps[..., ENDS])
    above, below = _heights(ridges, gaps)
    # Dots are less high than lines, too: they are measured with the page's lines.
    usual = _usual_height(ridges, above, below)
    lines = [
        _line(ridge, a, b, scale, width, height)
        for ridge, a, b in zip(ridges, above, below, strict=True)
        if _is_line(ridge, max(_usual(a) + _usual(b), usual), baseline, maps[..., BODY])
    ]
    return with_columns(lines)


def clarity_of(maps: np.ndarray) -> float:
    """How sure the line finder is of the baselines that it marks.

    Args:
        maps: As for `find_lines`.

    Returns:
        Mean probability of a baseline over the cells that may hold one; 0 where there is none.
    """
    marked = maps[..., BASELINE].astype(np.float32) / (255 if maps.dtype == np.uint8 else 1)
    marked = marked[marked >= _WEAKEST]
    return float(marked.mean()) if marked.size else 0.0


def _follow(baseline: np.ndarray) -> list[_Ridge]:
    """Ridges of a map: cells that are greater than those above and below, from column to column."""
    padded = np.pad(baseline, ((1, 1), (0, 0)), constant_values=-1)
    peaks = (baseline >= _WEAKEST) & (baseline >= padded[:-2]) & (baseline > padded[2:])
    up, here, down = padded[:-2].clip(0), baseline, padded[2:].clip(0)
    centres = np.arange(len(baseline))[:, None] + (down - up) / np.maximum(up + here + down, 1e-6)
    active: list[list[tuple[int, float]]] = []
    done: list[list[tuple[int, float]]] = []
    for column in range(baseline.shape[1]):
        found = centres[np.flatnonzero(peaks[:, column]), column]
        done += [ridge for ridge in active if column - ridge[-1][0] > _SILENT]
        active = [ridge for ridge in active if column - ridge[-1][0] <= _SILENT]
        if not len(found):
            continue
        taken = np.zeros(len(found), bool)
        if active:
            last = np.array([_next(ridge, column) for ridge in active])
            reach = np.array([1 + _STEEPEST * (column - ridge[-1][0]) for ridge in active])
            distances = np.abs(last[:, None] - found[None])
            nearest, best = distances.argmin(1), distances.argmin(0)
            for i, ridge in enumerate(active):
                j = nearest[i]
                if best[j] == i and distances[i, j] <= reach[i]:
                    ridge.append((column, float(found[j])))
                    taken[j] = True
        active += [[(column, float(y))] for y in found[~taken]]
    return [_ridge(points) for points in done + active if len(points) >= 2]


def _next(points: list[tuple[int, float]], column: int) -> float:
    """Where a ridge would be in a column if it went straight on."""
    (x, y), (x_before, y_before) = points[-1], points[max(0, len(points) - 8)]
    slope = (y - y_before) / (x - x_before) if x > x_before else 0.0
    return y + slope * (column - x)


def _ridge(points: Sequence[tuple[int, float]]) -> _Ridge:
    x, y = np.array(points).T
    columns = np.arange(int(x[0]), int(x[-1]) + 1)
    return _Ridge(int(x[0]), np.interp(columns, x, y))


def _parted(ridges: list[_Ridge], baseline: np.ndarray, ends: np.ndarray, margin: int) -> list[_Ridge]:
    """Ridges cut where two lines meet: at ends that are farther than a margin from their own ones.

    What is left of a ridge beyond an end within the margin is dropped where it is faint.
    """
    parts = []
    for ridge in ridges:
        marked = np.concatenate([[False], ends[ridge.cells] > _END, [False]])
        strength, length = baseline[ridge.cells], len(ridge.ys)
        begin, end, cuts = 0, length, []
        for a, b in np.flatnonzero(np.diff(marked.astype(int))).reshape(-1, 2).tolist():
            if margin < a and b < length - margin:
                cuts.append((a + b) // 2)
            elif a <= margin and a and strength[:a].mean() < _MEAN:
                begin = a
            elif b >= length - margin and b < length and strength[b:].mean() < _MEAN:
                end = min(end, b)
        places = [begin, *cuts, end]
        parts += [_Ridge(ridge.start + i, ridge.ys[i:j]) for i, j in pairwise(places) if j - i >= 2]
    return parts


def _without_forks(ridges: list[_Ridge], heights: Sequence[float]) -> list[_Ridge]:
    """One ridge for each line where several run beside each other: raised letters and flourishes make ridges fork.

    A branch beside a longer ridge is dropped. Of two that overlap, one goes on where the other one is nearest.
    """
    kept: list[tuple[_Ridge, float]] = []
    for ridge, height in sorted(zip(ridges, heights, strict=True), key=lambda pair: -len(pair[0].ys)):
        current, place = ridge, 0
        while place < len(kept):
            other, other_height = kept[place]
            place += 1
            first, last = max(current.start, other.start), min(current.end, other.end)
            if first > last:
                continue
            distances = np.abs(current.at(first, last) - other.at(first, last))
            near = _BESIDE * max(height, other_height)
            share = len(distances) / min(len(current.ys), len(other.ys))
            if share >= _BRANCH and distances.mean() <= near:
                current = max(current, other, key=lambda one: len(one.ys))
            elif share <= _OVERLAP and distances.min() <= near:
                before, behind = sorted((current, other), key=lambda one: one.start)
                seam = first + int(distances.argmin())
                ys = np.concatenate([before.at(before.start, seam - 1), behind.at(seam, behind.end)])
                current = _Ridge(before.start, ys)
            else:
                continue
            # What has become one may lie beside others now.
            del kept[place - 1]
            height, place = max(height, other_height), 0
        kept.append((current, height))
    return [ridge for ridge, _ in kept]


def _joined(ridges: list[_Ridge], heights: Sequence[float], ends: np.ndarray) -> list[_Ridge]:
    """Ridges whose pieces lie in one line, a short way apart and without an end between them, as one."""
    ordered = sorted(zip(ridges, heights, strict=True), key=lambda pair: pair[0].start)
    joined: list[tuple[_Ridge, float]] = []
    for ridge, height in ordered:
        best, place = np.inf, -1
        for i, (before, height_before) in enumerate(joined):
            gap = ridge.start - before.end
            if not 0 < gap <= max(_SILENT + 1.0, _GAP * max(height, height_before)) or gap >= best:
                continue
            points = [*zip(before.columns[-8:].tolist(), before.ys[-8:].tolist(), strict=True)]
            jump = abs(_next(points, ridge.start) - ridge.ys[0])
            if jump <= max(1.0 + 0.25 * gap, _JUMP * max(height, height_before)) and not _has_end(ends, before, ridge):
                best, place = gap, i
        if place < 0:
            joined.append((ridge, height))
        else:
            before, height_before = joined[place]
            between = np.linspace(before.ys[-1], ridge.ys[0], ridge.start - before.end + 1)[1:-1]
            ys = np.concatenate([before.ys, between, ridge.ys])
            joined[place] = (_Ridge(before.start, ys), max(height, height_before))
    return [ridge for ridge, _ in joined]


def _has_end(ends: np.ndarray, before: _Ridge, behind: _Ridge) -> bool:
    """Whether one line ends between two ridges and another one begins."""
    columns = np.arange(before.end, behind.start + 1)
    rows = np.rint(np.interp(columns, [before.end, behind.start], [before.ys[-1], behind.ys[0]])).astype(int)
    return bool((ends[rows, columns] > _END).any())


def _heights(ridges: list[_Ridge], gaps: tuple[np.ndarray, np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """How far the body of each line reaches above and below its baseline, in cells for each column.

    A body ends at a gap, of which `_nearest` tells. Where the bodies of two lines touch, each gets its share of the
    distance.
    """
    gap_up, gap_down = gaps
    taken = np.zeros(gap_up.shape, bool)
    for ridge in ridges:
        taken[ridge.cells] = True
    line_up, line_down = _nearest(taken)
    above, below = [], []
    for ridge in ridges:
        cells, ys = ridge.cells, ridge.ys
        up = np.where(line_up[cells] >= 0, _REACH_ABOVE * (ys - line_up[cells]), np.inf)
        down = np.where(line_down[cells] < len(taken), _REACH_BELOW * (line_down[cells] - ys), np.inf)
        above.append(np.minimum(up, ys - gap_up[cells] - 0.5).clip(0))
        below.append(np.minimum(down, gap_down[cells] - ys - 0.5).clip(0))
    return above, below


def _nearest(marked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each cell the row of the next marked one strictly above it, or -1, and strictly below it, or behind all."""
    height, width = marked.shape
    rows = np.arange(height, dtype=np.int16)[:, None]
    up, down = np.full((height, width), -1, np.int16), np.full((height, width), height, np.int16)
    np.maximum.accumulate(np.where(marked, rows, np.int16(-1))[:-1], axis=0, out=up[1:])
    np.minimum.accumulate(np.where(marked, rows, np.int16(height))[:0:-1], axis=0, out=down[-2::-1])
    return up, down


def _lines_heights(above: list[np.ndarray], below: list[np.ndarray]) -> list[float]:
    return [_usual(a) + _usual(b) for a, b in zip(above, below, strict=True)]


def _usual(heights: np.ndarray) -> float:
    return float(np.median(heights))


def _usual_height(ridges: list[_Ridge], above: list[np.ndarray], below: list[np.ndarray]) -> float:
    """The height of most of the page's text: the median over lines, weighted with their lengths."""
    heights = np.array(_lines_heights(above, below))
    order = np.argsort(heights)
    lengths = np.cumsum([len(ridges[i].ys) for i in order])
    return float(heights[order][np.searchsorted(lengths, lengths[-1] / 2)]) if ridges else 0.0


def _is_line(ridge: _Ridge, height: float, baseline: np.ndarray, body: np.ndarray) -> bool:
    """Whether a ridge is long and clear enough."""
    length = len(ridge.ys)
    rows, columns = ridge.cells
    above = body[np.maximum(rows - 1, 0), columns]
    return (
        length >= max(_FEWEST_CELLS, _SHORTEST * height)
        and float(baseline[rows, columns].mean()) >= _MEAN
        and float(above.mean()) >= _BODY / 2
    )


def _line(ridge: _Ridge, above: np.ndarray, below: np.ndarray, scale: float, width: int, height: int) -> Line:
    """A line in the page's pixels."""
    window = int(max(1, (_usual(above) + _usual(below)) / 2))
    ys = _smoothed(ridge.ys, window)
    # Tops of letters and gaps between words make the outline jump from column to column.
    top = ys - np.maximum(_raised(above, window), _LOWEST)
    bottom = ys + np.maximum(_raised(below, window), 1.0)
    # From the left edge of the first cell to the right edge of the last one.
    xs = np.concatenate([[ridge.start - 0.5], ridge.columns[1:-1], [ridge.end + 0.5]])

    def pixels(rows: np.ndarray, tolerance: float) -> list[tuple[int, int]]:
        points = np.stack([xs, rows], 1).astype(np.float32)[:, None]
        kept = cv2.approxPolyDP(points, tolerance, False)[:, 0]
        found = np.rint((kept + 0.5) / scale - 0.5).clip(0, [width - 1, height - 1]).astype(int)
        return [(int(x), int(y)) for x, y in found]

    course: Points = tuple(pixels(ys, 0.4))
    outline: Points = tuple(pixels(top, 0.7) + pixels(bottom, 0.7)[::-1])
    return Line(baseline=course, polygon=outline)


def _smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Moving average with an odd window, straight on at the ends."""
    half = min(window // 2, (len(values) - 1) // 2)
    if not half:
        return values
    head = 2 * values[0] - values[half:0:-1]
    tail = 2 * values[-1] - values[-2 : -half - 2 : -1]
    return np.convolve(np.concatenate([head, values, tail]), np.full(2 * half + 1, 1 / (2 * half + 1)), mode="valid")


def _raised(values: np.ndarray, window: int) -> np.ndarray:
    """An outline's distance from the baseline without its dents, no more than twice the usual one."""
    widest = cv2.dilate(values.astype(np.float32)[None], np.ones((1, 2 * (window // 2) + 1), np.uint8))[0]
    return _smoothed(np.minimum(widest, 2 * np.median(values) + 1), window)
