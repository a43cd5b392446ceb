"""Capital letters cut out of labelled words and lines.

Words in capitals are what people write into forms, and what labelled lines of running text do not have. Their capitals
do stand there, one at the beginning of a word.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from components.recogniser.located import Located
from components.tools.base_data.word_cutting import aligned, ink, ink_of_columns, parting

SURE = 0.6
"""Probability of a letter from which on it is cut out: below, label and image hardly agree."""
_LEAST = 9  # pixels: letters that are lower say little
_RULE = 4  # pixels: what is no higher, and as wide as the letter, is a ruled line
_SHAPE = (0.6, 1.5)  # width over height, as a multiple of what the letter mostly has: else it is a half, or two
_WIDEST_I = 0.7
_FEW = 5  # of a letter from which on its shape is known


@dataclass(frozen=True)
class Letter:
    """A capital letter as somebody wrote it.

    Attributes:
        text: The letter.
        ink: How dark it is, uint8 [height, width], 0 for paper; cut down to its strokes.
    """

    text: str
    ink: np.ndarray

    @property
    def aspect(self) -> float:
        """Width over height."""
        return self.ink.shape[1] / self.ink.shape[0]


def cut_capitals(rows: Sequence[Mapping[str, str]], lines: Path, model: str) -> dict[str, list[Letter]]:
    """The capital letters of each writer that part cleanly from their neighbours.

    Args:
        rows: Rows of the table of `lines`, with filename, text and writer.
        lines: Folder of their images: words or lines.
        model: Version directory of a model for lines.

    Returns:
        Letters by writer.
    """
    found: dict[str, list[Letter]] = defaultdict(list)
    for row, line, characters in aligned(rows, lines, model):
        found[row["writer"]].extend(capitals(line, characters))
    usual = _usual_aspects(letter for letters in found.values() for letter in letters)
    return {writer: [one for one in letters if _whole(one, usual)] for writer, letters in found.items()}


def capitals(line: np.ndarray, characters: Sequence[Located]) -> list[Letter]:
    """The capital letters of a line between whose ink and that of their neighbours there is paper.

    Args:
        line: Grey image, uint8 [height, width], dark ink.
        characters: Characters of its label, where the model finds them.

    Returns:
        Letters, from left to right.
    """
    columns = ink_of_columns(line)
    middles = [sum(character.span) / 2 * line.shape[1] for character in characters]
    edges = [0, *(parting(columns, *pair) for pair in pairwise(middles)), line.shape[1]]
    _, parts, boxes, _ = cv2.connectedComponentsWithStats(ink(line), connectivity=8)
    letters = []
    for character, left, right in zip(characters, edges, edges[1:], strict=False):
        if character.text.isupper() and character.probability >= SURE:
            strokes = _strokes(line, parts, boxes, left, right)
            if strokes is not None:
                letters.append(Letter(character.text, strokes))
    return letters


def _strokes(line: np.ndarray, parts: np.ndarray, boxes: np.ndarray, left: int, right: int) -> np.ndarray | None:
    """The ink between two columns, cut down to it; None where it goes on beyond them, or where there is too little.

    `parts` and `boxes` are the connected components of the line's ink, as OpenCV numbers them.
    """
    lefts, _, widths, heights, areas = boxes.T
    middles = lefts + widths / 2
    flat = (heights <= _RULE) & (widths >= 3 * heights) & (widths > (right - left) / 2)
    own = (left <= middles) & (middles < right) & (areas > 3) & ~flat
    own[0] = False  # the paper
    if not own.any() or lefts[own].min() < left or (lefts + widths)[own].max() > right:
        return None
    rows, columns = np.nonzero(own[parts])
    box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    if rows.max() + 1 - rows.min() < _LEAST:
        return None
    # With the pixels around its strokes, which are not dark enough for ink but make their edges smooth.
    near = cv2.dilate(own[parts].astype(np.uint8), np.ones((3, 3), np.uint8))
    return np.where(near, 255 - line, 0).astype(np.uint8)[box]


def _usual_aspects(letters: Iterable[Letter]) -> dict[str, float]:
    """What width over height each letter has in the middle; letters of which there are few are not in it."""
    aspects: dict[str, list[float]] = defaultdict(list)
    for letter in letters:
        aspects[letter.text].append(letter.aspect)
    return {text: float(np.median(values)) for text, values in aspects.items() if len(values) >= _FEW}


def _whole(letter: Letter, usual: Mapping[str, float]) -> bool:
    if letter.text == "I":  # a stroke, or one with two more: it has no usual shape
        return letter.aspect <= _WIDEST_I
    return letter.text not in usual or _SHAPE[0] <= letter.aspect / usual[letter.text] <= _SHAPE[1]
