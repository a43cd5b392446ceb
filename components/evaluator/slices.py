"""Slices of an evaluation, apart from the settings: the text of a setting is no code of Evaluator."""

from __future__ import annotations

# Features whose values `gate.slice_max_cer` may bound; the CER of each is computed.
SLICES = ("writer", "length_band", "source")


def prefix(key: str) -> str:
    """Stands before each value of a slice in an evaluation: TFMA takes the writers 7, 007 and 07 for one number."""
    return f"{key}="
