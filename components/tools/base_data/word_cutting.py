"""Words cut out of labelled lines: images of words by writers of whom there are only lines.

Where a word stands in its line is what a model for lines says of the label: the most probable CTC alignment. Two
words are parted in the column with the least ink between them.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from components.recogniser.located import Located, located
from components.recogniser.model import ExportedModel
from components.tools.dataset_folder import whole_dataset
from htr_client.decoding import align
from htr_client.image_files import load

SURE = 0.5
"""Mean probability of a word's characters from which on it is cut out: below, label and image hardly agree."""
_BATCH = 16  # lines
_TOGETHER = 0.25  # share of the words that stay with the next one: the preset `word` reads short phrases, too
_LONGEST = 5.0  # width over height of two words that stay together
_CLOSELY = 0.5  # share of the images that are cut down to their own strokes
_MARGIN = 3  # pixels around these


@dataclass(frozen=True)
class Word:
    """A word or two, cut out of a line.

    Attributes:
        image: Grey, uint8 [height, width].
        text: What is written there.
        sure: Mean probability of its characters.
    """

    image: np.ndarray
    text: str
    sure: float


class Counts(NamedTuple):
    """What became of lines.

    Attributes:
        written: Images of words that were written.
        unsure: Words that were left out since the model does not find them in their lines.
        lines_left_out: Lines that gave no word: the model cannot write one of their characters, they are too narrow for
            their labels, or they are blank.
    """

    written: int
    unsure: int
    lines_left_out: int


def write_words(rows: Sequence[Mapping[str, str]], lines: Path, model: str, target: Path, seed: int) -> Counts:
    """Writes a dataset of words: `labels.csv` with filename, text and writer, and `images/`, grey PNG.

    Some words stay with the next one, and some images are cut down to their own strokes: people's words are of both
    kinds.

    Args:
        rows: Rows of the table of `lines`, with filename, text and writer.
        lines: Folder of the lines.
        model: Version directory of a model for lines.
        target: New folder.
        seed: Seed of the random choices.

    Returns:
        How many words were written, and what was left out.
    """
    written = unsure = without = 0
    rng = np.random.default_rng(seed)
    with whole_dataset(target) as add:
        for row, line, characters in aligned(rows, lines, model):
            words = list(cut(line, characters))
            without += not words
            for word in _drawn(words, rng):
                if word.sure < SURE:
                    unsure += 1
                    continue
                image = cut_closely(word.image) if rng.random() < _CLOSELY else word.image
                written += 1
                add(f"{written:06d}", image, word.text, row["writer"])
    return Counts(written, unsure, without)


def aligned(
    rows: Sequence[Mapping[str, str]], lines: Path, model: str
) -> Iterator[tuple[Mapping[str, str], np.ndarray, list[Located]]]:
    """Lines with the characters of their labels where a model finds them.

    Args:
        rows: Rows of the table of `lines`, with filename and text.
        lines: Folder of the lines.
        model: Version directory of a model for lines.

    Yields:
        Row, grey image (uint8 [height, width]) and characters of each line, by file size; no characters where the model
        cannot write one of them or the image is too narrow for all of them.
    """
    reader = ExportedModel(model)
    # Lines of about one length together: a batch is as wide as its widest.
    ordered = sorted(rows, key=lambda row: os.path.getsize(lines / row["filename"]))
    for start in range(0, len(ordered), _BATCH):
        batch = ordered[start : start + _BATCH]
        images = [(lines / row["filename"]).read_bytes() for row in batch]
        texts = [" ".join(unicodedata.normalize("NFC", row["text"]).split()) for row in batch]
        log_probs, frames = reader.log_probs(images)
        labels = [reader.alphabet.encode(text, skip_unknown=True) for text in texts]
        paths = align(log_probs, frames, labels)
        for row, image, text, label, runs, valid in zip(
            batch, images, texts, labels, paths, frames.tolist(), strict=True
        ):
            line = load(image)
            known = len(runs) == len(label) == len(text)
            characters = [(c, p, run) for c, (run, p) in zip(text, runs, strict=True)] if known else []
            yield row, line, located(characters, line, valid)


