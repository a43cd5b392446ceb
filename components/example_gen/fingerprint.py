"""The fingerprint of a dataset, which changes when labels or images change."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator

from components.common import storage
from components.example_gen.images import resolve_image
from components.example_gen.rejects import Rejected
from components.example_gen.table import Table, read_rows
from components.example_gen.walking import files
from htr_client.files import SUFFIXES


def fingerprint(tables: list[Table]) -> str:
    """Changes when a label file or any image of the dataset changes (content or name).

    Label files count by content, images by path, size and modification time: reading hundreds of thousands of
    images only to find that nothing changed would cost more than it saves. In a bucket the store's own digest counts
    instead of the time.
    """
    digest = hashlib.sha256()
    for table in tables:
        digest.update(os.fsencode(table.path) + b"\0" + hashlib.sha256(storage.read(table.path)).digest())
        for path in sorted(set(_unusual_images(table))):
            digest.update(_line(path, storage.stamp(path)))
    for root in sorted({table.root for table in tables}):
        for file in files(root):
            if file.path.lower().endswith(SUFFIXES):
                digest.update(_line(*file))
    return digest.hexdigest()


def _unusual_images(table: Table) -> Iterator[str]:
    """Images of a table that do not look like images by their names, or lie outside of its dataset folder."""
    for row in read_rows(table):
        name = row.fields[table.image].strip() if len(row.fields) == table.columns else ""
        unusual = not name.lower().endswith(SUFFIXES)
        if unusual or table.allow_outside:
            with contextlib.suppress(Rejected):
                path = resolve_image(name, table)
                if not path.lower().endswith(SUFFIXES) or not storage.is_inside(path, table.root):
                    yield path


def _line(path: str, stamp: str) -> bytes:
    return os.fsencode(path) + f"\0{stamp}\n".encode()
