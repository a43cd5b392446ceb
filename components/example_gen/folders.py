"""Dataset folders: which files in them are label files."""

from __future__ import annotations

import os

from components import storage
from components.example_gen.header import open_table
from components.example_gen.table import DatasetError, Table, plain
from pipeline.config import DataConfig


def find_tables(config: DataConfig) -> tuple[list[Table], list[str]]:
    """Finds the label files of all dataset folders.

    Args:
        config: paths and column names.

    Returns:
        The tables, sorted by path, and notes on CSV files that hold no labels.

    Raises:
        DatasetError: no such folder, or the same one twice, no CSV file in it, none with the needed columns, an
            unreadable or empty one, one outside of the folder.
    """
    if not config.paths:
        raise DatasetError("No data folder given: name one with --data DIR (a folder with a CSV file and pictures).")
    tables: list[Table] = []
    notes: list[str] = []
    for root, source in _sources([storage.absolute(path) for path in config.paths]).items():
        if not storage.is_dir(root):
            what = "is a file, not a folder" if storage.exists(root) else "does not exist"
            raise DatasetError(f"The data folder {root} {what}. Name the folder that holds the CSV file(s).")
        try:
            paths = _csv_files(root)
        except OSError as error:
            raise DatasetError(f"The data folder {root} cannot be read: {error.strerror or error}.") from error
        if not paths:
            raise DatasetError(f"The data folder {root} holds no .csv or .tsv file with labels.")
        found = []
        for path in paths:
            if not (config.allow_outside or storage.is_inside(path, root)):
                raise DatasetError(
                    f"{path} is a link to a file outside of the data folder. Copy it into the folder, or set "
                    f"data.allow_outside=true if you trust who made the folder."
                )
            try:
                table = open_table(path, root, source, config)
            except OSError as error:
                raise DatasetError(f"{path} cannot be read: {error.strerror or error}. Mend or remove it.") from error
            if isinstance(table, Table):
                found.append(table)
            else:
                notes.append(table)
        if not found:
            raise DatasetError(" ".join(notes[-len(paths) :]))
        tables += found
    return tables, notes


def _sources(roots: list[str]) -> dict[str, str]:
    """Names of the dataset folders by path: their last parts, as many as are needed to tell them apart."""
    for root in roots:
        if roots.count(root) > 1:
            raise DatasetError(f"The data folder {root} is given {roots.count(root)} times. Name it once.")
    sources = {}
    for root in roots:
        parts = root.split("/")
        ends = ("/".join(parts[-count:]) for count in range(1, len(parts) + 1))
        sources[root] = plain(
            next(end for end in ends if not any(f"/{other}".endswith(f"/{end}") for other in roots if other != root))
        )
    return sources


def _csv_files(root: str) -> list[str]:
    for depth in range(2):  # archives often unpack into one more folder
        folders = [root] if depth == 0 else [os.path.join(root, name) for name in storage.entries(root)[0]]
        names = [os.path.join(folder, name) for folder in folders for name in storage.entries(folder)[1]]
        found = [path for path in names if path.lower().endswith((".csv", ".tsv"))]
        if found:
            return sorted(found)
    return []
