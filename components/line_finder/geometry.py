"""Sizes that targets, augmentation and metric take from the lines of a page. NumPy and OpenCV only."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from htr_client.pages import Line, line_pitch

_OF_PITCH = 0.8  # height of a line without a polygon, of the distance between lines
_X_HEIGHT = 0.5  # of a line's height with ascenders and descenders


def line_heights(lines: Sequence[Line]) -> list[float]:
    """Heights of the bodies of a page's lines.

    Args:
        lines: All lines of the page.

    Returns:
        For each line the area of its polygon by the length of its baseline; without a polygon, a share of the distance
        between the lines of the page; 0 where neither is known.
    """
    pitch = line_pitch(lines)
    heights = []
    for line in lines:
        length = np.linalg.norm(np.diff(points(line.baseline), axis=0), axis=1).sum() if line.baseline else 0.0
        if len(line.polygon) >= 3 and length > 0:
            heights.append(float(cv2.contourArea(points(line.polygon).astype(np.float32)) / length))
        else:
            heights.append(_OF_PITCH * (pitch or 0.0))
    return heights


def x_heights(lines: Sequence[Line]) -> list[float]:
    """About the x-heights of a page's lines: half of their heights, since no page format tells them."""
    return [_X_HEIGHT * height for height in line_heights(lines)]


def points(polyline: Sequence[tuple[int, int]]) -> np.ndarray:
    """A polyline as float64 [n, 2]."""
    return np.array(polyline, np.float64).reshape(-1, 2)
