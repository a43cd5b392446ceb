"""Images of any kind through one client: words and lines many at a time, pages one after the other."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby

from htr_client import image_files
from htr_client.client import HtrClient
from htr_client.errors import ImageError, ModelNotFound
from htr_client.headers import inspect
from htr_client.image_files import Image, ImageFile
from htr_client.model_facts import LINE_FINDER
from htr_client.pages.cutting import line_pitch
from htr_client.pages.model import Page
from htr_client.pages.reading import find_page, is_like_page, is_page, may_be_page, name_of, transcribe_lines
from htr_client.results import Transcription
from htr_client.suspicion import NO_LINES, PAGE_LIKE, Suspicion

# Pixels between lines. Eight pages of three collections, made smaller and smaller, had a CER of 0.20 in full size, 0.33
# at 18 pixels, 0.38 at 15, 0.52 at 12 and 0.68 at 9.
_LEAST_PITCH = 16

_NO_LINE_FINDER = Suspicion(
    "no_line_finder",
    f"It may be a page, and there is no line finder ({LINE_FINDER}): it was transcribed as one line.",
)

# Writing as large as the image is no line to a line finder, so that this may be a word all the same.
_NO_LINES = Suspicion(
    NO_LINES,
    "It has the shape of a page, and no line of text was found on it. It was transcribed as one line, which makes "
    "sense only if it shows a large word.",
)


def transcribe(client: HtrClient, images: Iterable[Image], kind: str) -> Iterator[Transcription | Page]:
    """Transcribes images, with the lines of those that are pages.

    Args:
        client: Transcribes, and finds lines.
        images: Paths or encoded bytes; may be a generator.
        kind: "line", "page", or "auto": what could be a page by its size is one if several lines are found in it, or
            one that fills a small part of it. Where there is nothing to find lines with, or none is found in what has
            the shape of a page, it is transcribed as a line, with a suspicion.

    Yields:
        A page or a transcription for each image, in order; the latter also for a page that cannot be read.

    Raises:
        HtrError: As `HtrClient.transcribe_many`; `ModelNotFound` where pages are asked for and there is no line finder.
    """
    for may_be_a_page, group in groupby(_looked_at(images, kind), lambda one: one[1]):
        if not may_be_a_page:
            yield from client.transcribe_many(image for image, _ in group)
            continue
        for image, _ in group:
            try:
                page = _page(client, image, name_of(image), kind)
            except ModelNotFound:
                if kind != "auto":
                    raise
                for line in client.transcribe_many([image]):
                    yield replace(line, suspicions=(*of_one_line(line), _NO_LINE_FINDER))
                continue
            except ImageError as error:
                yield client._failed(error, image_files.path_of(image), 0.0)
                continue
            if kind == "page" or is_page(page):
                yield page
            else:
                for line in client.transcribe_many([image]):
                    yield replace(line, suspicions=of_one_line(line, page))


def of_one_line(result: Transcription, found: Page | None = None) -> tuple[Suspicion, ...]:
    """The suspicions of an image of which something better than its shape says whether it is a page.

    Args:
        result: Transcription of the image as one line.
        found: What the line finder found in it; None where it was not asked.
    """
    kept = tuple(suspicion for suspicion in result.suspicions if suspicion.code != PAGE_LIKE)
    if found is None or found.lines or not is_like_page(found.width, found.height):
        return kept
    return (*kept, _NO_LINES)


def page_of(client: HtrClient, data: bytes) -> Page | None:
    """Transcribes an image if it is a page, which `is_page` tells, as `transcribe` with "auto" decides.

    Args:
        client: Transcribes, and finds lines.
        data: Encoded bytes of the image.

    Returns:
        The page; of an image of a line what was found in it, without text, or None, as where there is no line finder.

    Raises:
        ImageError: When the image cannot be read, by this client or by the line finder.
        HtrError: As `HtrClient.transcribe_many`.
    """
    try:
        return _page(client, data, "", "auto") if _may_be_page(data) else None
    except ModelNotFound:
        return None


def failure(result: Transcription | Page) -> ImageError | None:
    """Why an image, or lines of a page, were not transcribed; None where all was, even as an empty text."""
    if isinstance(result, Transcription):
        return result.error
    errors = [line.error for line in result.lines if line.error is not None]
    if not errors:
        return None
    what = f"{len(errors)} of {len(result.lines)} lines were not transcribed. The first: {errors[0].message}"
    return ImageError(errors[0].reason, what)


def suspicions(result: Transcription | Page) -> tuple[Suspicion, ...]:
    """What a person should know about a result although nothing failed."""
    if isinstance(result, Transcription):
        return result.suspicions
    if not result.lines:
        return (Suspicion(NO_LINES, "no line of text was found"),)
    found, count = [], len(result.lines)
    if empty := sum(not line.text and line.error is None for line in result.lines):
        found.append(Suspicion("lines_without_text", f"{empty} of {count} lines have no text"))
    if wide := result.lines_too_wide:
        what = f"{wide} of {count} lines are too wide for this model, and their texts mean little: a model for single "
        what += "words transcribes no lines, and one for lines is needed (htr read and htr transcribe: --base line)"
        found.append(Suspicion("lines_too_wide", what))
    if (pitch := line_pitch(result.lines)) is not None and pitch < _LEAST_PITCH:
        what = f"the lines lie {pitch:.0f} pixels apart, and of writing so low many characters are wrong: if this is a "
        found.append(Suspicion("lines_too_low", f"{what}small copy, such as a thumbnail, take the scan itself"))
    return tuple(found)


def _looked_at(images: Iterable[Image], kind: str) -> Iterator[tuple[Image, bool]]:
    """Images, and whether each may be a page; those that had to be read for that come as what was read."""
    for image in images:
        if kind == "line":
            yield image, False
            continue
        try:
            file = ImageFile(image_files.read(image), image_files.path_of(image))
        except ImageError:  # which the client will tell
            yield image, False
        else:
            yield file, kind == "page" or _may_be_page(file.data)


def _page(client: HtrClient, image: Image, name: str, kind: str) -> Page:
    """What is found in an image, with text if it is a page."""
    grey = image_files.load(image, client.max_pixels)
    find_maps, lines = client._models_of_page(source=image_files.path_of(image) or name)
    page = find_page(grey, find_maps, name, client.max_pixels, lines.try_out)
    if kind == "auto" and not is_page(page):
        return page
    return transcribe_lines(grey, page, lines)


def _may_be_page(data: bytes) -> bool:
    try:
        info = inspect(data)
    except ImageError:
        return False
    return may_be_page(info.width, info.height)
