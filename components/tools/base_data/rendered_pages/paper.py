"""What a page is written on, and what time and a scanner made of it."""

from __future__ import annotations

import cv2
import numpy as np


def draw_paper(height: int, width: int, pitch: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Draws an empty page: plain, ruled or squared, with a margin, a drawn frame or a stamp at times.

    Args:
        height: Height of the page in pixels.
        width: Width of the page in pixels.
        pitch: Distance of its lines in pixels.
        rng: What is drawn.

    Returns:
        The page, float32 [height, width], and the level of ink on it.
    """
    tone = float(rng.uniform(170, 250))
    ink = float(rng.uniform(10, 0.55 * tone))
    grey = np.full((height, width), tone, np.float32)
    coarse = rng.normal(0, rng.gamma(1.0, 3.0), (height // 64 + 2, width // 64 + 2)).astype(np.float32)
    grey += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    kind = rng.random()
    if kind < 0.35:
        _rules(grey, pitch, float(rng.uniform(0, pitch)), tone - float(rng.uniform(10, 90)), False)
    elif kind < 0.5:
        # Squared paper, and that of French schools: some thin lines between two strong ones.
        _rules(grey, pitch / int(rng.integers(1, 5)), 0.0, tone - float(rng.uniform(8, 35)), False)
        _rules(grey, pitch / int(rng.integers(1, 3)), 0.0, tone - float(rng.uniform(8, 50)), True)
    if rng.random() < 0.2:
        x = round(width * float(rng.choice([rng.uniform(0.05, 0.2), rng.uniform(0.9, 0.97)])))
        cv2.line(grey, (x, 0), (x, height), (tone - float(rng.uniform(20, 110)),), int(rng.integers(1, 3)))
    if rng.random() < 0.12:
        inset = int(rng.integers(8, 30))
        corners = (inset, inset), (width - inset, height - inset)
        cv2.rectangle(grey, *corners, (tone - float(rng.uniform(40, 150)),), int(rng.integers(1, 4)))
    for _ in range(int(rng.choice([0, 0, 0, 1, 2]))):
        _stamp(grey, tone - float(rng.uniform(20, 110)), rng)
    return grey, ink


def aged(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The page as it is scanned: ink that shines through, blots, dark surroundings, blur and grain.

    Args:
        grey: float32 [height, width].
        rng: What has happened to it.

    Returns:
        uint8 [height, width].
    """
    height, width = grey.shape
    if rng.random() < 0.25:  # what is written on the other side
        other = cv2.GaussianBlur(grey[:, ::-1], (0, 0), float(rng.uniform(1.5, 3)))
        grey = grey - float(rng.uniform(0.05, 0.3)) * np.clip(np.median(other) - other, 0, None)
    for _ in range(int(rng.poisson(0.6))):
        centre = int(rng.integers(width)), int(rng.integers(height))
        axes = int(rng.integers(2, 30)), int(rng.integers(2, 30))
        blot = np.zeros_like(grey)
        cv2.ellipse(blot, centre, axes, float(rng.uniform(0, 180)), 0, 360, (1.0,), -1)
        grey = grey - float(rng.uniform(10, 120)) * cv2.GaussianBlur(blot, (0, 0), float(rng.uniform(1, 6)))
    if rng.random() < 0.3:
        grey = _surrounded(grey, rng)
    if rng.random() < 0.5:
        grey = cv2.GaussianBlur(grey, (0, 0), float(rng.uniform(0.3, 1.1)))
    grey = grey + rng.normal(0, rng.gamma(1.0, 2.5), grey.shape)
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


def _rules(grey: np.ndarray, distance: float, offset: float, level: float, upright: bool) -> None:
    """Thin lines at equal distances, in place."""
    height, width = grey.shape
    for place in np.arange(offset, width if upright else height, max(distance, 6.0)):
        at = round(float(place))
        ends = ((at, 0), (at, height)) if upright else ((0, at), (width, at))
        cv2.line(grey, *ends, (level,), 1)


def _stamp(grey: np.ndarray, level: float, rng: np.random.Generator) -> None:
    """Rings, a box or scribbles, in place: what has strokes and is no line."""
    height, width = grey.shape
    x, y, size = int(rng.integers(width)), int(rng.integers(height)), int(rng.integers(25, 90))
    thick = int(rng.integers(1, 4))
    kind = rng.random()
    if kind < 0.5:
        for radius in (size, round(0.7 * size))[: int(rng.integers(1, 3))]:
            cv2.circle(grey, (x, y), radius, (level,), thick, cv2.LINE_AA)
    elif kind < 0.7:
        cv2.rectangle(grey, (x, y), (x + 2 * size, y + size), (level,), thick)
    else:
        steps = np.array([x, y]) + rng.normal(0, size / 4, (int(rng.integers(4, 15)), 2)).cumsum(0)
        cv2.polylines(grey, [np.rint(steps).astype(np.int32)], False, (level,), thick, cv2.LINE_AA)


def _surrounded(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The page with what lay around it along some of its edges."""
    grey = grey.copy()
    level, depth = float(rng.choice([5.0, 40.0, 90.0, 160.0])), int(rng.integers(4, 16))
    for side, chosen in enumerate(rng.random(4) < 0.5):
        if chosen:
            np.rot90(grey, side)[:depth] = level
    return grey
