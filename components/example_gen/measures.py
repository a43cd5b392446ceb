"""Cheap numbers that describe an image, for statistics and drift."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from htr_client.model_facts import LEAST_CONTRAST

# Measures of an image and its label that examples carry.
NUMBERS = ("width", "height", "text_length", "paper_level", "ink_level", "ink_share", "sharpness")
_MEASURED_PIXELS, _MEASURED_ROWS, _COUNTED_PIXELS = 2**10, 16, 2**9  # at least, where an image has them
_SECOND_DIFFERENCE = np.array([[1, -2, 1]], np.float32)


def describe(greys: Sequence[np.ndarray]) -> list[dict[str, float]]:
    """Cheap numbers that change when images do: drift in the images becomes visible in their statistics.

    Args:
        greys: Images, uint8 [height, width] each.

    Returns:
        For each its paper_level and ink_level (95th and 2nd percentile of the grey values, 0..255), ink_share (share of
        pixels darker than half-way), sharpness (root mean square of the second difference along the rows, over the
        contrast of `LEAST_CONTRAST` or more); all from a sample of its pixels.
    """
    if not greys:
        return []
    # Some rows of a large image, and some of their pixels, have the grey values of all, for a part of the price.
    some = [g[:: max(1, min(g.size // _MEASURED_PIXELS, len(g) // _MEASURED_ROWS))] for g in greys]
    counted = [rows.ravel()[:: max(1, rows.size // _COUNTED_PIXELS)] for rows in some]
    levels = np.array([np.bincount(pixels, minlength=256) for pixels in counted]).cumsum(axis=1)
    totals = levels[:, -1:]
    ink, paper = ((levels >= np.ceil(share * totals).astype(int)).argmax(axis=1) for share in (0.02, 0.95))
    dark = levels[np.arange(len(levels)), (ink + paper) // 2] / totals[:, 0]
    bends = np.array([cv2.norm(cv2.filter2D(rows, cv2.CV_16S, _SECOND_DIFFERENCE)) for rows in some])
    shares = np.where(paper > ink, dark, 0.0)
    # With little ink the percentiles of paper and ink are nearly equal: a contrast of 1 would make a sharpness of 30.
    sharpness = bends / np.sqrt([rows.size for rows in some]) / np.maximum(paper - ink, LEAST_CONTRAST)
    columns = (column.astype(float).tolist() for column in (paper, ink, shares, sharpness))
    return [
        {"paper_level": paper, "ink_level": ink, "ink_share": share, "sharpness": sharp}
        for paper, ink, share, sharp in zip(*columns, strict=True)
    ]
