"""Lines cut out of pages as a service cuts them, and with more or less of what lies around them.

Where a line's outline comes from, people or a line finder, decides how much of its neighbours is in its image. A model
that has learnt from one kind of cut misreads the others, so these are of all kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from components.tools.dataset_folder import whole_dataset
from htr_client import image_files, pages
from htr_client.pages.cutting import CutError, band_of, cut_band

_LOWEST, _HIGHEST = 0.85, 1.35  # of what a service cuts above a baseline, and of what it cuts below


class Counts(NamedTuple):
    """What became of the lines.

    Attributes:
        written: Images that were written.
        left_out: Lines without text or with an outline that cannot be cut.
        pages_left_out: Pages whose writer is not known.
    """

    written: int
    left_out: int
    pages_left_out: int


def write_lines(source: Path, writer_of: Callable[[str], str | None], target: Path, images: int, seed: int) -> Counts:
    """Writes a dataset of lines: `labels.csv` with filename, text and writer, and `images/`, grey PNG.

    Args:
        source: Folder of pages: `.xml` (PAGE or ALTO) beside `.jpg` of the same name.
        writer_of: The writer of a page by its name without extension; None leaves the page out.
        target: New folder.
        images: How many of each line, each with other margins.
        seed: Seed of the margins.

    Returns:
        How many images were written, and what was left out.
    """
    rng = np.random.default_rng(seed)
    written = left_out = pages_left_out = 0
    with whole_dataset(target) as add:
        for xml in sorted(source.glob("*.xml")):
            writer = writer_of(xml.stem)
            if writer is None:
                pages_left_out += 1
                continue
            grey = image_files.load(str(xml.with_suffix(".jpg")))
            height, width = grey.shape
            page = pages.read(xml.read_bytes()).scaled(width, height)
            pitch = pages.line_pitch(page.lines)
            for line in page.lines:
                try:
                    band = band_of(line, width, height, pitch) if line.text else None
                except CutError:
                    band = None
                if band is None:
                    left_out += 1
                    continue
                for _ in range(images):
                    above, below = np.rint([band.above, band.below] * rng.uniform(_LOWEST, _HIGHEST, 2)).astype(int)
                    written += 1
                    cut = cut_band(grey, replace(band, above=int(above), below=int(below)))
                    add(f"{written:06d}", cut, line.text, writer)
    return Counts(written, left_out, pages_left_out)
