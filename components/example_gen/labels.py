"""Checks of a label by itself."""

from __future__ import annotations

import functools
import unicodedata

from components.example_gen.rejects import KEEP_PLACEHOLDERS, Rejected
from components.example_gen.settings import DataConfig
from components.example_gen.table import NUL_SHOWN_AS

# Normalisation takes time that grows with the square of the length, and no image has room for so many: at most 8192
# columns, four to a frame, one character a frame, which NFC composes of at most four code points.
_LONGEST_LABEL = 10_000
# What programs write for a missing value, where `data.placeholders` has it; the others are people's.
_MISSING = {"nan", "#n/a", "n/a", "na", "<na>", "null", "none"}
# Categories of Unicode. Of the first a label has none: control characters, ends of lines, halves of pairs. Those of the
# second cannot be seen: marks of direction, joiners, spaces.
_REJECTED, _UNSEEN = ("Cc", "Cs", "Zl", "Zp"), ("Cf", "Zs")
_FIRST_RIGHT_TO_LEFT = "\u0590"  # Hebrew; nothing before it is written from right to left


def check_label(text: str, data: DataConfig) -> str:
    """The label as it is trained on: without space around it, NFC-normalised.

    Raises:
        Rejected: It cannot be used.
    """
    text = text.strip()
    if len(text) > _LONGEST_LABEL:
        raise Rejected("label_too_long", f"{len(text)} characters are more than any image has frames for")
    label = unicodedata.normalize("NFC", text)
    if not label:
        raise Rejected("empty_label", "the label is empty")
    if all(unicodedata.category(character) in _UNSEEN for character in label):
        raise Rejected("empty_label", f"no character of {label!r} can be seen")
    if (folded := label.casefold()) in _folded(tuple(data.placeholders)):
        if folded in _MISSING:
            raise Rejected("empty_label", f"programs write {label!r} for an empty field ({KEEP_PLACEHOLDERS})")
        raise Rejected("placeholder_label", f"{label!r} stands for 'no text' ({KEEP_PLACEHOLDERS})")
    if not label.isprintable():
        control = sorted({c for c in label if unicodedata.category(c) in _REJECTED})
        if control:
            shown = ", ".join(repr("\0" if c == NUL_SHOWN_AS else c) for c in control)
            raise Rejected("control_character", f"the label holds {shown}")
    if data.alphabet is not None:
        unknown = sorted(set(label) - set(data.alphabet))
        if unknown:
            raise Rejected("unknown_character", f"not in data.alphabet: {' '.join(map(repr, unknown))}")
    return label


@functools.lru_cache(maxsize=8)
def _folded(placeholders: tuple[str, ...]) -> frozenset[str]:
    return frozenset(text.casefold() for text in placeholders)


def right_to_left(text: str) -> list[str]:
    """Scripts of a text that are written from right to left, such as Hebrew; nearly always none."""
    if text.isascii() or max(text) < _FIRST_RIGHT_TO_LEFT:
        return []
    # Digits such as Arabic's are not among them (AN): numbers are written from left to right.
    letters = {c for c in text if unicodedata.bidirectional(c) in ("R", "AL") and c.isalnum()}
    return sorted({unicodedata.name(c, "unnamed").split()[0].split("-")[0].capitalize() for c in letters})


def length_band(characters: int) -> str:
    """Slice of a text by its number of characters; single lengths would be slices too small to evaluate."""
    for top in (4, 8, 12, 16, 24, 32, 48, 64, 96):
        if characters <= top:
            return f"<={top:02d}"
    return ">96"
