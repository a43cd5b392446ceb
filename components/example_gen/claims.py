"""Whose an image is that does not lie where a row says: no row gets the image of another one."""

from __future__ import annotations

import functools
import os
import unicodedata

from components.example_gen.images import Found, named_path
from components.example_gen.rejects import Rejected
from components.example_gen.table import Table, read_rows


def refuse_claimed(name: str, found: Found, table: Table) -> None:
    """Refuses an image that was searched for where another row names it by its true path.

    Args:
        name: Image as the row gives it.
        found: What the search for it has found.
        table: Table that the row stands in.

    Raises:
        Rejected: The image belongs to another row.
        DatasetError: A table cannot be read.
    """
    if not found.is_elsewhere:
        return
    folders = {os.path.dirname(sibling.path) for sibling in table.siblings}
    # A table that names no folders, as most do, says nothing of what lies in them; reading all rows takes time.
    if found.mend != "folder" and len(folders) < 2:
        return
    claims, path = _claims(table.siblings), unicodedata.normalize("NFC", found.path)
    owner = claims.get(path) or claims.get(os.path.splitext(path)[0])
    if owner:
        other, line = owner
        raise Rejected(
            "missing_file", f"no file {name}; {found.path} has its name, but belongs to row {line} of {other.name}"
        )


@functools.lru_cache(maxsize=4)
def _claims(tables: tuple[Table, ...]) -> dict[str, tuple[Table, int]]:
    """Paths that rows name, in NFC, with table and line."""
    claims: dict[str, tuple[Table, int]] = {}
    for table in tables:
        for row in read_rows(table):
            if len(row.fields) == table.columns and (name := row.fields[table.image].strip()):
                path = unicodedata.normalize("NFC", named_path(name, table))
                claims.setdefault(path, (table, row.line))
    return claims
