"""What a row of a dataset looks like: its sample, and measures of its image for the data check."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from components.example_gen.dataset import Sample, examine_with_pixels
from components.example_gen.images import resolve_image
from components.example_gen.rejects import Reject
from components.example_gen.settings import DataConfig
from components.example_gen.splits import SplitRule
from components.example_gen.table import Row
from components.transform.settings import TransformConfig

OUTLINE_SIZE = (33, 12)  # of the small copy whose differences between neighbours are the outline


@dataclass(frozen=True)
class Seen:
    """An accepted row, and what its image looks like.

    Attributes:
        sample: Sample without the image.
        table: Name of the CSV file.
        line: Its line.
        path: Path of the image.
        pixels: Digest of the decoded image.
        outline: One bit a difference of neighbouring pixels of a small copy; 0 for an empty image.
        ink_columns, ink_rows: The first and the last column or row with ink.
        contrast: Grey levels between paper and the darkest strokes.
    """

    sample: Sample
    table: str
    line: int
    path: str
    pixels: bytes
    outline: int
    ink_columns: int
    ink_rows: int
    contrast: float

    @property
    def place(self) -> str:
        """Where the row stands."""
        return f"row {self.line} of {self.table}"


def look(rows: Sequence[Row], splits: SplitRule, data: DataConfig, transform: TransformConfig) -> list[Seen | Reject]:
    """Examines rows as the pipeline does, and looks at their images; see `dataset.examine_rows` for the arguments."""
    examined = examine_with_pixels(rows, splits, data, transform)
    return [
        result if isinstance(result, Reject) else _look(row, *result)
        for row, result in zip(rows, examined, strict=True)
    ]


def _look(row: Row, sample: Sample, grey: np.ndarray) -> Seen:
    path = resolve_image(row.fields[row.table.image].strip(), row.table)
    pixels = hashlib.sha256(repr(grey.shape).encode() + grey.tobytes()).digest()[:16]
    darkest, paper = np.percentile(grey, [0.2, 95])
    ink = np.clip((paper - grey) / max(paper - darkest, 1), 0, 1)
    strokes = np.where(ink < 0.4, 0, ink)
    return Seen(
        sample=sample._replace(image=b""), table=row.table.name, line=row.line, path=path, pixels=pixels,
        outline=outline(grey), ink_columns=extent(strokes.sum(axis=0)), ink_rows=extent(strokes.sum(axis=1)),
        contrast=float(paper - darkest),
    )  # fmt: skip


def extent(ink: np.ndarray) -> int:
    """Length of what has ink, without the outermost, which is often a rule or a speck at the edge."""
    mass = np.cumsum(ink)
    first, last = np.searchsorted(mass, [0.02 * mass[-1], 0.98 * mass[-1]])
    return int(last - first + 1) if mass[-1] else 0


def outline(grey: np.ndarray) -> int:
    """An image's outline: stays nearly the same when it is scaled, stored as JPEG, or made lighter.

    Args:
        grey: uint8 [height, width].

    Returns:
        384 bits; 0 where there is no contrast.
    """
    small = cv2.resize(grey, OUTLINE_SIZE, interpolation=cv2.INTER_AREA).astype(float)
    contrast = small.max() - small.min()
    if contrast < 16:
        return 0
    # Paper is flat but for noise, whose sign would say nothing: only real steps count.
    bits = np.diff(small, axis=1) > contrast / 16
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
