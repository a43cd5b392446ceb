"""One page: from its XML file and its image to images of lines with their texts."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, field

from components.common import storage
from components.example_gen.outages import is_of_the_store
from components.example_gen.rejects import Rejected, as_rejected
from components.pages.files import ELSEWHERE, NEARBY, PageFile, geometry_of, image_of_damaged, locate_image
from components.pages.images import fitting_image
from htr_client import image_files, pages
from htr_client.errors import ImageError
from htr_client.model_facts import MAX_PIXELS
from htr_client.pages.xml_files import MAX_BYTES


@dataclass(frozen=True)
class LeftOut:
    """A page or line that the dataset does not have.

    Attributes:
        line: Identifier of the line in its file, or its number; empty for a whole page.
        reason: One of a few words, for counting.
        detail: What exactly is wrong.
    """

    line: str
    reason: str
    detail: str


@dataclass
class Result:
    """What became of a page.

    Attributes:
        image: Path of the image; empty if none was found.
        place: How the image's place fits the page (see `locate_image`).
        document: Document that the page belongs to; empty if the file names none.
        geometry: How much is known of the lines of `rows` (see `geometry_of`).
        with_confidence: How many of `rows` have a confidence, as a model writes it.
        rows: For each line the image's path below the output folder, the text, and the line's identifier.
        left_out: Lines, or the page itself.
    """

    image: str = ""
    place: int = ELSEWHERE
    document: str = ""
    geometry: int = 0
    with_confidence: int = 0
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


def _folder(page: str) -> str:
    """Folder of a page's images, below the output folder.

    Page `book` may lie beside a folder `book` with more pages, as a METS file does. So the last part has an ending that
    no part before it has: none of these folders lies in another one, and what is deleted there is of one page.
    """
    return "images/" + re.sub(r"([.]cut_*)/", r"\1_/", page) + ".cut"


def cut_page(file: PageFile, output: str, max_pixels: int = MAX_PIXELS) -> Result:
    """Cuts all lines out of a page and writes their images, PNG in 8-bit grey.

    Args:
        file: XML file of the page.
        output: Dataset folder; what it holds of this page is replaced.
        max_pixels: Larger page images are refused before they are decoded.

    Returns:
        The rows and what was left out; what is wrong with the page is told there, and no exception.

    Raises:
        OSError: An image cannot be written, or the bucket, disk or network of the page fails.
    """
    below = _folder(file.name)
    shutil.rmtree(os.path.join(output, below), ignore_errors=True)
    result = Result()
    try:
        page = pages.read(storage.read(file.path, MAX_BYTES + 1))
        result.document = page.document
        result.image, result.place = locate_image(page.image, file)
        if not page.lines:
            raise Rejected("no_lines", "the page has no lines")
        grey, page = fitting_image(result.image, page, max_pixels)
    except (pages.PageError, Rejected, ImageError, OSError) as error:
        if is_of_the_store(file.path, error):
            raise
        if isinstance(error, pages.PageError):
            result.image, result.place = image_of_damaged(file), NEARBY
        rejected = as_rejected(error)
        result.left_out.append(LeftOut("", rejected.reason, rejected.detail))
        return result
    pitch = pages.line_pitch(page.lines)
    used: list[pages.Line] = []
    for number, line in enumerate(page.lines, 1):
        name = line.id or str(number)
        if not line.text:
            result.left_out.append(LeftOut(name, "no_text", "The line has no text."))
            continue
        try:
            cut = pages.cut_line(grey, line, pitch)
        except pages.CutError as error:
            result.left_out.append(LeftOut(name, error.reason, str(error)))
            continue
        image = f"{below}/{number:04d}.png"
        path = os.path.join(output, image)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        storage.write(path, image_files.encode(cut))
        result.rows.append((image, line.text, name))
        # ALTO has a confidence for words only.
        confidences = (line.confidence, *(word.confidence for word in line.words))
        result.with_confidence += any(confidence is not None for confidence in confidences)
        used.append(line)
    result.geometry = geometry_of(used)
    return result
