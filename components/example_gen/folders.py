"""Dataset folders: which files in them are label files."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from components.common import storage
from components.common.words import counted
from components.common.workspace import is_workspace
from components.example_gen.header import SAVE_AS_CSV, NoLabels, column_notes, open_table, refuse_unknown_columns
from components.example_gen.outages import unreadable
from components.example_gen.settings import DataConfig
from components.example_gen.split_folders import with_splits_of_folders
from components.example_gen.table import DatasetError, Table, plain
from components.example_gen.walking import refuse_workspace, walk
from htr_client.files import SUFFIXES, is_hidden

_LABELS = (".csv", ".tsv")
_LOOKED_AT = 1000  # folders in which pages and images are looked for
_OTHER_LABELS = (".txt", ".json", ".jsonl", ".parquet")
_WORKBOOKS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")


class Found(NamedTuple):
    """Label files of all dataset folders, and what was passed over.

    Attributes:
        tables: The tables, sorted by path.
        notes: Sentences on files that were passed over.
        problems: The same where labels are probably lost by that.
    """

    tables: list[Table]
    notes: list[str]
    problems: list[str]


def find_tables(config: DataConfig) -> tuple[list[Table], list[str]]:
    """As `find`, with the problems among the notes."""
    tables, notes, problems = find(config)
    return tables, [*notes, *problems]


def find(config: DataConfig) -> Found:
    """Finds the label files of all dataset folders.

    Args:
        config: Paths and column names.

    Raises:
        DatasetError: No such folder, or the same one twice, no CSV file in it, none with the needed columns, an
            unreadable or empty one, one outside of the folder; or no table has a column that a setting names.
        StoreError: The store fails; it is a `DatasetError`.
    """
    if not config.paths:
        raise DatasetError("No data folder given: name one with --data DIR (a folder with a CSV file and images).")
    tables: list[Table] = []
    notes: list[str] = []
    problems: list[str] = []
    real: dict[str, Table] = {}  # by path when links have been followed
    for root, source in source_names([storage.absolute(path) for path in config.paths]).items():
        if root.startswith(("http://", "https://")):
            raise DatasetError(
                f"The data folder {root} is an address of the web, where nothing lists a folder. Download it, or name "
                "one of a bucket: s3://, gs:// or az://."
            )
        try:
            if not storage.is_dir(root):
                what = "is a file, not a folder" if _exists(root) else "does not exist"
                raise DatasetError(f"The data folder {root} {what}. Name the folder that holds the CSV file(s).")
            refuse_workspace(root)
            levels = list(_levels(root))
        except OSError as error:
            reason = error.strerror or str(error).removeprefix(f"{root}: ")
            inside = f" ({error.filename})" if error.filename not in (None, root) else ""
            raise unreadable(f"The data folder {root} cannot be read: {reason}{inside}.", error) from error
        found: list[Table] = []
        without: list[NoLabels] = []
        hidden: list[str] = []
        for level in levels:
            if found:
                if level.tables:
                    notes.append(
                        f"{root}: not read {counted(len(level.tables), 'table')} of the folders in it, such as "
                        f"{level.tables[0]}, since the folder itself has labels. If they have labels, too, name their "
                        "folder with another --data."
                    )
                continue
            hidden += level.hidden
            for path in level.tables:
                table = _open(path, root, source, config)
                if isinstance(table, Table):
                    found.append(table)
                else:
                    without.append(table)
        if hidden:
            shown = ", ".join(hidden[:3])
            notes.append(f"{root}: passed over {counted(len(hidden), 'hidden or system file')}, such as {shown}.")
        if not found:
            workbooks = [path for level in levels for path in level.workbooks]
            workbook = f" {workbooks[0]} is a workbook: {SAVE_AS_CSV[0].lower()}{SAVE_AS_CSV[1:]}" if workbooks else ""
            instead = workbook or _way_on(root)
            passed = f" Hidden files do not count, such as {hidden[0]}." if hidden else ""
            raise DatasetError(
                " ".join(each.why for each in without)
                or f"The data folder {root} holds no .csv or .tsv file with labels.{instead}{passed}"
            )
        for table in found:
            same = real.setdefault(table.path if storage.is_remote(root) else os.path.realpath(table.path), table)
            if same is not table:
                raise DatasetError(_twice(same, table))
        found, told = with_splits_of_folders(found)
        several = len({os.path.dirname(table.path) for table in found}) > 1
        tables += [replace(table, in_several_folders=several) for table in found]
        notes += [*(each.why for each in without if not each.problem), *told]
        problems += [each.problem for each in without if each.problem]
    refuse_unknown_columns(tables, config)
    return Found(tables, [*notes, *column_notes(tables, config)], problems)


def _open(path: str, root: str, source: str, config: DataConfig) -> Table | NoLabels:
    """As `open_table`, for a file that may be a link.

    Raises:
        DatasetError: It lies outside of the folder, or cannot be read.
    """
    if not (config.allow_outside or storage.is_inside(path, root)):
        raise DatasetError(
            f"{path} is a link to a file outside of the data folder. Copy it into the folder, or set "
            f"data.allow_outside=true if you trust who made the folder."
        )
    try:
        return open_table(path, root, source, config)
    except OSError as error:
        what = f"{path} cannot be read: {error.strerror or str(error).removeprefix(f'{path}: ')}."
        raise unreadable(what, error, "Mend or remove it.") from error


def _twice(first: Table, second: Table) -> str:
    """What is wrong with a table that is met twice, and what to do."""
    if first.root == second.root:
        return f"{first.path} and {second.path} are the same file: its rows would count twice. Remove one of them."
    also = "" if first.path == second.path else f", as {second.path}"
    return (
        f"{first.path} lies in two data folders{also}: its rows would count twice. Leave out --data {first.root} or "
        f"--data {second.root}."
    )


def _exists(root: str) -> bool:
    """As `storage.exists`, which takes a folder of a network file system that does not answer for a missing one.

    Raises:
        OSError: It cannot be found out.
    """
    if not storage.is_remote(root):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.stat(root)
    return storage.exists(root)


def _way_on(root: str) -> str:
    """What to do with a folder without label files: with pages, and with images; empty where it holds neither."""
    image = other = ""
    # Of a bucket only the top: the rest would take a request for each thousand objects.
    folders = [(root, storage.entries(root)[1])] if storage.is_remote(root) else walk(root)
    for folder, names in islice(folders, _LOOKED_AT):
        for name in sorted(names):
            path = os.path.join(folder, name)
            if is_hidden(os.path.relpath(path, root)):
                continue
            ending, quoted = os.path.splitext(name)[1].lower(), shlex.quote(root)
            if ending == ".xml":
                return (
                    f" It holds XML files, such as {plain(path)}. If these are pages with PAGE XML or ALTO, `htr "
                    f"import {quoted} --output lines` makes a dataset of their lines, and `htr run --task pages --data "
                    f"{quoted}` trains a line finder."
                )
            if ending in SUFFIXES:
                image = image or plain(path)
            if ending in _OTHER_LABELS and not name.lower().startswith("readme"):
                other = other or plain(path)
    not_read = other and (
        f" Labels in {other} are not read: save them as such a .csv, with a header line (docs/data.md, Labels in "
        "another form)."
    )
    return image and (
        f" It holds images, such as {image}. List these in a .csv with the columns filename and text; where they have "
        f"no labels, `htr read {shlex.quote(root)}` transcribes them.{not_read}"
    )


def source_names(roots: list[str]) -> dict[str, str]:
    """Names of folders by path: their last parts, as many as are needed to tell them apart.

    Raises:
        DatasetError: The same one twice.
    """
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


class _Level(NamedTuple):
    """Files of a folder, or of the folders in it.

    Attributes:
        tables: Paths of the CSV and TSV files.
        hidden: Names of hidden files and folders, which no person made.
        workbooks: Paths of workbooks.
    """

    tables: list[str]
    hidden: list[str]
    workbooks: list[str]


def _levels(root: str) -> Iterator[_Level]:
    """What a folder holds, then what the folders in it hold: archives often unpack into one more folder.

    A workspace below the folder is passed over: its tables are what runs have written. In a bucket the folders in it
    are listed only where the folder has no table: the list of each takes a request for a thousand objects.

    Raises:
        OSError: A folder cannot be read.
    """
    folders = [root]
    for _ in range(2):
        hidden: list[str] = []
        below, names = [], []
        for folder in folders:
            folders_inside, files = storage.entries(folder)
            if is_workspace(folder, files):
                continue
            hidden += [name for name in (*folders_inside, *files) if is_hidden(name)]
            below += [os.path.join(folder, name) for name in folders_inside if not is_hidden(name)]
            names += [os.path.join(folder, name) for name in files if not is_hidden(name)]
        tables = sorted(path for path in names if path.lower().endswith(_LABELS))
        yield _Level(tables, hidden, [path for path in names if path.lower().endswith(_WORKBOOKS)])
        if tables and storage.is_remote(root):
            return
        folders = below
