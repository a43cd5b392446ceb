"""Lines put together from words of one writer, in an order in which nobody wrote them.

The words of few sets follow each other as in the language, the names or the formulas of the few people in them, and a
recurrent network learns that along with the letters. In lines of words that are drawn at random it can rely on the
letters alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from components.tools.base_data.word_cutting import SURE, Word, aligned, cut, cut_closely
from components.tools.dataset_folder import whole_dataset

_HEIGHT = 64  # pixels of a line
_WORDS = (2, 9)  # of a line, if so many fit and are alike
_LONGEST = 20.0  # width over height
_TALL = 0.05  # standard deviation of a word's height, as a share of it
_SHIFT = 0.03  # of its place above or below the others, as a share of the line's height
_GAP = (0.0, 0.35)  # between two words, besides what their images have, as a share of the line's height
_ALIKE = (0.6, 1.6)  # height of a word's strokes, in those of the first one's


class Counts(NamedTuple):
    """What became of lines.

    Attributes:
        written: Images of composed lines that were written.
        words: Words that they are composed of.
        unsure: Words that were left out since the model does not find them in their lines.
    """

    written: int
    words: int
    unsure: int


def write_composed(
    rows: Sequence[Mapping[str, str]], lines: Path, model: str, target: Path, images: int, seed: int
) -> Counts:
    """Writes a dataset of composed lines: `labels.csv` with filename, text and writer, and `images/`, grey PNG.

    A writer of many words writes many lines; nobody's line has a word of somebody else.

    Args:
        rows: Rows of the table of `lines`, with filename, text and writer.
        lines: Folder of the lines that the words are cut out of.
        model: Version directory of a model for lines.
        target: New folder.
        images: How many lines.
        seed: Seed of the random choices.

    Returns:
        How many lines were written, from how many words, and what was left out.

    Raises:
        ValueError: No writer has two words that the model finds.
    """
    found: dict[str, list[Word]] = defaultdict(list)
    unsure = 0
    for row, line, characters in aligned(rows, lines, model):
        for word in cut(line, characters):
            if word.sure < SURE:
                unsure += 1
            else:
                found[row["writer"]].append(word)
    writers = sorted(writer for writer, words in found.items() if len(words) > 1)
    if not writers:
        raise ValueError(f"No lines for {target}: no writer of {lines} has two words that the model finds.")
    counts = np.array([len(found[writer]) for writer in writers])
    with whole_dataset(target) as add:
        for number in range(images):
            rng = np.random.default_rng([seed, number])
            writer = writers[int(rng.choice(len(writers), p=counts / counts.sum()))]
            composed = compose(found[writer], rng)
            add(f"{number + 1:06d}", composed.image, composed.text, writer)
    return Counts(images, int(counts.sum()), unsure)


def compose(words: Sequence[Word], rng: np.random.Generator) -> Word:
    """One line of some of a writer's words, each at most once.

    Args:
        words: Words to choose from, one at least, each as high as its line was.
        rng: Chooses words, gaps, sizes and places.

    Returns:
        The line, with the words' mean probability.
    """
    order = [words[place] for place in rng.permutation(len(words)).tolist()]
    most = int(rng.integers(*_WORDS, endpoint=True))
    least, highest = (cut_closely(order[0].image).shape[0] * share for share in _ALIKE)
    chosen: list[Word] = []
    pieces: list[np.ndarray] = []
    width = 0
    for word in order:
        if chosen and not least < cut_closely(word.image).shape[0] < highest:
            continue
        scale = _HEIGHT / word.image.shape[0] * float(np.clip(rng.normal(1.0, _TALL), 0.8, 1.2))
        size = [max(round(side * scale), 1) for side in reversed(word.image.shape)]
        piece = cv2.resize(word.image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        gap = round(float(rng.uniform(*_GAP)) * _HEIGHT) * bool(chosen)  # none before the first word
        if len(chosen) == most or (chosen and width + gap + size[0] > _LONGEST * _HEIGHT):
            break
        width += gap + size[0]
        chosen.append(word)
        pieces.append(np.hstack([np.full((size[1], gap), _paper(piece), np.uint8), piece]))
    line = np.hstack([_at_height(piece, rng) for piece in pieces])
    text = " ".join(word.text for word in chosen)
    return Word(line, text, float(np.mean([word.sure for word in chosen])))


def _paper(image: np.ndarray) -> int:
    return int(np.percentile(image, 90))


def _at_height(piece: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A piece on a strip of its paper, a little above or below the middle of the line."""
    strip = np.full((_HEIGHT, piece.shape[1]), _paper(piece), np.uint8)
    top = (_HEIGHT - piece.shape[0]) // 2 + round(float(rng.normal(0, _SHIFT)) * _HEIGHT)
    start, end = max(top, 0), min(top + piece.shape[0], _HEIGHT)
    strip[start:end] = piece[start - top : end - top]
    return strip
