"""Which images the rows name: those in the data folders that none names, and those that several name."""

from __future__ import annotations

import functools
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from components.common import storage
from components.common.words import counted
from components.example_gen.images import beside, folded
from components.example_gen.table import Row, Table, plain
from components.example_gen.walking import walk
from htr_client.files import OTHER_FORMATS, SUFFIXES, is_hidden


class Named:
    """Takes the rows of all tables, then says which images they name."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self._tables = {table.path: table for table in tables}
        # Base names by table and folder as the rows name it: one look at each row has to be cheap.
        self._named: dict[str, dict[str, set[str]]] = {table.path: defaultdict(set) for table in tables}
        self._again: set[tuple[str, str, str]] = set()  # table, folder, and base name that it has named before

    def add(self, row: Row) -> None:
        """Takes a row, which may be malformed."""
        table = row.table
        if len(row.fields) > table.image:
            folder, _, base = row.fields[table.image].strip().rpartition("/")
            named = self._named[table.path][folder]
            if base in named:
                self._again.add((table.path, folder, base))
            else:
                named.add(base)

    def folders(self, table: Table) -> Collection[str]:
        """Folders as the rows of a table name them."""
        return self._named[table.path].keys()

    def repeated(self) -> set[tuple[str, str]]:
        """Paths of folders, each with the base name of an image in it that several rows name."""
        found = {(folder_beside(self._tables[path], named), base) for path, named, base in self._again}
        for folder, names in self._by_folder.items():
            known = set(names[0]) if len(names) > 1 else names[0]
            for bases in names[1:]:
                found.update((folder, base) for base in known & bases)
                known |= bases
        return found

    @functools.cached_property
    def _by_folder(self) -> dict[str, list[set[str]]]:
        """Base names by path of the folder, in a set for each table and way of naming the folder."""
        found: dict[str, list[set[str]]] = defaultdict(list)
        for path, by_name in self._named.items():
            for named, bases in by_name.items():
                found[folder_beside(self._tables[path], named)].append(bases)
        return found

    def unused(self) -> list[str]:
        """Sentences on images that are not used; buckets are not searched, which would take many requests.

        Raises:
            DatasetError: A folder cannot be read.
        """
        roots = sorted({table.root for table in self._tables.values() if not storage.is_remote(table.root)})
        files = {folder: names for root in roots for folder, names in walk(root)}
        named = {
            folder: set().union(*names) if len(names) > 1 else names[0]
            for folder, names in self._by_folder.items()
            if not storage.is_remote(folder)
        }
        searched = {base for folder, bases in named.items() for base in bases.difference(files.get(folder, ()))}
        notes = []
        for root in roots:
            below = {folder: names for folder, names in files.items() if f"{folder}/".startswith(f"{root}/")}
            notes += [*_format_notes(root, below), *_unnamed_notes(root, below, named, searched)]
        return notes


def folder_beside(table: Table, named: str) -> str:
    """Path of a folder that a row of a table names; the table's own where it names none."""
    return beside(table.path, table.root, f"{named}/" if named else "")[0]


def _format_notes(root: str, files: Mapping[str, Sequence[str]]) -> list[str]:
    found: Counter[str] = Counter()
    for folder, names in files.items():
        others = [name for name in names if name.lower().endswith(OTHER_FORMATS)]
        found.update(os.path.splitext(name)[1].lower() for name in _visible(root, folder, others))
    if not found:
        return []
    kinds = ", ".join(f"{count} {ending}" for ending, count in found.most_common())
    return [f"{root} holds images of formats that are not read: {kinds}. Save them as JPEG or PNG."]


def _unnamed_notes(
    root: str, files: Mapping[str, Sequence[str]], named: Mapping[str, set[str]], searched: set[str]
) -> list[str]:
    """Says how many images no row names.

    Args:
        root: Data folder.
        files: Names of files by folder.
        named: Names that rows give by path of the folder that they give.
        searched: Those that no file has, so that an image is searched for.
    """
    unnamed = []
    for folder, names in files.items():
        left = set(names).difference(named.get(folder, ()), searched)
        images = sorted(name for name in left if name.lower().endswith(SUFFIXES))
        unnamed += [os.path.join(folder, name).removeprefix(f"{root}/") for name in _visible(root, folder, images)]
    if unnamed and searched:
        alike = {folded(name.replace("\\", "/").rpartition("/")[2]) for name in searched}
        unnamed = [path for path in unnamed if alike.isdisjoint(_alike(os.path.basename(path)))]
    if not unnamed:
        return []
    verb = "is" if len(unnamed) == 1 else "are"
    return [
        f"{root}: {counted(len(unnamed), 'image')} {verb} named by no row, such as {plain(unnamed[0])}, and {verb} not "
        "used. If they are to be, add rows for them."
    ]


def _visible(root: str, folder: str, names: Iterable[str]) -> list[str]:
    if is_hidden(folder.removeprefix(root).strip("/")):
        return []
    return [name for name in names if not is_hidden(name)]


def _alike(name: str) -> tuple[str, str]:
    """What a row may give for an image that it does not name exactly."""
    return folded(name), os.path.splitext(folded(name))[0]
