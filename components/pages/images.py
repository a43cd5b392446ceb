"""The image of a page, the way up and in the size that the page means."""

from __future__ import annotations

import numpy as np

from components.common import storage
from components.example_gen.rejects import Rejected
from htr_client import image_files, pages
from htr_client.headers import inspect

_SAME_SHAPE = 0.01  # relative difference of the aspect ratio up to which an image is the page's, only scaled


def fitting_image(path: str, page: pages.Page, max_pixels: int) -> tuple[np.ndarray, pages.Page]:
    """Loads the image of a page.

    Tools differ in whether they obey an EXIF orientation. So the page's size decides which way up it means the image;
    where both ways have the same size, upright.

    Args:
        path: Path of the image.
        page: The page in pixels or units of its file.
        max_pixels: Larger images are refused before they are decoded.

    Returns:
        The image, uint8 [height, width], and the page in its pixels.

    Raises:
        Rejected: The image has another shape than the page.
        ImageError: The image cannot be used.
    """
    data = storage.read(path, image_files.MAX_BYTES + 1)
    grey = image_files.load(data, max_pixels)
    height, width = grey.shape
    if not (page.width and page.height):
        return grey, page
    if _alike(page, width, height):
        return grey, page.scaled(width, height)
    if inspect(data).orientation >= 5 and _alike(page, height, width):
        stored = image_files.load(data, max_pixels, upright=False)
        return stored, page.scaled(stored.shape[1], stored.shape[0])
    raise _other_image(path, page, width, height)


def require_fitting(path: str, page: pages.Page) -> None:
    """Checks by the header of an image that it is the page's, before it is decoded.

    Args:
        path: Path of the image.
        page: The page in pixels or units of its file.

    Raises:
        Rejected: The image has another shape than the page.
        ImageError: It is no image.
        OSError: It cannot be read.
    """
    info = inspect(storage.read(path, image_files.MAX_BYTES + 1))
    turned = info.orientation >= 5 and _alike(page, info.height, info.width)
    if page.width and page.height and not (turned or _alike(page, info.width, info.height)):
        raise _other_image(path, page, info.width, info.height)


def _other_image(path: str, page: pages.Page, width: int, height: int) -> Rejected:
    return Rejected(
        "other_image",
        f"the lines belong to an image of {page.width} x {page.height} pixels, and {path} has {width} x {height}",
    )


def _alike(page: pages.Page, width: int, height: int) -> bool:
    return abs(page.width * height - page.height * width) <= _SAME_SHAPE * page.width * height
