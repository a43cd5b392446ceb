"""What makes an answer suspect whatever its confidence says: images of a kind that models are not trained on.

Costs some 30 microseconds an image, and needs nothing of the model but its answer.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np

from htr_client.model_facts import COLUMNS_PER_FRAME, LEAST_CONTRAST

_SAMPLED = 8192
_FEWEST_ROWS = 16  # of the image tensor of any model of this system
# By so many grey levels the faintest writing that a model can read stands out from what is around it. The grain of
# empty paper stays below, once neighbouring pixels are averaged.
_FAINTEST, _NEIGHBOURS, _AROUND = 10, (3, 3), (31, 31)
PAGE_LIKE, NO_TEXT, NO_LINES, TOO_WIDE = "page_like", "no_text", "no_lines", "too_wide"


class Suspicion(NamedTuple):
    """One reason why an image may be of another kind than the model was trained on.

    Attributes:
        code: "blank" (nothing is written, or too faintly), "inverted" (light writing on a dark ground), "too_wide" (so
            wide for the model that its writing becomes illegibly small), "page_like" (it has the shape of a page) or
            "no_text" (no text was found in it). Of a page "no_lines" (none was found), "lines_without_text" (nothing
            was seen in them), "lines_too_wide" (for the model, as each of its own) or "lines_too_low" (a few pixels
            high, as on a thumbnail). Of an image that may be a page "no_line_finder"; and "no_lines" where none was
            found.
        message: One sentence or two for a person, with what to do.
    """

    code: str
    message: str


class Look(NamedTuple):
    """What the pixels alone show.

    Attributes:
        suspicions: At most one.
        ink: First column with ink and the one after the last, in pixels; the whole width when that cannot be told.
        is_empty: Whether nothing at all is written.
    """

    suspicions: tuple[Suspicion, ...]
    ink: tuple[float, float]
    is_empty: bool = False


def look(grey: np.ndarray) -> Look:
    """Looks at the pixels of an image.

    Args:
        grey: uint8 [h, w], 0 black and 255 white.

    Returns:
        Suspicions, and where the ink is.
    """
    everywhere = (0, grey.shape[1])
    step = math.isqrt(grey.size // _SAMPLED) + 1
    sample = np.ascontiguousarray(grey[::step, ::step]) if step > 1 else grey
    below = cv2.calcHist([sample], [0], None, [256], [0, 256]).ravel().cumsum() / sample.size
    darkest, lightest = np.searchsorted(below, [0.002, 0.998]).tolist()
    if lightest - darkest < LEAST_CONTRAST:
        blank = Suspicion(
            "blank",
            f"The image shows nothing, or next to nothing: {lightest - darkest} of 255 grey levels lie between its "
            "darkest and lightest parts.",
        )
        return Look((blank,), everywhere, _is_empty(grey))
    middle = (darkest + lightest) // 2
    if below[middle] > 0.5:
        inverted = Suspicion(
            "inverted", "Most of the image is dark, as light writing on a dark ground: invert it if it is."
        )
        return Look((inverted,), everywhere)
    columns = np.flatnonzero(grey.min(axis=0) <= middle)
    return Look((), (int(columns[0]), int(columns[-1]) + 1) if len(columns) else everywhere)


def _is_empty(grey: np.ndarray) -> bool:
    """Whether nothing stands out: few thin strokes on a wide sheet may be lost among its grey levels."""
    near, around = cv2.blur(grey, _NEIGHBOURS), cv2.blur(grey, _AROUND)
    return float(cv2.absdiff(near, around).max()) < _FAINTEST


def of_geometry(width: int, height: int, frames: int) -> tuple[Suspicion, ...]:
    """What the model's answer tells about the size of the writing in its image tensor.

    A model for words has an image tensor of fixed width. A whole line is made narrower to fit into it, and lower with
    it.

    Args:
        width: Width in pixels of the image.
        height: Height in pixels.
        frames: Number of valid frames in the answer.

    Returns:
        At most one suspicion.
    """
    columns = frames * COLUMNS_PER_FRAME
    if columns * height >= width * _FEWEST_ROWS:
        return ()
    return (
        Suspicion(
            TOO_WIDE,
            f"The image is {width / height:.0f} times as wide as high: in the {columns} columns that the model sees, "
            f"it is {max(1, columns * height // width)} pixels high. If it is a line of text and the model is one for "
            "single words, cut it into words, or use a model for lines.",
        ),
    )
