"""The images that a batch transcription finds below its input folder, here or in a bucket."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

from components.batch_transcriber.output import BatchError
from components.common import storage
from components.example_gen.outages import StoreError
from htr_client.files import COMPANIONS, OTHER_FORMATS, SUFFIXES, is_hidden, walk

_LISTED = (*SUFFIXES, *OTHER_FORMATS)  # of which the latter cannot be read: they are named among the errors


class NoImages(BatchError):
    """The input folder holds no image."""


@dataclass(frozen=True)
class Image:
    """An image of the input folder.

    Attributes:
        path: Path below the folder.
        stamp: Size and time of its last change; another stamp is another image.
        document: Name of the file that a page becomes, below the output folder; empty for a table.
    """

    path: str
    stamp: str
    document: str = ""


@dataclass(frozen=True)
class Listing:
    """What an input folder holds.

    Attributes:
        images: Images, sorted by path.
        hidden: Number of hidden files, or files in hidden folders, that have the name of an image and are left out.
        others: Paths below the folder of files that have the name of neither an image nor one of its `COMPANIONS`,
            sorted; they are left out.
    """

    images: list[Image]
    hidden: int
    others: list[str]


def list_images(folder: str) -> Listing:
    """All images below a folder, known by their file names' endings.

    Raises:
        BatchError: There is no such folder.
        NoImages: There is no image in it.
        StoreError: A link in it leads nowhere, and may be of a folder.
    """
    stamps: dict[str, str] = {}  # by path, of a bucket, whose list has them
    if storage.is_remote(folder):
        folder = folder.rstrip("/")
        with contextlib.suppress(FileNotFoundError):  # an empty folder of a bucket is none
            stamps = {file.path.removeprefix(f"{folder}/"): file.stamp for file in storage.files(folder)}
        paths = list(stamps)
    elif os.path.isdir(folder):
        paths = list(walk(folder))
    else:
        raise BatchError(f"The input folder {folder} does not exist or is not a folder.")
    images: list[str] = []
    hidden: list[str] = []
    others: list[str] = []
    for path in sorted(paths):
        if path.lower().endswith(_LISTED):
            (hidden if is_hidden(path) else images).append(path)
        elif not (is_hidden(path) or path.lower().endswith(COMPANIONS)):
            full = os.path.join(folder, path)
            if not stamps and _leads_nowhere(full):
                raise StoreError(
                    f"The link {full} leads nowhere. Its disk may be away, and results of images below it would be "
                    "deleted: bring it back, or remove the link."
                )
            others.append(path)
    if not images:
        passed = f" Hidden files do not count, such as {hidden[0]}." if hidden else ""
        passed += f" Other files do not count, such as {others[0]}." if others else ""
        raise NoImages(f"There is no image ({', '.join(SUFFIXES)}) anywhere below {folder}.{passed}")
    # A link that leads nowhere stays in the list: opening it fails, which is reported.
    stamped = [Image(path, stamps.get(path) or storage.stamp(os.path.join(folder, path))) for path in images]
    return Listing(stamped, len(hidden), others)


def _leads_nowhere(path: str) -> bool:
    """Whether a path is a link whose end is missing; one that goes in circles had nothing below it before either."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return os.path.islink(path)
    except OSError:
        return False
    return False
