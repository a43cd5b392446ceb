"""Words that messages share."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

MOST_CHARACTERS = 200  # that a list shows


def counted(number: int, noun: str, several: str = "") -> str:
    """A number and what it counts, such as "1 image" or "3 images".

    Args:
        number: How many.
        noun: Word for one.
        several: Word for several, where that is not the noun with an s.
    """
    return f"{number} {noun if number == 1 else several or f'{noun}s'}"


def some(names: list[str], most: int = 5, between: str = ", ") -> str:
    """The first few of some names, and how many there are besides."""
    return between.join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def some_characters(characters: Iterable[str]) -> str:
    """The first of some characters, each to be seen, and how many there are besides: Chinese has thousands."""
    return some(list(map(visible, characters)), MOST_CHARACTERS, " ")


def visible(character: str) -> str:
    """A character as something that can be seen: a space becomes an open box, what a terminal obeys a number."""
    known = {" ": "␣", "": "∅", "\u00a0": "NBSP"}
    if character in known or len(character) > 1:
        return known.get(character, character)
    category = unicodedata.category(character)
    if category in ("Mn", "Me"):  # would be drawn on the character before it
        return f"◌{character}"
    return f"U+{ord(character):04X}" if category[0] in "CZ" else character
