"""Images in the data folders that are not used: of formats that are not read, and named by no row."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from components.common import storage
from components.common.words import counted
from components.example_gen.images import beside, folded
from components.example_gen.table import Row, Table, plain
from components.example_gen.walking import walk
from htr_client.files import OTHER_FORMATS, SUFFIXES, is_hidden


class Unused:
    """Takes the rows of all tables, then says what they leave in the folders of this machine.

    Buckets are not searched: that would take many requests.
    """

    def __init__(self, tables: Sequence[Table]) -> None:
        self._tables = {table.path: table for table in tables if not storage.is_remote(table.root)}
        # Base names by table and folder as the rows name it: one look at each row has to be cheap.
        self._named: dict[str, dict[str, set[str]]] = {path: defaultdict(set) for path in self._tables}

    def add(self, row: Row) -> None:
        """Takes a row, which may be malformed."""
        table = row.table
        named = self._named.get(table.path)
        if named is not None and len(row.fields) > table.image:
            folder, _, base = row.fields[table.image].strip().rpartition("/")
            named[folder].add(base)

    def notes(self) -> list[str]:
        """Sentences on what is not used.

        Raises:
            DatasetError: A folder cannot be read.
        """
        roots = sorted({table.root for table in self._tables.values()})
        files = {folder: names for root in roots for folder, names in walk(root)}
        named: dict[str, set[str]] = defaultdict(set)  # by path of the folder
        for path, by_folder in self._named.items():
            for folder, bases in by_folder.items():
                named[beside(path, self._tables[path].root, f"{folder}/" if folder else "")[0]] |= bases
        searched = {base for folder, bases in named.items() for base in bases.difference(files.get(folder, ()))}
        notes = []
        for root in roots:
            below = {folder: names for folder, names in files.items() if f"{folder}/".startswith(f"{root}/")}
            notes += [*_format_notes(root, below), *_unnamed_notes(root, below, named, searched)]
        return notes


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
