"""Sizes that targets, augmentation and metric take from the lines of a page. NumPy and OpenCV only."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from htr_client.pages import Line, line_pitch

_OF_PITCH = 0.8  # height of a line without a polygon, of the distance between lines
_OF_LENGTH = 0.05  # of the length of a line that stands alone, where nothing else tells a height
_LEAST_AREA = 4  # of a polygon, in pixels: some tools repeat the baseline as outline
_X_HEIGHT = 0.5  # of a line's height with ascenders and descenders


def line_heights(lines: Sequence[Line]) -> list[float]:
    """Heights of the bodies of a page's lines.

    Args:
        lines: All lines of the page.

    Returns:
        For each line the area of its polygon by the length of its baseline; without a polygon, a share of the distance
        between the lines of the page, else the median of the other lines, else a share of its length. At least 1.
    """
    lengths = [float(np.linalg.norm(np.diff(points(line.baseline), axis=0), axis=1).sum()) for line in lines]
    known = [area(line.polygon) / length if length else 0.0 for line, length in zip(lines, lengths, strict=True)]
    others = [height for height in known if height > 0]
    usual = _OF_PITCH * (line_pitch(lines) or 0.0) or (float(np.median(others)) if others else 0.0)
    return [max(1.0, height or usual or _OF_LENGTH * length) for height, length in zip(known, lengths, strict=True)]


def x_heights(lines: Sequence[Line]) -> list[float]:
    """About the x-heights of a page's lines: half of their heights, since no page format tells them."""
    return [_X_HEIGHT * height for height in line_heights(lines)]


def area(polygon: Sequence[tuple[int, int]]) -> float:
    """Area of a polygon; 0 where it is none, or too flat to tell where a line is."""
    found = cv2.contourArea(points(polygon).astype(np.float32)) if len(polygon) >= 3 else 0.0
    return found if found >= _LEAST_AREA else 0.0


def points(polyline: Sequence[tuple[int, int]]) -> np.ndarray:
    """A polyline as float64 [n, 2]."""
    return np.array(polyline, np.float64).reshape(-1, 2)
