"""Cuts the image of a line out of its page, straightened along the line's own course.

Import, and later training, evaluation and transcription of pages, cut here, so that a model sees in service what it saw
in training. A cut is a band of constant height around the baseline, high enough for the polygon. Its background stays
as it is, with bits of the neighbouring lines: a mask would carry each inaccuracy of a polygon into the image.

The mapping for `cv2.remap` is written by hand: OpenCV has none for a curve, and the piecewise affine transform of
scikit-image, which the client does not need otherwise, takes seconds for a line and breaks where a baseline bends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from htr_client.pages.model import Box, Line
from htr_client.pages.reading_order import skew_of

CUTS = 2
"""Raised with each change that moves pixels of a cut: a repeated import then cuts its earlier pages again."""

_LONGEST = 32_000  # pixels; cv2.remap counts in 16 bits
_MOST_PIXELS = 10_000_000  # of a line
_MOST_POINTS = 500  # of outline and course, when their distances are measured
_MOST_LINES = 5_000  # of a page, whose distances are measured: a file may hold 100,000
_MOST_TURNS = 20  # an outline may be as many times as long as the image is wide and high together
_ALONG, _ACROSS = 0.1, 0.02  # margins of the band's height: polygons cut off strokes, but what is near is misread
_SHARE_ABOVE = 0.72  # of the distance between two lines; the rest lies below the baseline


class CutError(ValueError):
    """A line cannot be cut out of its page.

    Attributes:
        reason: One word for counting: "no_geometry", "outside_image" or "bad_geometry".
    """

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(what)
        self.reason = reason


def cut_line(grey: np.ndarray, line: Line, pitch: float | None = None) -> np.ndarray:
    """Cuts a line out of its page.

    The baseline has a direction: text that does not run from left to right, as on a page that lies on its side, comes
    out upright. Without a baseline, a straight line through the middle of the polygon is the course. Without a polygon,
    the height follows from the distance between the lines of the page.

    Args:
        grey: The page, uint8 [height, width].
        line: The line, in pixels of that image.
        pitch: Distance between the lines of the page in pixels, as of `line_pitch`; needed without a polygon.

    Returns:
        uint8 [height of the line, its length], in the page's resolution.

    Raises:
        CutError: With its reason.
    """
    return cut_band(grey, band_of(line, grey.shape[1], grey.shape[0], pitch))


@dataclass(frozen=True)
class Band:
    """Where the image of a line lies on its page.

    Attributes:
        course: Points on the page at distances of a pixel, one for each column of the image; float64 [length, 2].
        above: Rows of the image above the course.
        below: Rows below it.
    """

    course: np.ndarray
    above: int
    below: int

    def box(self, left: float, right: float) -> Box:
        """The box on the page around some columns of the image.

        Args:
            left: First column.
            right: Last column.

        Returns:
            Left, top, right and bottom edge in pixels of the page; they may lie beyond it and the line's polygon.
        """
        last = len(self.course) - 1
        start, end = int(np.clip(np.floor(left), 0, last)), int(np.clip(np.ceil(right), 0, last))
        course, normals = self.course[start : end + 1], _normals(self.course)[start : end + 1]
        corners = np.concatenate([course - self.above * normals, course + self.below * normals])
        x, y = np.rint(corners.min(0)).astype(int), np.rint(corners.max(0)).astype(int)
        return (int(x[0]), int(x[1]), int(y[0]), int(y[1]))


def band_of(line: Line, width: int, height: int, pitch: float | None = None) -> Band:
    """Where `cut_line` cuts.

    Args:
        line: The line, in pixels of the page.
        width: Width of the page.
        height: Height of the page.
        pitch: As for `cut_line`.

    Raises:
        CutError: With its reason.
    """
    size = np.array([width, height])
    polygon = _checked(line.polygon, size)
    baseline = _checked(line.baseline, size)
    if not _has_area(polygon):
        if len(baseline) < 2 or pitch is None:
            missing = "baseline" if len(baseline) < 2 else "line near it that would tell its height"
            raise CutError("no_geometry", f"The line has neither a usable polygon nor a {missing}.")
        body = max(2.0, pitch)
        above, below = _SHARE_ABOVE * body, (1 - _SHARE_ABOVE) * body
        course = _course(baseline, baseline, body, 0)
    else:
        if len(baseline) < 2:
            baseline = _middle(polygon)
        body = _height(polygon)
        course = _course(baseline, polygon, body, int(body))
        above, below, start, end = _extent(polygon, course)
        along, across = round(_ALONG * (above + below)), _ACROSS * (above + below)
        above, below = above + across, below + across
        course = course[max(0, start - along) : end + along]
        if len(course) < 2:
            raise CutError("bad_geometry", "The polygon lies beside the baseline, not along it.")
    return Band(course, round(above), round(below))


def line_pitch(lines: Sequence[Line]) -> float | None:
    """The usual distance between the lines of a page.

    Args:
        lines: All lines of the page.

    Returns:
        The median distance from a line to the next one below it, in pixels; None where no line is below another. Below
        is meant in the direction of the baselines: on a page that lies on its side, it is to the left or right.
    """
    angle = skew_of([np.array(line.baseline, np.float64) for line in lines if line.baseline])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = [
        np.array(line.baseline or line.polygon, np.float64) @ turn for line in lines if line.baseline or line.polygon
    ]
    spans = [(p[:, 0].min(), p[:, 0].max(), p[:, 1].mean()) for p in points]
    left, right, y = np.array(sorted(spans, key=lambda span: span[2])).reshape(-1, 3).T
    gaps = []
    for line in range(0, len(y), -(-len(y) // _MOST_LINES) or 1):
        # Of lines in the same column, and not of two parts of one line.
        below = np.searchsorted(y, y[line] + 2, side="right")
        same_column = (left[below:] < right[line]) & (right[below:] > left[line])
        if same_column.any():
            gaps.append(y[below + same_column.argmax()] - y[line])
    return float(np.median(gaps)) if gaps else None


def _checked(points: Sequence[tuple[int, int]], size: np.ndarray) -> np.ndarray:
    """Points without repetitions, float64 [n, 2], within the image of that size."""
    array = np.array(points, np.float64).reshape(-1, 2)
    if len(array) == 0:
        return array
    if (array.max(0) < 0).any() or (array.min(0) > size - 1).any():
        raise CutError("outside_image", f"The line lies outside of the image, which has {size[0]} x {size[1]} pixels.")
    array = np.clip(array, 0, size - 1)
    array = array[np.concatenate([[True], (np.diff(array, axis=0) != 0).any(1)])]
    if np.abs(np.diff(array, axis=0)).sum() > _MOST_TURNS * size.sum():
        raise CutError("bad_geometry", f"The outline or the baseline crosses the image more than {_MOST_TURNS} times.")
    return array


def _has_area(polygon: np.ndarray) -> bool:
    return len(polygon) >= 3 and cv2.contourArea(polygon.astype(np.float32)) >= 4


def _columns(polygon: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns of a polygon, with its upper and its lower edge in each."""
    corner = np.floor(polygon.min(0)).astype(int)
    width, height = np.ceil(polygon.max(0)).astype(int) - corner + 1
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.rint(polygon - corner).astype(np.int32)], (1,))
    columns = np.flatnonzero(mask.any(0))
    top = mask[:, columns].argmax(0)
    bottom = height - 1 - mask[::-1, columns].argmax(0)
    return columns + corner[0], top + corner[1], bottom + corner[1]


