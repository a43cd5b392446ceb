"""Words in capitals, put together from letters that people wrote."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from components.tools.capitals.letters import Letter
from components.tools.dataset_folder import whole_dataset

_HEIGHT = (26, 46)  # pixels of a capital letter
_GAP = (0.06, 0.5)  # between two letters, as a share of their height; one for a word
_SPACE = 0.5  # of the height, besides the gaps

# What no word of running text begins with, or hardly any: strokes from point to point, in shares of the letter's height
# (right, down), and how wide it is.
_DRAWN: Mapping[str, tuple[float, Sequence[Sequence[tuple[float, float]]]]] = {
    "I": (0.08, [[(0.04, 0.0), (0.04, 1.0)]]),
    "X": (0.7, [[(0.0, 0.0), (0.35, 0.5), (0.7, 1.0)], [(0.7, 0.0), (0.35, 0.5), (0.0, 1.0)]]),
    "Y": (0.7, [[(0.0, 0.0), (0.35, 0.5)], [(0.7, 0.0), (0.35, 0.5), (0.3, 1.0)]]),
    "-": (0.35, [[(0.02, 0.55), (0.33, 0.53)]]),
    "'": (0.12, [[(0.1, 0.0), (0.03, 0.25)]]),
    ".": (0.08, [[(0.04, 0.98), (0.05, 0.99)]]),
    ",": (0.12, [[(0.08, 0.92), (0.03, 1.12)]]),
}


class Counts(NamedTuple):
    """What became of texts.

    Attributes:
        written: Images that were written.
        left_out: Texts with a letter that no writer of the group has, and those of nothing.
    """

    written: int
    left_out: int


def write_capitals(
    letters: Mapping[str, Sequence[Letter]],
    texts: Iterable[str],
    target: Path,
    seed: int,
    group_of: Callable[[str], str],
    finish: Callable[[np.ndarray, np.random.Generator], np.ndarray],
) -> Counts:
    """Writes a dataset of words in capitals: `labels.csv` with filename, text and writer, and `images/`, grey PNG.

    A word is written with one writer's letters, and with those of others of the same group where that one lacks a
    letter. A writer of many letters writes many words.

    Args:
        letters: Letters by writer.
        texts: What is written. Small letters become capitals, without their accents where the group has none with them,
            as people write.
        target: New folder.
        seed: Seed of the random choices.
        group_of: Group of a writer, such as a split: no group sees letters of another one.
        finish: Makes the final image of a drawn one, both grey, uint8 [height, width].

    Returns:
        How many images were written, and what was left out.

    Raises:
        ValueError: There are no letters.
    """
    own, shared = _by_text(letters, group_of)
    if not own:
        raise ValueError(f"No capital letters for {target}: none parts from its neighbours, or the model finds none.")
    writers = list(own)
    counts = np.array([sum(map(len, own[writer].values())) for writer in writers])
    written = left_out = 0
    with whole_dataset(target) as add:
        for number, text in enumerate(texts):
            rng = np.random.default_rng([seed, number])
            writer = writers[int(rng.choice(len(writers), p=counts / counts.sum()))]
            others = shared[group_of(writer)]
            text = "".join(c if c in others else _without_accent(c) for c in text.upper())
            if not text.strip() or not set(text) <= {*others, *_DRAWN, " "}:
                left_out += 1
                continue
            choices = [own[writer].get(c) or others.get(c) or [] for c in text]
            written += 1
            add(f"{written:06d}", finish(_compose(text, choices, rng), rng), text, writer)
    return Counts(written, left_out)


def _without_accent(character: str) -> str:
    return unicodedata.normalize("NFD", character)[0]


def _by_text(
    letters: Mapping[str, Sequence[Letter]], group_of: Callable[[str], str]
) -> tuple[dict[str, dict[str, list[np.ndarray]]], dict[str, dict[str, list[np.ndarray]]]]:
    """Ink by writer and letter, and by group and letter."""
    own: dict[str, dict[str, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    shared: dict[str, dict[str, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    for writer in sorted(letters):
        for letter in letters[writer]:
            own[writer][letter.text].append(letter.ink)
            shared[group_of(writer)][letter.text].append(letter.ink)
    return own, shared


def _compose(text: str, choices: Sequence[Sequence[np.ndarray]], rng: np.random.Generator) -> np.ndarray:
    """A text in ink on white paper, uint8 [height, width], with little paper around."""
    height = float(rng.uniform(*_HEIGHT))
    gap = float(rng.uniform(*_GAP)) * height
    darkest, paper = float(rng.uniform(130, 255)), float(rng.uniform(200, 255))
    placed: list[tuple[int, int, np.ndarray]] = []
    pen, slope = 0.0, float(rng.normal(0, 0.02))
    for character, drawable in zip(text, choices, strict=True):
        if character == " ":
            pen += (_SPACE + rng.uniform(0, 0.3)) * height
            continue
        # Where there is a letter both ways, half of the times a drawn one: few people's capitals begin no word.
        drawn = not drawable or (character in _DRAWN and rng.random() < 0.5)
        tall = height * float(rng.normal(1.0, 0.06))
        if drawn:
            piece, above = _draw(character, tall, rng)
        else:
            piece, above = _vary(drawable[int(rng.integers(len(drawable)))], tall, rng), tall
        top = round(-above + slope * pen + rng.normal(0, 0.03) * height)
        placed.append((round(pen), top, piece))
        pen += piece.shape[1] + max(1.0, gap * float(rng.uniform(0.6, 1.4)))
    margin = [int(value) for value in rng.uniform(0.05, 0.4, 4) * height]
    left = min(x for x, _, _ in placed) - margin[0]
    top = min(y for _, y, _ in placed) - margin[1]
    right = max(x + piece.shape[1] for x, _, piece in placed) + margin[2]
    bottom = max(y + piece.shape[0] for _, y, piece in placed) + margin[3]
    ink = np.zeros((bottom - top, right - left), np.uint8)
    for x, y, piece in placed:
        window = ink[y - top : y - top + piece.shape[0], x - left : x - left + piece.shape[1]]
        np.maximum(window, piece, out=window)
    # Some people write faintly; a form is read by its darkest strokes, whatever the pen.
    covers = np.minimum(ink * (darkest / max(float(np.percentile(ink[ink > 30], 90)), 1.0)), 255) / 255
    return np.rint(paper * (1 - covers)).astype(np.uint8)


def _vary(ink: np.ndarray, tall: float, rng: np.random.Generator) -> np.ndarray:
    """A letter in another height, and not quite as it was: a little wider or narrower, turned and slanted."""
    scale = tall / ink.shape[0]
    wide = scale * float(rng.lognormal(0, 0.08))
    turn, slant = rng.normal(0, 0.03), rng.normal(0, 0.06)
    matrix = np.array([[wide, -slant * scale], [turn * wide, scale]])
    corners = np.array([[0, 0], [ink.shape[1], 0], [0, ink.shape[0]], [ink.shape[1], ink.shape[0]]]) @ matrix.T
    start = corners.min(axis=0)
    width, height = np.ceil(corners.max(axis=0) - start).astype(int)
    moved = np.column_stack([matrix, -start])
    return cv2.warpAffine(ink, moved, (max(2, int(width)), max(2, int(height))), flags=cv2.INTER_AREA)


def _draw(character: str, tall: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """A character from strokes: its ink, and how far that reaches above the line, in pixels."""
    width, strokes = _DRAWN[character]
    pad, thick = 4, float(rng.uniform(1.2, 3.5))
    points = [np.array(stroke) + rng.normal(0, 0.025, (len(stroke), 2)) for stroke in strokes]
    deepest = max(float(stroke[:, 1].max()) for stroke in points)
    shape = (int(max(deepest, 1.0) * tall) + 2 * pad, int((width + 0.1) * tall) + 2 * pad)
    large = np.zeros((shape[0] * 4, shape[1] * 4), np.uint8)
    for stroke in points:
        for start, end in pairwise((stroke * tall + pad) * 4):
            ends = [(int(x), int(y)) for x, y in (start, end)]
            cv2.line(large, ends[0], ends[1], (255,), max(2, round(thick * 4)), cv2.LINE_AA)
    drawn = cv2.resize(large, (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
    columns = np.flatnonzero(drawn.max(axis=0) > 40)
    return drawn[:, columns[0] : columns[-1] + 1], tall + pad
