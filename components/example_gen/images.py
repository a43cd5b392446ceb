"""From the image that a row names to a file of its dataset folder."""

from __future__ import annotations

import functools
import os
import unicodedata
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from components.common import storage
from components.common.words import counted
from components.example_gen.outages import is_of_the_store, unreadable
from components.example_gen.rejects import Rejected
from components.example_gen.walking import walk
from htr_client import image_files
from htr_client.files import OTHER_FORMATS, SUFFIXES, is_hidden

# How an image was found that does not have the name that its row gives.
MENDS = {
    "extension": "Found by adding the extension that the row leaves out (0 for 0.jpg)",
    "case": "Found though the name differs in case from what the row says",
    "folder": "Found by their names in another folder than the one that the row names, which does not exist",
}


class AmbiguousFile(Rejected):
    """Several files have the name of an image.

    Attributes:
        paths: Their paths.
    """

    def __init__(self, paths: list[str]):
        detail = f"{len(paths)} files of that name, among them {paths[0]} and {paths[1]}"
        super().__init__("ambiguous_file", detail)
        self.paths = paths


def mend_notes(mended: Mapping[str, int]) -> list[str]:
    """Sentences about images that do not have the names which their rows give; counts by key of `MENDS`."""
    return [f"{MENDS[mend]}: {counted(count, 'image')}." for mend, count in sorted(mended.items())]


class Place(Protocol):
    """The file that names an image: a `Table`, or the XML file of a page.

    Attributes:
        path: Path of the file.
        root: Dataset folder that it belongs to.
        allow_outside: Whether its images may lie outside of `root`.
    """

    @property
    def path(self) -> str: ...  # noqa: D102

    @property
    def root(self) -> str: ...  # noqa: D102

    @property
    def allow_outside(self) -> bool: ...  # noqa: D102


class Found(NamedTuple):
    """The file of an image.

    Attributes:
        path: Path of the file.
        mend: Key of `MENDS`; empty where the row says its name.
        is_elsewhere: Whether it lies in another folder than the row says.
    """

    path: str
    mend: str = ""
    is_elsewhere: bool = False


def resolve_image(name: str, table: Place) -> str:
    """Path of the image that a row names, see `find_image`."""
    return find_image(name, table).path


def find_image(name: str, table: Place) -> Found:
    """Finds the image that a row names: relative to the CSV, else below the dataset folder by its base name.

    Where there is none, backslashes count as slashes, and the one file is taken whose name differs in case only or has
    an extension besides. A folder that the row names and that is there is the only one to be searched: elsewhere lies
    another image of that name, as in `train/005.png` and `test/005.png`.

    Args:
        name: Name as the row gives it.
        table: Table that the row stands in, or another file that names images.

    Raises:
        AmbiguousFile: There are several of that name.
        Rejected: There is none, or it lies outside of the dataset folder.
    """
    if not name:
        raise Rejected("missing_file", "the row names no image")
    path, folder, is_inside = _named(name, table)
    if is_inside and storage.is_plain_file(path):  # one question to the system, where those below are three
        return Found(path)
    found = Found(path)
    # A store is asked for its list once, not for each image; and no server only because a row names it.
    if not (_files(table.root).has(path) if storage.is_remote(path) else storage.exists(path)):
        if "\\" in name:  # as Windows writes paths
            return find_image(name.replace("\\", "/"), table)
        base = os.path.basename(name)[:1000]
        files = _files(table.root)
        is_there = files.has_folder(folder) if storage.is_remote(path) else is_inside and os.path.isdir(folder)
        only = folder if is_there and folder != os.path.dirname(table.path) else None
        same = _within(only, files.named(base))
        found = Found(_only(same, table.root)) if same else _nearest(name, base, folder, table.root, only)
        if (place := os.path.dirname(found.path)) != folder:
            mend = found.mend
            if folder != os.path.dirname(table.path):  # the row names a folder
                mend = "folder" if folded(place) != folded(folder) else "case"
            found = Found(found.path, mend, is_elsewhere=True)
    if not (table.allow_outside or storage.is_inside(found.path, table.root)):
        raise Rejected("outside_folder", f"{found.path} lies outside of {table.root} (data.allow_outside)")
    return found


def holds_images(root: str) -> bool:
    """Whether a folder has images at any depth, of formats that are not read too."""
    return _files(root).holds_images


def read_image(path: str) -> bytes:
    """Reads the file of an image that a row names, from the path of `find_image`.

    Raises:
        Rejected: The file cannot be read.
        StoreError: Its store, disk or network fails.
    """
    try:
        return storage.read(path, image_files.MAX_BYTES + 1)  # one more, so that a larger one is refused
    except OSError as error:
        if is_of_the_store(path, error):
            raise unreadable(f"The data cannot be read: {error}.", error) from error
        raise Rejected("unreadable_file", f"{path}: {error.strerror or error}") from error


def named_path(name: str, table: Place) -> str:
    """Path of the image that a row names, whether or not there is one; backslashes count as slashes."""
    return _named(name.replace("\\", "/"), table)[0]


def _named(name: str, table: Place) -> tuple[str, str, bool]:
    """The path that a row names, its folder, and whether that lies in the dataset folder of this machine."""
    end = name.rfind("/") + 1
    base = name[end:] if name[end:].strip(".") else ""  # `.` and `..` name folders
    folder, is_inside = beside(table.path, table.root, name[:end] if base else name)
    return f"{folder}/{base}" if base else folder, folder, is_inside


def _only(paths: list[str], root: str) -> str:
    if len(paths) > 1:  # a program's thumbnails have the names of the images
        paths = [path for path in paths if not is_hidden(path.removeprefix(f"{root}/"))] or paths
    if len(paths) > 1:
        raise AmbiguousFile(paths)
    return paths[0]


