"""What a calibration on validation images may choose from, and hold in memory: temperatures (Guo et al. 2017)."""

from __future__ import annotations

import numpy as np

ENOUGH = 30
"""Images that tell a temperature. Of 5 or 10 all may be right by chance, which makes the sharpest one the likeliest."""
MOST_NUMBERS = 100_000_000
"""Log-probabilities of all images to hold at once, float32: 400 MB. A long line and a large alphabet make many."""
_ALL = np.geomspace(0.5, 4.0, 25).tolist()


def temperatures(images: int, neutral: float = 1.0) -> list[float]:
    """The temperatures to choose from, ascending.

    Args:
        images: Number of images to choose with; fewer than `ENOUGH` cannot make confidences higher than `neutral` does.
        neutral: Temperature to take where there is no image.
    """
    return _ALL if images >= ENOUGH else [neutral, *(temperature for temperature in _ALL if temperature > neutral)]