def _middle(polygon: np.ndarray) -> np.ndarray:
    """A straight line through the middle of a polygon, from its left to its right end."""
    x, top, bottom = _columns(polygon)
    slope, offset = np.polyfit(x, (top + bottom) / 2, 1) if len(x) > 1 else (0.0, (top[0] + bottom[0]) / 2)
    ends = np.array([x[0], max(x[-1], x[0] + 1)])
    return np.stack([ends, slope * ends + offset], axis=1)


def _height(polygon: np.ndarray) -> float:
    """About the height of a line, whatever its direction: that of a rectangle of the same area and length."""
    area = cv2.contourArea(polygon.astype(np.float32))
    length = max(cv2.minAreaRect(polygon.astype(np.float32))[1])
    return max(2.0, area / max(length, 1.0))


def _course(baseline: np.ndarray, outline: np.ndarray, height: float, beyond: int) -> np.ndarray:
    """A smooth curve along a baseline and straight on, until it has passed all points of an outline.

    Args:
        baseline: float64 [n, 2].
        outline: float64 [m, 2].
        height: Height of the line, over which bends are smoothed.
        beyond: Pixels by which it passes them.

    Returns:
        Points at distances of a pixel, float64 [length, 2].
    """
    points = _resampled(baseline)
    reach = min(len(points) - 1, int(height))
    half = int(height) // 2
    head = _beyond(points[0], points[reach], outline, beyond + half)
    tail = _beyond(points[-1], points[-1 - reach], outline, beyond + half)
    points = np.concatenate([head[::-1], points, tail])
    kernel = np.full(2 * half + 1, 1 / (2 * half + 1))
    # "valid" drops half a window at either end.
    return np.stack([np.convolve(points[:, axis], kernel, mode="valid") for axis in (0, 1)], axis=1)