def _within(folder: str | None, paths: list[str]) -> list[str]:
    return [path for path in paths if folder is None or os.path.dirname(path) == folder]


def _nearest(name: str, base: str, folder: str, root: str, only: str | None) -> Found:
    """The file that a row must mean which names none exactly; `folder` is where it should lie, `only` where it must."""
    stem, suffix = os.path.splitext(folded(base))
    known_suffix = suffix in SUFFIXES or suffix in OTHER_FORMATS
    near = _within(only, _files(root).of_stem(stem if known_suffix else folded(base)))
    if known_suffix:
        alike, mend = [path for path in near if folded(os.path.basename(path)) == stem + suffix], "case"
    else:
        alike, mend = [path for path in near if path.lower().endswith(SUFFIXES)], "extension"
    if alike:
        beside = [path for path in alike if os.path.dirname(path) == folder]
        return Found(_only(beside or alike, root), mend)
    what = f"no file {name} beside the file that names it, nor anywhere below {root}"
    if only:
        elsewhere = _files(root).named(base)
        what = f"no file {name}" + (f"; {elsewhere[0]} lies in another folder than the row says" if elsewhere else "")
    if near:
        ending = os.path.splitext(near[0])[1].lower()
        advice = f": {ending} is not read, save it as JPEG or PNG" if ending in OTHER_FORMATS else ""
        what += f"; {near[0]} has a similar name{advice}"
    elif numbered := _within(only, _files(root).of_number(stem if known_suffix else folded(base))):
        what += f"; {numbered[0]} has this number: has a spreadsheet removed the zeros? Its column must be text"
    if linked := _linked_folders(root):
        what += f"; {root}/{linked[0]} is a link, which is not searched: name the image {linked[0]}/{base}"
    raise Rejected("missing_file", what)


@functools.lru_cache(maxsize=1024)
def beside(path: str, root: str, name: str) -> tuple[str, bool]:
    """Absolute path of a folder that is named relative to a file, and whether it lies in a dataset folder of this
    machine when links have been followed; cached, since most images lie in few folders.
    """  # noqa: D205
    folder = storage.absolute(name if storage.is_remote(name) else os.path.join(os.path.dirname(path), name))
    return folder.rstrip("/"), not storage.is_remote(folder) and storage.is_inside(folder, root)


class _Files:
    """The files of a dataset folder, which is listed once.

    Names are held once, and paths are not held: there may be a million, in each process that examines rows.
    """

    def __init__(self, root: str):
        self._names = {folder: dict.fromkeys(names) for folder, names in walk(root)}

    def has(self, path: str) -> bool:
        """Whether there is this file."""
        folder, _, name = path.rpartition("/")
        return name in self._names.get(folder, ())

    def has_folder(self, folder: str) -> bool:
        """Whether a folder holds files."""
        return bool(self._names.get(folder))

    @property
    def holds_images(self) -> bool:
        """Whether there is an image."""
        return bool(self._stems)

    def named(self, base: str) -> list[str]:
        """Paths of the files of a name, in NFC or not: archives made on a Mac hold names in NFD."""
        name = unicodedata.normalize("NFC", base)
        return self._paths([name, *self._other_forms.get(name, ())])

    def of_stem(self, stem: str) -> list[str]:
        """Paths of images by their name without its extension, in NFC and without case."""
        return self._paths(self._stems[stem].split("/")) if stem in self._stems else []

    def of_number(self, stem: str) -> list[str]:
        """Paths of images whose name is a number, by its digits; zeros before these do not count."""
        return self._paths(self._numbers.get(stem.lstrip("0"), "").split("/")) if stem.isdecimal() else []

    def _paths(self, names: list[str]) -> list[str]:
        return [f"{folder}/{name}" for name in names for folder in self._folders.get(name, ())]

    @functools.cached_property
    def _folders(self) -> dict[str, list[str]]:
        """Folders that hold a file of a name."""
        index: dict[str, list[str]] = {}
        for folder, names in self._names.items():
            alone = [folder]  # one list for all files whose name no other folder has
            for name in names:
                known = index.setdefault(name, alone)
                if len(known) > 1:
                    known.append(folder)
                elif known is not alone:
                    index[name] = [*known, folder]
        return index

    @functools.cached_property
    def _other_forms(self) -> dict[str, list[str]]:
        """Names that are not in NFC, by what they are in NFC."""
        index: dict[str, list[str]] = {}
        for name in self._folders:
            if not unicodedata.is_normalized("NFC", name):
                index.setdefault(unicodedata.normalize("NFC", name), []).append(name)
        return index

    @functools.cached_property
    def _stems(self) -> dict[str, str]:
        """Names of images with a slash between them, which no name has, by what `of_stem` is asked for."""
        index: dict[str, str] = {}
        for name in self._folders:
            stem, suffix = os.path.splitext(folded(name))
            if suffix in SUFFIXES or suffix in OTHER_FORMATS:
                index[stem] = f"{index[stem]}/{name}" if stem in index else name
        return index

    @functools.cached_property
    def _numbers(self) -> dict[str, str]:
        """Names of `_stems` that are numbers, by these without the zeros before them; the first of several."""
        index: dict[str, str] = {}
        for stem, names in self._stems.items():
            if stem.isdecimal():
                index.setdefault(stem.lstrip("0"), names)
        return index


_files = functools.lru_cache(maxsize=256)(_Files)  # pages look into all input folders, which a shell may have listed


@functools.lru_cache(maxsize=16)
def _linked_folders(root: str) -> list[str]:
    """Names of the links to folders in a dataset folder."""
    return [name for name in storage.entries(root)[0] if os.path.islink(f"{root}/{name}")]


def folded(name: str) -> str:
    """A name in NFC and without case."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
