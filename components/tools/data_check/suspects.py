"""Rows of a dataset that look wrong: the same image twice, labels that do not fit their image or are odd themselves."""

from __future__ import annotations

import contextlib
import math
import re
import statistics
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from components.tools.data_check.look import OUTLINE_SIZE, Seen

NO_TEXT = {"none", "null", "nan", "n/a", "na", "todo", "tbd", "unknown", "illegible", "unreadable", "unclear", "blank",
           "empty", "missing"}  # fmt: skip
# Two images whose outlines have so few different bits are the same.
_OUTLINE_BANDS, _OUTLINE_DIFFERENT, _OUTLINE_LEAST = 16, 8, 24
_CROWDED_BUCKET = 50
# Rows, and characters with a width of their own. Of thousands, as in Chinese, most are in too few labels to tell it.
_FITTED, _OWN_WIDTH = 20_000, 300
_UNEXPLAINED = 0.9  # of the widths' spread: labels say next to nothing about them
# ZWNJ and ZWJ where Persian, the scripts of India and emoji need them.
_JOINED = re.compile(r"(?<=[^\x00-\x7f\u200c\u200d])[\u200c\u200d](?=[^\x00-\x7f\u200c\u200d])")


def same_images(seen: Sequence[Seen]) -> list[tuple[int, int]]:
    """Pairs of rows whose images are the same, to the pixel or but for scale, compression and brightness.

    Returns:
        Positions in `seen`, the smaller first; each later row is paired with the first that it equals.
    """
    buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
    first_with: dict[bytes, int] = {}
    pairs = []
    width = (OUTLINE_SIZE[0] - 1) * OUTLINE_SIZE[1] // _OUTLINE_BANDS
    for i, row in enumerate(seen):
        match = first_with.setdefault(row.pixels, i)
        if match != i:
            pairs.append((match, i))
            continue
        if row.outline.bit_count() < _OUTLINE_LEAST:
            continue
        keys = [(band, (row.outline >> band * width) & ((1 << width) - 1)) for band in range(_OUTLINE_BANDS)]
        keys = [key for key in keys if key[1].bit_count() >= 3]
        candidates = sorted({j for key in keys if len(buckets[key]) < _CROWDED_BUCKET for j in buckets[key]})
        match = next((j for j in candidates if _alike(seen[j], row)), i)
        if match != i:
            pairs.append((match, i))
        else:
            for key in keys:
                buckets[key].append(i)
    return pairs


def _alike(a: Seen, b: Seen) -> bool:
    shapes = [s.sample.width / s.sample.height for s in (a, b)]
    return (a.outline ^ b.outline).bit_count() <= _OUTLINE_DIFFERENT and abs(math.log(shapes[0] / shapes[1])) < 0.05


def misfits(seen: Sequence[Seen]) -> list[tuple[int, float]]:
    """Labels that are much too long or too short for the ink of their image.

    How wide each character is written is fitted to all rows, see `_deviations`. Widths are measured in heights of the
    image, which line and word crops have in common, or in heights of the ink, which tell more where all images are
    canvases of one size: whichever is explained better by the labels. Where neither is, nothing can be said.

    Returns:
        Positions in `seen` with the factor by which the ink is wider than it should be, largest deviation first.
    """
    rows = [i for i, s in enumerate(seen) if s.ink_columns > 0]
    if len(rows) < 50:
        return []
    texts, writers = [seen[i].sample.text for i in rows], [seen[i].sample.writer for i in rows]
    columns = np.array([seen[i].ink_columns for i in rows], float)
    heights = (np.array([seen[i].sample.height for i in rows]), np.array([seen[i].ink_rows for i in rows]))
    deviation, unexplained = min(
        (_deviations(columns / height, texts, writers) for height in heights), key=lambda fitted: fitted[1]
    )
    if unexplained > _UNEXPLAINED:
        return []
    bound = max(4 * _spread(deviation), math.log(1.35))
    found = [(rows[i], math.exp(deviation[i])) for i in np.flatnonzero(np.abs(deviation) > bound)]
    return sorted(found, key=lambda item: -abs(math.log(item[1])))


