"""Windows of pages to train on, with other scales, angles, paper and light than those of the data.

NumPy and OpenCV; everything follows from the random generator that is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from components.line_finder.geometry import line_heights, points
from htr_client.pages import Line
from htr_client.pages.model import Points

_KNOTS = 5  # of the field that bends a window
_SCALES = (0.5, 1.6)  # pixels of a window for a pixel of a page at full size
STEEPEST = 12.0
"""Degrees by which a page is turned at most, where the strength is 1 and it is one of those that lie askew."""
_LOWEST_LINE = 10.0  # pixels; smaller writing is not shrunk further


@dataclass(frozen=True)
class Window:
    """A part of a page.

    Attributes:
        grey: uint8 [h, w].
        lines: The lines in its pixels; they may reach beyond it.
    """

    grey: np.ndarray
    lines: tuple[Line, ...]


def draw_window(
    grey: np.ndarray, lines: Sequence[Line], size: tuple[int, int], scale: float, strength: float,
    rng: np.random.Generator,
) -> Window:  # fmt: skip
    """Takes a window from a page, most often one with text in it, and augments it.

    Args:
        grey: The page, uint8 [height, width].
        lines: Its lines.
        size: Height and width of the window.
        scale: Pixels of the page as the network sees it in service for a pixel of `grey`.
        strength: Factor of all ranges; with 0 the window is a plain cut at `scale`.
        rng: Random numbers.

    Returns:
        The window with its lines.
    """
    rows, columns = size
    lowest, highest = np.log(_SCALES)
    zoom = scale * np.exp(strength * rng.uniform(lowest, highest))
    if strength:  # what is too small to be told apart would be learnt as noise
        usual = float(np.median(line_heights(lines) or [_LOWEST_LINE]))
        zoom = max(zoom, min(scale, _LOWEST_LINE / max(usual, 1.0)))
    # Most pages are nearly upright; a third may lie as the camera saw them.
    angle = np.deg2rad(strength * (rng.uniform(-STEEPEST, STEEPEST) if rng.random() < 1 / 3 else rng.normal(0, 2)))
    stretch, slant = np.exp(strength * rng.normal(0, 0.08)), strength * rng.normal(0, 0.06)
    # From window to page.
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[stretch, slant], [0.0, 1 / stretch]]) / zoom
    centre = _centre(grey, lines, rng)
    middle = np.array([columns, rows]) / 2 - rng.uniform(-0.3, 0.3, 2) * [columns, rows]
    bend = _bend(rows, columns, strength, rng)
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    source = (np.stack([x, y], -1) + bend - middle) @ matrix.T + centre

    fill = int(rng.choice([0, 20, 60, 128, 200, 255]))
    # Smaller pages are smoothed first: cv2.remap takes the nearest four pixels only.
    if zoom < 0.8:
        grey = cv2.GaussianBlur(grey, (0, 0), 0.45 / zoom)
    at_x, at_y = np.moveaxis(source.astype(np.float32), -1, 0)
    sampled = cv2.remap(
        grey, at_x, at_y, cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT if rng.random() < 0.6 else cv2.BORDER_REPLICATE, borderValue=[fill],
    )  # fmt: skip

    inverse = np.linalg.inv(matrix)

    def moved(course: Points) -> Points:
        straight = (points(course) - centre) @ inverse.T + middle
        found = straight
        for _ in range(3):  # bends are small and smooth, so this converges
            place = np.rint(found).astype(int).clip(0, [columns - 1, rows - 1])
            found = straight - bend[place[:, 1], place[:, 0]]
        return tuple((int(px), int(py)) for px, py in np.rint(found))

    placed = tuple(replace(line, baseline=moved(line.baseline), polygon=moved(line.polygon)) for line in lines)
    return Window(_lit(sampled, strength, rng), placed)


def _centre(grey: np.ndarray, lines: Sequence[Line], rng: np.random.Generator) -> np.ndarray:
    """A point of the page: on a line, or anywhere."""
    if lines and rng.random() < 0.85:
        start, end = points(lines[rng.integers(len(lines))].baseline)[[0, -1]]
        return start + rng.random() * (end - start)
    return rng.random(2) * grey.shape[::-1]


def _bend(rows: int, columns: int, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth field of shifts, float64 [rows, columns, 2], of some pixels."""
    knots = strength * rng.gamma(1.0, 3.0) * rng.normal(0, 1, (_KNOTS, _KNOTS, 2))
    return cv2.resize(knots, (columns, rows), interpolation=cv2.INTER_CUBIC)


def _lit(grey: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """The window in other light: gradients, contrast, blur, grain, sometimes a dark edge."""
    if not strength:
        return grey
    rows, columns = grey.shape
    image: np.ndarray = grey.astype(np.float32)
    light = cv2.resize(rng.normal(0, 1, (3, 3)).astype(np.float32), (columns, rows), interpolation=cv2.INTER_CUBIC)
    contrast = np.exp(strength * rng.normal(-0.15, 0.3))
    image = (image - 200) * contrast + 200 + strength * (rng.normal(0, 15) + rng.uniform(0, 18) * light)
    if rng.random() < 0.15 * strength:
        image = _with_edge(image, rng)
    if rng.random() < 0.4 * strength:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.2))
    image += rng.normal(0, strength * rng.gamma(1.0, 3.0), grey.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _with_edge(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The window with something dark or light along one side, as a table below a photographed page."""
    rows, columns = image.shape
    depth = rng.uniform(0.02, 0.12) * min(rows, columns)
    along = np.arange(columns)[None] if rng.random() < 0.5 else np.arange(rows)[:, None]
    across = np.arange(rows)[:, None] if along.shape[0] == 1 else np.arange(columns)[None]
    if rng.random() < 0.5:
        across = across[::-1] if across.shape[1] == 1 else across[:, ::-1]
    edge = across + rng.normal(0, 0.03) * along < depth
    return np.where(edge, np.float32(rng.choice([5, 40, 90, 245])), image)