def cut(line: np.ndarray, characters: Sequence[Located]) -> Iterator[Word]:
    """The words of one line, from left to right; together they are the line, without its empty ends.

    Args:
        line: Grey image, uint8 [height, width], dark ink.
        characters: Characters of its label, which neither begins nor ends with a space, nor has two in a row.

    Yields:
        Each word, up to the columns where it parts from its neighbours.
    """
    columns = ink_of_columns(line)
    inked = np.flatnonzero(columns)
    if not inked.size or not characters:
        return
    spaces = [place for place, character in enumerate(characters) if character.text == " "]
    middles = [sum(character.span) / 2 * line.shape[1] for character in characters]
    partings = [parting(columns, middles[place - 1], middles[place + 1]) for place in spaces]
    edges = [max(int(inked[0]) - _MARGIN, 0), *partings, min(int(inked[-1]) + 1 + _MARGIN, line.shape[1])]
    starts, ends = [0, *(place + 1 for place in spaces)], [*spaces, len(characters)]
    for start, end, left, right in zip(starts, ends, edges[:-1], edges[1:], strict=True):
        if right > left:
            own = characters[start:end]
            sure = float(np.mean([character.probability for character in own]))
            yield Word(line[:, left:right], "".join(character.text for character in own), sure)


def ink_of_columns(line: np.ndarray) -> np.ndarray:
    """How much ink each column of a grey image has, float32 [width], smoothed over three columns."""
    return cv2.blur(ink(line).sum(axis=0, dtype=np.float32)[None], (3, 1))[0]


def parting(columns: np.ndarray, before: float, after: float) -> int:
    """The column with the least ink between the middles of two characters; of several that in the middle."""
    start = min(int(before), len(columns) - 1)
    between = columns[start : max(int(np.ceil(after)), start + 1)]
    least = np.flatnonzero(between <= between.min() + 1e-6)
    return start + int(least[len(least) // 2])


def _drawn(words: Sequence[Word], rng: np.random.Generator) -> Iterator[Word]:
    """Words, some of them with the next one."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if rest and rng.random() < _TOGETHER:
            joined = np.hstack([word.image, rest[0].image])
            if joined.shape[1] <= _LONGEST * joined.shape[0]:
                other = rest.pop(0)
                word = Word(joined, f"{word.text} {other.text}", min(word.sure, other.sure))
        yield word


def cut_closely(word: np.ndarray) -> np.ndarray:
    """Cuts a word down to the strokes that reach into the middle of the line: others hang in from the lines around.

    Args:
        word: Grey image, uint8 [height, width], dark ink.

    Returns:
        The part with these strokes; all of it where there are none.
    """
    count, _, boxes, _ = cv2.connectedComponentsWithStats(ink(word), connectivity=8)
    height, width = word.shape
    lefts, tops, widths, heights, areas = boxes[1:].T  # the first one is the paper
    rights, bottoms = lefts + widths, tops + heights
    own = (areas > 3) & (tops < 0.7 * height) & (bottoms > 0.3 * height)
    if count < 2 or not own.any():
        return word
    top, bottom = max(tops[own].min() - _MARGIN, 0), min(bottoms[own].max() + _MARGIN, height)
    left, right = max(lefts[own].min() - _MARGIN, 0), min(rights[own].max() + _MARGIN, width)
    return word[top:bottom, left:right]


def ink(image: np.ndarray) -> np.ndarray:
    """1 where a grey image has ink, else 0, uint8; threshold by Otsu's method."""
    return cv2.threshold(image, 0, 1, cv2.THRESH_BINARY_INV | cv2.THRESH_OTSU)[1]
