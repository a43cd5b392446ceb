"""Images of any kind through one client: words and lines many at a time, pages one after the other."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from htr_client import image_files
from htr_client.client import HtrClient
from htr_client.errors import ImageError, ModelNotFound
from htr_client.headers import inspect
from htr_client.image_files import Image
from htr_client.pages.model import Page
from htr_client.pages.reading import is_page, may_be_page, name_of, transcribe_lines
from htr_client.results import Transcription


def transcribe(client: HtrClient, images: Sequence[Image], kind: str) -> Iterator[Transcription | Page]:
    """Transcribe images, with the lines of those that are pages.

    Args:
        client: Transcribes, and finds lines.
        images: Paths or encoded bytes.
        kind: "line", "page", or "auto": what could be a page by its size is one if several lines are found in it, or
            one that fills a small part of it.

    Yields:
        A page or a transcription for each image, in order; the latter also for a page that cannot be read.

    Raises:
        HtrError: As `HtrClient.transcribe_many`; `ModelNotFound` where pages are asked for and there is no line finder.
    """
    for maybe, group in groupby(images, lambda image: kind == "page" or (kind == "auto" and _may_be_page(image))):
        if not maybe:
            yield from client.transcribe_many(group)
            continue
        for image in group:
            page = _page(client, image, kind)
            if page is not None:
                yield page
            else:
                yield from client.transcribe_many([image])


def problems(result: Transcription | Page) -> list[str]:
    """What a person should know about a result that is no error."""
    if isinstance(result, Transcription):
        return [suspicion.message for suspicion in result.suspicions]
    if not result.lines:
        return ["no line of text was found"]
    missing = sum(not line.text for line in result.lines)
    return [f"{missing} of {len(result.lines)} lines have no text"] if missing else []


def _page(client: HtrClient, image: Image, kind: str) -> Page | None:
    """The page that the image shows; None where it is that of a line, or cannot be read.

    Where there is nothing to find lines with, `auto` takes every image for one of a line.
    """
    try:
        grey = image_files.load(image)
        page = client.find_page(grey, name=name_of(image))
    except ImageError:
        return None
    except ModelNotFound:
        if kind == "auto":
            return None
        raise
    if kind == "auto" and not is_page(page):
        return None
    return transcribe_lines(grey, page, client.transcribe_many)


def _may_be_page(image: Image) -> bool:
    try:
        info = inspect(image_files.read(image))
    except ImageError:
        return False
    return may_be_page(info.width, info.height)