def _beyond(end: np.ndarray, inner: np.ndarray, outline: np.ndarray, margin: int) -> np.ndarray:
    """Points straight on from the end of a curve, as far as an outline reaches and a margin further."""
    length = np.linalg.norm(end - inner)
    if length < 1e-6:
        raise CutError("bad_geometry", "The baseline doubles back, so that its end has no direction.")
    direction = (end - inner) / length
    reach = max(0, int(np.ceil(((outline - end) @ direction).max())))
    return end + np.arange(1, reach + margin + 1)[:, None] * direction


def _resampled(polyline: np.ndarray, step: float = 1.0) -> np.ndarray:
    """Points along a polyline at distances of about a step, with both ends; float64 [n, 2], n at least 2."""
    along = np.concatenate([[0.0], np.linalg.norm(np.diff(polyline, axis=0), axis=1).cumsum()])
    places = np.linspace(0, along[-1], max(2, round(along[-1] / step) + 1))
    return np.stack([np.interp(places, along, polyline[:, axis]) for axis in (0, 1)], axis=1)


def _normals(course: np.ndarray) -> np.ndarray:
    """Unit vectors at right angles to a curve, to its lower side."""
    tangents = np.gradient(course, axis=0)
    lengths = np.linalg.norm(tangents, axis=1, keepdims=True)
    tangents = tangents / np.where(lengths > 0, lengths, 1)
    return np.stack([-tangents[:, 1], tangents[:, 0]], axis=1)


def _extent(polygon: np.ndarray, course: np.ndarray) -> tuple[float, float, int, int]:
    """How far a polygon reaches above and below a curve, and from where to where along it.

    A spike may double the height of the band, not more: it is a slip of the pen, or of who drew the polygon.
    """
    closed = np.concatenate([polygon, polygon[:1]])
    perimeter = np.linalg.norm(np.diff(closed, axis=0), axis=1).sum()
    border = _resampled(closed, max(1.0, perimeter / _MOST_POINTS))
    stride = -(-len(course) // _MOST_POINTS)
    samples, normals = course[::stride], _normals(course)[::stride]
    nearest = ((border[:, None] - samples[None]) ** 2).sum(-1).argmin(1)
    across = border - samples[nearest]
    offsets = (across * normals[nearest]).sum(1)
    along = nearest * stride + across[:, 0] * normals[nearest, 1] - across[:, 1] * normals[nearest, 0]
    highest, lowest = np.full(len(samples), np.inf), np.full(len(samples), -np.inf)
    np.minimum.at(highest, nearest, offsets)
    np.maximum.at(lowest, nearest, offsets)
    seen = np.isfinite(highest)
    top, bottom = float(np.median(highest[seen])), float(np.median(lowest[seen]))
    usual = max(bottom - top, 2.0)
    above = -max(float(offsets.min()), top - usual)
    below = min(float(offsets.max()), bottom + usual)
    return above, below, max(0, round(along.min())), min(len(course), round(along.max()) + 1)


def cut_band(grey: np.ndarray, band: Band) -> np.ndarray:
    """Cuts a band out of its page and straightens it; where the page ends, its edge is repeated.

    Args:
        grey: The page, uint8 [height, width].
        band: Where to cut.

    Returns:
        uint8 [rows, columns] of the band.

    Raises:
        CutError: The band is too large.
    """
    course, above, below = band.course, band.above, band.below
    rows = np.arange(-above, below + 1)
    if len(rows) > _LONGEST or len(course) > _LONGEST or len(rows) * len(course) > _MOST_PIXELS:
        raise CutError("bad_geometry", f"The line would be {len(course)} x {len(rows)} pixels large.")
    places = course[None] + rows[:, None, None] * _normals(course)[None]
    # Only the part of the page around the line: cv2.remap cannot count further than 16 bits.
    last = np.array([grey.shape[1], grey.shape[0]]) - 1
    corner = np.clip(np.floor(places.min((0, 1))).astype(int) - 1, 0, last)
    end = np.clip(np.ceil(places.max((0, 1))).astype(int) + 1, 0, last)
    part = grey[corner[1] : end[1] + 1, corner[0] : end[0] + 1]
    if max(part.shape) > _LONGEST:
        raise CutError("bad_geometry", f"The line crosses {part.shape[1]} x {part.shape[0]} pixels.")
    x, y = np.moveaxis((places - corner).astype(np.float32), -1, 0)
    return cv2.remap(part, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
