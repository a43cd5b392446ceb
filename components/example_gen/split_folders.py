"""Splits that the names of folders give, as in the layout of Hugging Face: train/metadata.csv, test/metadata.csv."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import replace

from components.common.words import some
from components.example_gen.header import NONE
from components.example_gen.named_images import Named
from components.example_gen.settings import DataConfig
from components.example_gen.splits import split_in_name
from components.example_gen.table import Table, plain


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


def silent_names(tables: Sequence[Table], named: Named, data: DataConfig) -> list[str]:
    """Says which folders have the names of splits and give none: images for evaluation are drawn from all of them.

    These are data folders themselves, and folders of images of one table.

    Args:
        tables: All of the dataset.
        named: Images that their rows name.
        data: Names of columns; `none` for the split says that folders mean none.
    """
    if data.split_column is not None and data.split_column.lower() == NONE:
        return []
    silent = [table for table in tables if table.split is None and table.default_split is None]
    found = []
    if shown := _several({table.source for table in silent}):
        # Without the path: problems are told in the model card, which goes wherever the model goes.
        above = len({os.path.dirname(table.root) for table in silent}) == 1
        advice = "Name the folder above them with --data instead, or the split" if above else "Name the split"
        found.append((f"The data folders {shown},", advice))
    for table in silent:
        if shown := _several(named.folders(table)):
            found.append((f"The folders of images of {table.name}, {shown},", "Name the split"))
    return [
        f"{which} have the names of splits and give none: training and evaluation draw from all of them. {advice} in "
        "a column `split`; or, if the names mean something else, set data.split_column=none."
        for which, advice in found
    ]


def _several(folders: Collection[str]) -> str:
    """Names of folders with the splits that they mean, where these are two or more; else empty."""
    parts = (part for folder in folders for part in folder.split("/"))  # others may be names of writers
    splits = {part: split for part in parts if (split := split_in_name(part))}
    shown = [f"{plain(part)} ({split})" for part, split in sorted(splits.items())]
    return some(shown, 4) if len(set(splits.values())) > 1 else ""


def _folder(table: Table) -> str:
    """The folder of a table below the data folder; empty if it is that folder."""
    return os.path.dirname(table.path).removeprefix(table.root).strip("/")
