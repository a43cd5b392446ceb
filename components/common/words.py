"""Words that messages share."""

from __future__ import annotations


def counted(number: int, noun: str, several: str = "") -> str:
    """A number and what it counts, such as "1 image" or "3 images".

    Args:
        number: how many.
        noun: for one.
        several: for several, where that is not the noun with an s.
    """
    return f"{number} {noun if number == 1 else several or f'{noun}s'}"
