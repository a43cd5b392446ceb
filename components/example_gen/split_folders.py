"""Splits that the names of folders give, as in the layout of Hugging Face: train/metadata.csv, test/metadata.csv."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from components.example_gen.splits import split_in_name
from components.example_gen.table import Table


def with_splits_of_folders(tables: Sequence[Table]) -> tuple[list[Table], list[str]]:
    """Tables with the splits that their folders' names say.

    Those count where no file's name says a split, and the folders name two or more: a single folder `test` may be
    anything.

    Args:
        tables: All of one data folder, whose own name counts for nothing.

    Returns:
        The tables, and notes.
    """
    named = {table.path: split_in_name(_folder(table)) for table in tables}
    folders = {_folder(table): named[table.path] for table in tables if named[table.path]}
    if not folders:
        return list(tables), []
    shown = ", ".join(f"{folder} ({split})" for folder, split in sorted(folders.items()))
    if len(set(folders.values())) > 1 and not any(table.default_split for table in tables):
        note = f"{tables[0].root}: the names of its folders give the splits: {shown}."
        return [replace(table, default_split=named[table.path]) for table in tables], [note]
    silent = [table for table in tables if named[table.path] and not table.default_split and table.split is None]
    note = (
        f"{tables[0].root}: the names of its folders give no splits: {shown}. They do where they name two splits or "
        f"more, and no table's name does; else name the split in a column `split` or in the table's name, such as "
        f"test.csv."
    )
    return list(tables), [note] if silent else []


def _folder(table: Table) -> str:
    """The folder of a table below the data folder; empty if it is that folder."""
    return os.path.dirname(table.path).removeprefix(table.root).strip("/")
