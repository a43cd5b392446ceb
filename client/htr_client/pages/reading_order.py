"""The order in which people read the lines of a page: columns from left to right, in each from top to bottom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from htr_client.pages.model import Line

_FEWEST = 2  # lines on either side of a gutter, beside lines of the other side
_CROSSING = 3.0  # a line across a gutter outweighs so many beside it
_POKES = 0.25  # of its length, up to which a line may reach over a gutter and still belong to its own side
_AT_ONCE = 256  # candidates for a gutter; with more the arrays of a page of thousands of lines would be large


@dataclass(frozen=True)
class _Extent:
    """Where a line lies on the page after its skew has been taken out.

    Attributes:
        place: Position of the line in what was given.
        left: Where its baseline begins.
        right: Where its baseline ends.
        middle: Mean height of the baseline, downwards.
        height: Height of the line's body.
    """

    place: int
    left: float
    right: float
    middle: float
    height: float


def with_columns(lines: Sequence[Line]) -> tuple[Line, ...]:
    """Lines in reading order, each with its column as region: tools that sort the lines of a region keep columns apart.

    They are sorted as a recursive X-Y cut would (Nagy & Seth 1984), on baselines instead of pixels. A gutter is a
    vertical that has lines beside each other on both sides. Lines that cross it, such as headings, divide the page into
    bands, each with columns of its own. The skew of the page, the median over its baselines, is taken out first: by
    rotation, or where that shows columns better, by shear, since writers climb between upright margins.

    Args:
        lines: Lines with a baseline or a polygon; their regions are replaced.

    Returns:
        The lines; without gutters from top to bottom, and lines at the same height from left to right. Their regions
        are "column_1" and so on, those of lines across columns too; "" where there is only one.
    """
    blocks = _blocks(lines)
    names = [f"column_{number}" for number in range(1, len(blocks) + 1)] if len(blocks) > 1 else [""]
    return tuple(replace(line, region=name) for name, block in zip(names, blocks, strict=False) for line in block)


def _blocks(lines: Sequence[Line]) -> list[list[Line]]:
    """Columns in reading order, with the lines of each."""
    rotated, sheared = _extents(lines, rotate=True), _extents(lines, rotate=False)
    extents = sheared if _gutter(sheared)[0] > _gutter(rotated)[0] else rotated
    return [[lines[extent.place] for extent in block] for block in _ordered(extents)]


def _extents(lines: Sequence[Line], rotate: bool) -> list[_Extent]:
    courses = [np.array(line.baseline or line.polygon or [(0, 0)], np.float64) for line in lines]
    turned = _upright(courses, rotate)
    heights = [_height(line) for line in lines]
    usual = float(np.median([height for height in heights if height > 0] or [1.0]))
    return [
        _Extent(i, float(c[:, 0].min()), float(c[:, 0].max()), float(_mean_height(c)), height or usual)
        for i, (c, height) in enumerate(zip(turned, heights, strict=True))
    ]


def skew_of(courses: Sequence[np.ndarray]) -> float:
    """The angle of most of a page's lines: the median of their baselines, weighted with their lengths.

    Args:
        courses: Baselines, float64 [n, 2].

    Returns:
        Radians, positive where lines sink; 0 without lines.
    """
    steps = np.array([course[-1] - course[0] for course in courses]).reshape(-1, 2)
    lengths = np.linalg.norm(steps, axis=1)
    if not lengths.sum() > 0:
        return 0.0
    angles = np.arctan2(steps[:, 1], steps[:, 0])
    order = np.argsort(angles)
    weights = np.cumsum(lengths[order])
    return float(angles[order][np.searchsorted(weights, weights[-1] / 2)])


def _upright(courses: Sequence[np.ndarray], rotate: bool) -> list[np.ndarray]:
    """Courses turned or sheared back by the skew of the page."""
    angle = skew_of(courses)
    if abs(angle) > np.pi / 4:
        return list(courses)  # most lines do not run from left to right: no skew that could be taken out
    cosine, sine = np.cos(angle), np.sin(angle)
    turn = np.array([[cosine, -sine], [sine, cosine]]) if rotate else np.array([[1.0, -sine / cosine], [0.0, 1.0]])
    return [course @ turn for course in courses]


def _mean_height(course: np.ndarray) -> float:
    """Mean of y along a polyline."""
    lengths = np.linalg.norm(np.diff(course, axis=0), axis=1)
    if not lengths.sum() > 0:
        return float(course[:, 1].mean())
    return float(((course[:-1, 1] + course[1:, 1]) / 2 * lengths).sum() / lengths.sum())


def _height(line: Line) -> float:
    """Area of the polygon by the length of the baseline."""
    if len(line.polygon) < 3:
        return 0.0
    x, y = np.array(line.polygon, np.float64).T
    area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    course = np.array(line.baseline or line.polygon, np.float64)
    return float(area / max(np.ptp(course[:, 0]), 1.0))


def _ordered(extents: list[_Extent]) -> list[list[_Extent]]:
    """The blocks that gutters leave, in order; lines across a gutter are one with undivided ones above and below."""
    score, gutter = _gutter(extents)
    if not score:
        return [_by_rows(extents)] if extents else []
    left, right, crossing = _divided(extents, gutter)
    if not crossing:
        return _ordered(left) + _ordered(right)
    bands: list[list[list[_Extent]]] = []
    rest = sorted(left + right, key=lambda extent: extent.middle)
    for line in sorted(crossing, key=lambda extent: extent.middle):
        above = [extent for extent in rest if extent.middle < line.middle]
        rest = rest[len(above) :]
        bands += [_ordered(above), [[line]]]
    bands.append(_ordered(rest))
    ordered: list[list[_Extent]] = []
    is_undivided = False
    for band in filter(None, bands):
        if is_undivided and len(band) == 1:
            ordered[-1] += band[0]
        else:
            ordered += band
        is_undivided = len(band) == 1
    return ordered


def _gutter(extents: list[_Extent]) -> tuple[float, float]:
    """The vertical with the most lines beside each other on its two sides, behind its score; 0 where there is none."""
    if len(extents) < 2 * _FEWEST:
        return 0.0, 0.0
    lefts, rights, middles, heights = np.array([(e.left, e.right, e.middle, e.height) for e in extents]).T
    # As numbers, since only these have a fast matrix product: a page of many columns has hundreds of lines.
    beside = (abs(middles[:, None] - middles) < (heights[:, None] + heights) / 2).astype(np.float32)
    # Right behind a line: every gutter has one whose end is nearest to it.
    candidates = np.array(list(dict.fromkeys(rights.tolist())))
    best, found = 0.0, 0.0
    for start in range(0, len(candidates), _AT_ONCE):
        x = candidates[start : start + _AT_ONCE, None]
        left = rights <= x + heights / 2
        right = ~left & (lefts >= x - heights / 2)
        beside_left = (left & (right @ beside > 0)).sum(1)
        beside_right = (right & (left @ beside > 0)).sum(1)
        crossing = len(extents) - left.sum(1) - right.sum(1)
        scores = beside_left + beside_right - _CROSSING * crossing
        scores[np.minimum(beside_left, beside_right) < _FEWEST] = 0.0
        place = int(scores.argmax())
        if scores[place] > best:
            best, found = float(scores[place]), float(x[place, 0])
    return best, found


def _divided(extents: list[_Extent], x: float) -> tuple[list[_Extent], list[_Extent], list[_Extent]]:
    """Lines left of a vertical, right of it, and across it.

    Ends may reach over it by half a line's height, and further where a line of the other side lies beside.
    """
    left = [extent for extent in extents if extent.right <= x + extent.height / 2]
    rest = [extent for extent in extents if extent.right > x + extent.height / 2]
    right = [extent for extent in rest if extent.left >= x - extent.height / 2]
    across = [extent for extent in rest if extent.left < x - extent.height / 2]
    # A long line of a column pokes into the gutter, while the line beside it keeps away from it.
    to_left = [
        extent
        for extent in across
        if extent.right - x < _POKES * (extent.right - extent.left)
        and any(_beside(extent, other) and extent.right <= other.left for other in right)
    ]
    to_right = [
        extent
        for extent in across
        if x - extent.left < _POKES * (extent.right - extent.left)
        and any(_beside(extent, other) and other.right <= extent.left for other in left)
    ]
    crossing = [extent for extent in across if extent not in to_left and extent not in to_right]
    return left + to_left, right + to_right, crossing


def _beside(one: _Extent, other: _Extent) -> bool:
    return abs(one.middle - other.middle) < (one.height + other.height) / 2


def _by_rows(extents: list[_Extent]) -> list[_Extent]:
    """From top to bottom; lines that do not overlap and lie at the same height are one row, from left to right."""
    rows: list[list[_Extent]] = []
    for extent in sorted(extents, key=lambda extent: extent.middle):
        row = rows[-1] if rows else []
        if row and all(
            abs(extent.middle - other.middle) < 0.25 * (extent.height + other.height)
            and (extent.left >= other.right or extent.right <= other.left)
            for other in row
        ):
            row.append(extent)
        else:
            rows.append([extent])
    return [extent for row in rows for extent in sorted(row, key=lambda extent: extent.left)]
