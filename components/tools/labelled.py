"""What is labelled already among images that a tool is given, and the count of those that it leaves out for it.

No TensorFlow here.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple

from components.common import storage
from components.common.ahead import ahead
from components.example_gen.folders import find_tables
from components.example_gen.images import read_image, resolve_image
from components.example_gen.rejects import Rejected
from components.example_gen.settings import DataConfig
from components.example_gen.table import Table, plain, read_rows
from htr_client.errors import ImageError
from htr_client.image_files import MAX_BYTES, goes_as_it_is, pack
from htr_client.model_facts import MAX_PIXELS


class LeftOut(NamedTuple):
    """An image that was not written.

    Attributes:
        image: Its path.
        reason: Attribute of `Counts` that counts it.
        text: What the model recognises in it; empty where it was not asked, or recognises nothing.
        confidence: Its confidence; empty likewise.
        detail: What else is known: the error, or codes of suspicions.
    """

    image: str
    reason: str
    text: str
    confidence: str
    detail: str


@dataclass
class Counts:
    """What became of the images.

    Attributes:
        labelled: Images that were written with their texts.
        unsure: Images of whose text the model is not sure.
        empty: Images in which the model sees no writing.
        page: Images of pages, whose lines were transcribed as one.
        suspect: Images of another kind than the model was trained on.
        known: Images that are labelled already.
        repeated: Images that are the same image as one before.
        unread: A line for each that cannot be read, with its reason.
        left_out: A line for each that was not written.
    """

    labelled: int = 0
    unsure: int = 0
    empty: int = 0
    page: int = 0
    suspect: int = 0
    known: int = 0
    repeated: int = 0
    unread: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def leave_out(self, reason: str, image: str, text: str = "", confidence: str = "", detail: str = "") -> None:
        """Counts an image that is not written.

        Args:
            reason: Name of the attribute that counts it.
            image: Its path, which may have bytes that are no UTF-8.
            text: As in `LeftOut`.
            confidence: As in `LeftOut`.
            detail: As in `LeftOut`.
        """
        image = plain(image)
        if reason == "unread":
            self.unread.append(f"{image}: {detail}")
        else:
            setattr(self, reason, getattr(self, reason) + 1)
        self.left_out.append(LeftOut(image, reason, text, confidence, detail))


def known_as(data: bytes, max_pixels: int = MAX_PIXELS) -> bytes:
    """Digest of what a server is sent for an image file; of the file itself where it cannot be read.

    So an image is the same one as TIFF among labels, as PNG in a log and as what `htr label` and `htr review` write.

    Args:
        data: The file.
        max_pixels: Images with more pixels cannot be read.
    """
    with contextlib.suppress(ImageError):  # whoever reads it says so
        data = data if goes_as_it_is(data) else pack(data, max_pixels).data
    return hashlib.sha256(data).digest()


def digests(data: DataConfig, notes: list[str]) -> Iterator[bytes]:
    """What the images that datasets label are `known_as`, whatever their rows say about them; some are read ahead.

    Args:
        data: Paths, column names and the limit of pixels.
        notes: List that takes a sentence for each table that is passed over.

    Raises:
        DatasetError: A folder or table cannot be read.
        StoreError: A bucket fails.
    """
    tables, passed_over = find_tables(data) if data.paths else ([], [])
    notes += passed_over

    def known(path: str) -> bytes | None:
        try:
            return known_as(read_image(path), data.max_pixels)
        except Rejected:
            return None

    yield from filter(None, ahead(known, _images(tables), storage.READERS))


def _images(tables: Iterable[Table]) -> Iterator[str]:
    for table in tables:
        for row in read_rows(table):
            if len(row.fields) > table.image:
                with contextlib.suppress(Rejected):  # names no file that could be met again
                    yield resolve_image(row.fields[table.image].strip(), table)


def unlabelled(
    paths: Iterable[str], known: AbstractSet[bytes], counts: Counts, max_pixels: int = MAX_PIXELS
) -> Iterator[str]:
    """Paths of images that are neither labelled nor the same as one before.

    Args:
        paths: Paths of images.
        known: `digests` of the labelled ones.
        counts: Counts that take how many are left out.
        max_pixels: Images with more pixels are known as files only.
    """
    seen: set[bytes] = set()
    for path in paths:
        try:
            data = storage.read(path, MAX_BYTES + 1)  # one more, so that a larger one is refused
        except OSError:  # whoever reads it says so
            yield path
            continue
        digest = known_as(data, max_pixels)
        if digest in known:
            counts.leave_out("known", path)
        elif digest in seen:
            counts.leave_out("repeated", path)
        else:
            yield path
        seen.add(digest)
