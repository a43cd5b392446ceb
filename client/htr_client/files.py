"""Which files the arguments of a command stand for."""

import glob
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pbm", ".pnm"
)  # fmt: skip
# Images and documents that people keep beside them, and that are not read.
OTHER_FORMATS = (
    ".heic", ".heif", ".avif", ".gif", ".pdf", ".jp2", ".j2k", ".jpx", ".jpf", ".jxl", ".djvu", ".psd", ".svg", ".dng",
    ".tga", ".ico"
)  # fmt: skip
# Texts, tables and notes about images, and what file managers leave: that these are left out surprises nobody.
COMPANIONS = (
    ".xml", ".csv", ".tsv", ".txt", ".json", ".jsonl", ".yaml", ".yml", ".hocr", ".html", ".htm", ".md", ".log",
    ".xlsx", ".xls", ".ods", ".docx", ".doc", ".odt", ".py", ".ini", ".db"
)  # fmt: skip

# Endings of the files of pages by format; all but those of `LINE_FORMATS` are documents of a page.
PAGE_FORMATS = {"text": ".txt", "json": ".json", "csv": ".csv", "alto": ".xml", "page": ".xml", "hocr": ".hocr"}
LINE_FORMATS = ("text", "json", "csv")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def expand(arguments: Iterable[str]) -> Iterator[str]:
    """Paths of the images that files, folders, globs and - for standard input stand for.

    Of a folder, hidden files (such as the AppleDouble files ._1.jpg of a Mac), images of formats that are not read,
    other files than images and their `COMPANIONS`, and what is no regular file are left out; lines on standard error
    say how many.

    Args:
        arguments: Arguments of the command line.

    Yields:
        Paths, those of a folder sorted by name.

    Raises:
        ValueError: When a folder holds no image, a glob matches no file, or an argument is an address.
        OSError: When a folder cannot be read.
    """
    for argument in arguments:
        if argument == "-" or os.path.isfile(argument):
            yield argument
        elif os.path.isdir(argument):
            yield from _images_below(argument)
        elif _ADDRESS.match(argument):
            raise ValueError(
                f"{argument} is an address, and images are read from files of this machine: download it, or give its "
                "folder in a bucket to htr transcribe --input"
            )
        elif glob.has_magic(argument):
            found = sorted(path for path in glob.glob(argument, recursive=True) if os.path.isfile(path))
            if not found:
                raise ValueError(f"no file matches {argument!r}")
            yield from found
        else:
            yield argument  # reported with the results as a file that cannot be read


def is_hidden(path: str) -> bool:
    """Whether a file is hidden or lies in a hidden folder, and so is none of a user's images or labels.

    Files that no person made count as well: AppleDouble's `._x`, a lock of an office program, a Mac's archive.

    Args:
        path: Name of the file or folder, or its path below the folder that is searched, which itself may be hidden.
    """
    return any(part.startswith((".", "~$")) or part == "__MACOSX" for part in path.split("/"))


def walk(folder: str) -> Iterator[str]:
    """Paths of all files below a folder, relative to it; links are followed, but not in circles.

    Args:
        folder: Path of the folder.

    Yields:
        Paths in no order, of everything that is no folder: of pipes and of links that lead nowhere, too.

    Raises:
        OSError: When a folder cannot be read.
    """
    waiting: list[tuple[str, frozenset[str]]] = [("", frozenset())]  # folders with those that they lie in
    while waiting:
        below, above = waiting.pop()
        place = os.path.join(folder, below)
        real = os.path.realpath(place)
        if real in above:
            continue
        with os.scandir(place) as entries:
            for entry in entries:
                path = os.path.join(below, entry.name)
                # entry.is_dir() fails for a link that leads in circles, os.path.isdir takes it for no folder.
                if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir(follow_symlinks=False):
                    waiting.append((path, above | {real}))
                else:
                    yield path


def _images_below(folder: str) -> list[str]:
    found: list[str] = []
    hidden: list[str] = []
    irregular: list[str] = []
    unknown: list[str] = []
    others: Counter[str] = Counter()
    for below in walk(folder):
        path, ending = str(Path(folder, below)), os.path.splitext(below)[1].lower()
        if is_hidden(below):
            if ending in SUFFIXES:
                hidden.append(path)
        elif ending in SUFFIXES:
            # A link that leads nowhere is reported with the results; who opens a pipe waits for it.
            (found if os.path.isfile(path) or not os.path.exists(path) else irregular).append(path)
        elif ending in OTHER_FORMATS:
            others[ending] += 1
        elif ending not in COMPANIONS:
            unknown.append(path)
    notes = [
        f"{_counted(n, f'{ending} file')} left out: convert {'it' if n == 1 else 'them'} to JPEG or PNG"
        for ending, n in sorted(others.items())
    ]
    notes += [
        f"{_counted(len(paths), what)} left out, such as {min(paths)!r}"
        for what, paths in (
            ("hidden file", hidden), ("special file", irregular), ("other file", unknown)
        )
        if paths
    ]  # fmt: skip
    if not found:
        looked = f"looked for {' '.join(sorted(SUFFIXES))}"
        raise ValueError(f"no image in the folder {folder!r} ({'; '.join([*notes, looked])})")
    for note in notes:
        print(f"note: {folder}: {note}.", file=sys.stderr)
    return sorted(found)


def _counted(n: int, what: str) -> str:
    return f"{n} {what} was" if n == 1 else f"{n} {what}s were"
