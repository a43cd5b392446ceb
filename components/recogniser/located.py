"""Where the characters of an image stand that a model has read, or of its label, aligned with what the model saw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from htr_client.spans import pixel_spans
from htr_client.suspicion import look


class Located(NamedTuple):
    """A character in its image.

    Attributes:
        text: The character.
        probability: Highest probability of the character in its frames.
        span: Left and right edge, as shares of the image's width.
    """

    text: str
    probability: float
    span: tuple[float, float]


def located(characters: Sequence[tuple[str, float, tuple[int, int]]], grey: np.ndarray, frames: int) -> list[Located]:
    """Says where in its image each character stands.

    Args:
        characters: Text, probability and run of frames (first, one after the last) of each character.
        grey: Image, uint8 [height, width].
        frames: Number of valid frames of the image.

    Returns:
        The characters with their spans, from left to right.
    """
    left, right = (edge / grey.shape[1] for edge in look(grey).ink)
    spans = pixel_spans([run for _, _, run in characters], frames, 1.0, (left, right))
    return [Located(text, p, span) for (text, p, _), span in zip(characters, spans, strict=True)]
