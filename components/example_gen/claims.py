"""Whose an image is that does not lie where a row says: no row gets the image of another one."""

from __future__ import annotations

import functools
import os
import unicodedata

from components.example_gen.folders import find_tables
from components.example_gen.images import Found, named_path
from components.example_gen.rejects import Rejected
from components.example_gen.settings import DataConfig
from components.example_gen.table import Table, read_rows


def refuse_claimed(name: str, found: Found, table: Table, data: DataConfig) -> None:
    """Refuses an image that was searched for where another row names it by its true path.

    Args:
        name: Image as the row gives it.
        found: What the search for it has found.
        table: Table that the row stands in.
        data: Column names of the tables.

    Raises:
        Rejected: The image belongs to another row.
        DatasetError: A table cannot be read.
    """
    if not found.is_elsewhere:
        return
    # A table that names no folders, as most do, says nothing of what lies in them; reading all rows takes time.
    if found.mend != "folder" and not table.in_several_folders:
        return
    alone = data.model_copy(update={"paths": [table.root]})
    claims, path = _claims(alone.model_dump_json()), unicodedata.normalize("NFC", found.path)
    owner = claims.get(path) or claims.get(os.path.splitext(path)[0])
    if owner:
        other, line = owner
        raise Rejected(
            "missing_file", f"no file {name}; {found.path} has its name, but belongs to row {line} of {other}"
        )


@functools.lru_cache(maxsize=4)
def _claims(data_config: str) -> dict[str, tuple[str, int]]:
    """Paths that the rows of a dataset folder name, in NFC, with the table's name and the line.

    The tables are looked for anew: carried by each table, they would make what goes to the workers grow with the square
    of their number.
    """
    claims: dict[str, tuple[str, int]] = {}
    for table in find_tables(DataConfig.model_validate_json(data_config))[0]:
        for row in read_rows(table):
            if len(row.fields) == table.columns and (name := row.fields[table.image].strip()):
                path = unicodedata.normalize("NFC", named_path(name, table))
                claims.setdefault(path, (table.name, row.line))
    return claims
