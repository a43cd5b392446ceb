"""Pages with PAGE XML or ALTO to train and evaluate on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from components.common import storage
from components.example_gen.rejects import Rejected
from components.tools.page_import.cutting import fitting_image
from components.tools.page_import.files import AUTO, find_pages, locate_image
from htr_client import image_files, pages


@dataclass(frozen=True)
class LabelledPage:
    """A page whose lines are known.

    Attributes:
        name: Unique name.
        document: Document that it belongs to; pages of one document are never in two splits.
        grey: uint8 [height, width].
        lines: Lines with baselines, in its pixels.
    """

    name: str
    document: str
    grey: np.ndarray
    lines: tuple[pages.Line, ...]


def load_pages(folders: Sequence[str], longest: int, document: str = AUTO) -> Iterator[LabelledPage]:
    """Loads pages, as `htr import` finds them.

    Args:
        folders: Folders with XML files and images.
        longest: Larger images are shrunk until their longest side has so many pixels.
        document: Where a page's document is known from, see `page_import.files.find_pages`.

    Yields:
        Pages in the order of their paths.

    Raises:
        ImportProblem: There are no pages, or `document` does not fit.
        PageError: An XML file is no page.
        Rejected: An image is missing or has another shape than the page, or a line has no baseline.
    """
    for file in find_pages(folders, document):
        page = pages.read(storage.read(file.path))
        path, _ = locate_image(page.image, file)
        grey, page = fitting_image(path, page, image_files.MAX_PIXELS)
        if any(len(line.baseline) < 2 for line in page.lines):
            raise Rejected(
                "no_geometry", f"{file.path} has a line without a baseline, from which the line finder learns"
            )
        shrink = longest / max(grey.shape)
        if shrink < 1:
            size = [max(1, round(side * shrink)) for side in grey.shape[::-1]]
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
            page = page.scaled(*size)
        yield LabelledPage(file.name, file.writer or page.document or file.name, grey, page.lines)


def draw_number(document: str) -> float:
    """A number from 0 to 1 that follows from a document's name: splits by it stay the same as documents are added."""
    return int.from_bytes(hashlib.sha256(document.encode()).digest()[:4], "big") / 2**32