def _deviations(width: np.ndarray, texts: Sequence[str], writers: Sequence[str]) -> tuple[np.ndarray, float]:
    """Fits the widths of characters to the widths of texts (ridge regression, outliers left out, writers scaled).

    Args:
        width: float64 [rows], in some unit of height.
        texts: Labels of the rows.
        writers: Writers of the rows; empty if unknown.

    Returns:
        Logarithms float64 [rows] of the factor by which each row is wider than its fit, and their spread as a share of
        what it is when the labels are left out of account.
    """
    fitted = np.random.default_rng(0).permutation(len(texts))[:_FITTED]
    frequent = Counter("".join(texts)).most_common(_OWN_WIDTH)
    place = {c: i for i, c in enumerate(sorted(c for c, _ in frequent), 1)}
    others = len(place) + 1
    places = [[place.get(character, others) for character in text] for text in texts]
    counts = np.stack([np.bincount(places[i], minlength=others + 1) for i in fitted]).astype(float)
    counts[:, 0] = 1
    usual = float(np.median(width / [len(text) for text in texts]))
    prior = np.append(0.0, np.full(others, usual))
    scale, deviation, bound = np.ones(len(texts)), np.zeros(len(texts)), math.inf
    for _ in range(4):
        kept = np.abs(deviation[fitted]) <= bound
        design = counts[kept] * scale[fitted][kept, None]
        weights = prior + np.linalg.solve(
            design.T @ design + 3 * np.eye(len(prior)), design.T @ (width[fitted][kept] - design @ prior)
        )
        expected = np.array([weights[0] + weights[found].sum() for found in places])
        residual = np.log(width / np.maximum(expected, 0.2 * usual))
        scale = np.exp(_by_writer(residual, writers))
        deviation = residual - np.log(scale)
        bound = max(4 * _spread(deviation), math.log(1.35))
    alone = np.log(width)
    return deviation, _spread(deviation) / max(_spread(alone - np.median(alone)), 1e-9)


def _spread(values: np.ndarray) -> float:
    """Standard deviation of values around 0, whatever outliers there are."""
    return 1.4826 * float(np.median(np.abs(values)))


def _by_writer(values: np.ndarray, writers: Sequence[str]) -> np.ndarray:
    """The median of each row's writer; that of all rows for writers with fewer than 20."""
    groups: dict[str, list[float]] = defaultdict(list)
    for writer, value in zip(writers, values.tolist(), strict=True):
        groups[writer].append(value)
    overall = float(np.median(values))
    medians = {w: statistics.median(found) if len(found) >= 20 else overall for w, found in groups.items()}
    return np.array([medians[writer] for writer in writers])


def odd_labels(text: str) -> Iterator[str]:
    """Why a label looks wrong by itself, in words; nothing for an ordinary one."""
    for character in sorted(set(_JOINED.sub("", text))):
        category = unicodedata.category(character)
        if category in ("Cf", "Co", "Cn") or (category == "Zs" and character != " "):
            name = unicodedata.name(character, "unnamed").lower()
            yield f"holds U+{ord(character):04X} ({name}), which cannot be seen"
    if "  " in text:
        yield "holds two spaces in a row"
    if text.lower().strip(".?!-_ ") in NO_TEXT or not text.strip("?._-* "):
        yield "looks like a note that there is no text (data.placeholders)"
    for encoding, least in (("cp1252", 1), ("cp1251", 2)):  # one character may be an ordinary word: Ukrainian for "no"
        with contextlib.suppress(UnicodeError):  # as nearly always: such letters alone are no UTF-8
            meant = text.encode(encoding).decode()
            if sum(not character.isascii() for character in meant) >= least:
                yield f"is what {meant!r} becomes where UTF-8 is opened as {encoding}, as Excel does"
    scripts = {unicodedata.name(c, "").split(" ")[0] for c in text if c.isalpha()}
    scripts &= {"LATIN", "CYRILLIC", "GREEK"}
    if len(scripts) > 1:
        yield f"mixes {' and '.join(sorted(s.capitalize() for s in scripts))} letters, which look alike"
