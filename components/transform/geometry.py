"""How large an image becomes in the image tensor, and how many frames it then has.

Plain arithmetic without TensorFlow, so that checking a dataset stays quick. `preprocessing.py` computes the same
sizes with TensorFlow operations; a test compares the two.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable

from components.transform.settings import SIZES, TransformConfig
from htr_client.model_facts import COLUMNS_PER_FRAME

CROWDED = 0.6
"""Share of an image's frames that its label takes up, from which on too few are left between the characters."""


def resized_width(width: int, height: int, config: TransformConfig) -> int:
    """Columns that an image of `width` x `height` pixels covers in the image tensor, without the padding."""
    assert config.height is not None and config.width is not None
    if config.resize == "stretch":
        return config.width
    scale = min(config.height / height, config.width / width)
    return min(max(int(width * scale + 0.5), 1), config.width)


def available_frames(width: int, height: int, config: TransformConfig) -> int:
    """Frames that CTC may use for an image of `width` x `height` pixels: those of its own columns, not the padding."""
    return -(-resized_width(width, height, config) // COLUMNS_PER_FRAME)


def fits_as_line(text: str, width: int, height: int, config: TransformConfig) -> bool:
    """Whether a label that has too few frames has enough with the preset for lines, instead of that for words."""
    if config.preset != "word" or (config.height, config.width) != SIZES["word"]:  # a given size outlasts the preset
        return False
    return needed_frames(text) <= available_frames(width, height, TransformConfig(preset="line", resize=config.resize))


def crowding(samples: Iterable[tuple[int, int, str]], config: TransformConfig) -> float:
    """Share of its frames that a crowded label needs: the 95th percentile over images (width, height, label).

    CTC can align up to 1, but a network needs room: from `CROWDED` on, finer frames make fewer errors.
    """
    shares = sorted(needed_frames(text) / available_frames(width, height, config) for width, height, text in samples)
    return shares[int(0.95 * (len(shares) - 1))] if shares else 0.0


def needed_frames(text: str) -> int:
    """Frames that CTC needs at least: one a character and a blank between equal neighbours (Graves 2006)."""
    return len(text) + sum(map(operator.eq, text, text[1:]))
