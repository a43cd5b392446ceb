"""From the frames in which a CTC model fires to where the characters stand in the image.

One rule for client, page and report. CTC training leaves open in which frame of a character a model fires. Networks of
this system fire early, at the first character of a text most of all. `benchmarks/spans.py` measures the rule on
rendered text, whose characters are known to the pixel.
"""

from collections.abc import Sequence

import numpy as np

EARLY = 0.5
"""Frames from where a model fires to the middle of the character; 0.2 to 0.9 in three models."""
# Of the last frame's four columns, 1.5 are padding on average.
_PADDING = 0.375


def frame_pixels(frames: int, width: float) -> float:
    """Width of a frame in pixels of the image, for a model that keeps the aspect ratio.

    Args:
        frames: Number of valid frames of the image.
        width: Width of the image in pixels.

    Returns:
        Pixels.
    """
    return width / max(frames - _PADDING, 1.0)


def pixel_spans(
    runs: Sequence[tuple[int, int]], frames: int, width: float, ink: tuple[float, float]
) -> list[tuple[float, float]]:
    """Left and right edges of the characters of one image.

    Neighbours meet half-way between the middles of their runs, moved by `EARLY`. The first character begins as far to
    the left of its middle as its other edge is to the right, but not before the ink; the last one likewise.

    Args:
        runs: First frame of each character and the frame after its last one, as decoders return them.
        frames: Number of valid frames of the image.
        width: Width of the image in pixels.
        ink: First column with ink and the one after the last, in pixels; the whole width where that is not known.

    Returns:
        One span a character, within the image, from left to right without gaps; pixels.
    """
    if not runs:
        return []
    if len(runs) == 1:
        return [(float(ink[0]), float(ink[1]))]
    scale = frame_pixels(frames, width)
    middles = (np.array(runs, float).mean(axis=1) + EARLY) * scale
    # Characters in the very last frames stay within the image, and in order.
    middles = np.minimum(middles, width - 0.25 * scale * np.arange(len(runs), 0, -1))
    edges = np.empty(len(runs) + 1)
    edges[1:-1] = (middles[1:] + middles[:-1]) / 2
    # Ink that ends before the boundary to the neighbour contradicts the model and bounds nothing.
    first, last = 2 * middles[0] - edges[1], 2 * middles[-1] - edges[-2]
    edges[0] = max(first, ink[0] if ink[0] < edges[1] else 0.0)
    edges[-1] = min(last, ink[1] if ink[1] > edges[-2] else width)
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
