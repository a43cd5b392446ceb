"""Pages with PAGE XML or ALTO to train and evaluate on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from components.common import storage
from components.example_gen.rejects import Rejected
from components.pages.files import AUTO, PageFile, find_pages, locate_image
from components.pages.images import fitting_image
from htr_client import pages
from htr_client.model_facts import MAX_PIXELS
from htr_client.pages.xml_files import MAX_BYTES


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


def require_baselines(page: pages.Page, file: PageFile) -> None:
    """Refuses a page of which the line finder cannot learn.

    Args:
        page: The page.
        file: Where it comes from, for the message.

    Raises:
        Rejected: A line has no baseline.
    """
    if any(len(line.baseline) < 2 for line in page.lines):
        raise Rejected("no_geometry", f"{file.path} has a line without a baseline, from which the line finder learns")


def load_page(file: PageFile, max_pixels: int = MAX_PIXELS) -> LabelledPage:
    """Loads a page at the size of its image.

    Args:
        file: Its XML file.
        max_pixels: Larger images are refused before they are decoded.

    Raises:
        PageError: The XML file is no page.
        Rejected: The image is missing or has another shape than the page, or a line has no baseline.
        ImageError: The image cannot be used.
        OSError: A file cannot be read.
    """
    page = pages.read(storage.read(file.path, MAX_BYTES + 1))
    path, _ = locate_image(page.image, file)
    grey, page = fitting_image(path, page, max_pixels)
    require_baselines(page, file)
    return LabelledPage(file.name, file.writer or page.document or file.key, grey, page.lines)


def load_pages(folders: Sequence[str], longest: int, document: str = AUTO) -> Iterator[LabelledPage]:
    """Loads pages, as `htr import` finds them.

    Args:
        folders: Folders with XML files and images.
        longest: Larger images are shrunk until their longest side has so many pixels.
        document: Where a page's document is known from, see `components.pages.files.find_pages`.

    Yields:
        Pages in the order of their paths.

    Raises:
        ImportProblem: There are no pages, or `document` does not fit.
        PageError, Rejected, ImageError, OSError: As `load_page`.
    """
    for file in find_pages(folders, document):
        yield shrunk(load_page(file), longest)


def shrunk(page: LabelledPage, longest: int) -> LabelledPage:
    """A page whose longest side has so many pixels at most.

    Args:
        page: The page.
        longest: Most pixels of its longest side.
    """
    height, width = page.grey.shape
    shrink = longest / max(height, width)
    if shrink >= 1:
        return page
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    grey = cv2.resize(page.grey, size, interpolation=cv2.INTER_AREA)
    return replace(page, grey=grey, lines=pages.Page("", width, height, page.lines).scaled(*size).lines)


def draw_number(document: str) -> float:
    """A number from 0 to 1 that follows from a document's name: splits by it stay the same as documents are added."""
    return int.from_bytes(hashlib.sha256(document.encode()).digest()[:4], "big") / 2**32
