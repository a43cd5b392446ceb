"""What the network is to answer for a page: maps of baselines, bodies and ends of lines."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from components.line_finder.geometry import area, line_heights, points
from htr_client.pages import Line
from htr_client.pages.vectorising import BASELINE, BODY, ENDS

_ABOVE, _BELOW = 0.72, 0.28  # body of a line without a polygon on both sides of its baseline, of its height
_SHIFT = 4  # OpenCV draws to a sixteenth of a cell


def draw_targets(lines: Sequence[Line], scale: float, rows: int, columns: int) -> np.ndarray:
    """Draws the maps that `htr_client.pages.vectorising.find_lines` turns into these lines.

    Args:
        lines: Lines with baselines, in pixels of the page.
        scale: Cells of the maps for a pixel.
        rows: Rows of the maps.
        columns: Columns of the maps.

    Returns:
        uint8 [rows, columns, 3], 1 where a cell lies on a baseline (one to five cells thick, by the line's height), in
        the body of a line (its polygon, else a band along its baseline), or at an end of a baseline: a bar across the
        line from its descenders to its x-height.
    """
    maps = np.zeros((3, rows, columns), np.uint8)
    for line, height in zip(lines, line_heights(lines), strict=True):
        if len(line.baseline) < 2:
            continue
        size = height * scale
        thickness = 1 if size < 6 else 3 if size < 25 else 5
        course = (points(line.baseline) + 0.5) * scale - 0.5
        _stroke(maps[BASELINE], course, thickness)
        if area(line.polygon):
            outline = (points(line.polygon) + 0.5) * scale - 0.5
        else:
            across = size * _across(course[0], course[-1])
            outline = np.concatenate([course - _ABOVE * across, (course + _BELOW * across)[::-1]])
        cv2.fillPoly(maps[BODY], [np.rint(outline * 2**_SHIFT).astype(np.int32)], (1,), shift=_SHIFT)
        for end, before, behind in ((course[0], course[0], course[1]), (course[-1], course[-2], course[-1])):
            across = _across(before, behind)
            bar = np.stack([end - 0.35 * size * across, end + 0.1 * size * across])
            _stroke(maps[ENDS], bar, max(thickness, 3))
    return np.moveaxis(maps, 0, -1)


def _across(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Unit vector at a right angle to a line, to its lower side."""
    x, y = (end - start) / max(float(np.linalg.norm(end - start)), 1e-6)
    return np.array([-y, x])


def _stroke(plane: np.ndarray, course: np.ndarray, thickness: int) -> None:
    cells = np.rint(course * 2**_SHIFT).astype(np.int32)
    cv2.polylines(plane, [cells], False, (1,), thickness, cv2.LINE_8, _SHIFT)
