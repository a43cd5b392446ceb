"""Which files the arguments of a command stand for."""

import glob
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pbm", ".pnm")
# Images and documents that people keep beside them, and that are not read.
OTHER_FORMATS = (
    ".heic", ".heif", ".avif", ".gif", ".pdf", ".jp2", ".jxl", ".djvu", ".psd", ".svg", ".dng", ".tga", ".ico"
)  # fmt: skip


def expand(arguments: Iterable[str]) -> Iterator[str]:
    """Paths of the images that files, folders, globs and - for standard input stand for.

    Hidden files of a folder (such as the AppleDouble files ._1.jpg of a Mac) and images of formats that are not read
    are left out; a line on standard error says how many.

    Args:
        arguments: Arguments of the command line.

    Yields:
        Paths, those of a folder sorted by name.

    Raises:
        ValueError: When a folder holds no image, or a glob matches no file.
    """
    for argument in arguments:
        if argument == "-" or os.path.isfile(argument):
            yield argument
        elif os.path.isdir(argument):
            yield from _images_below(argument)
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


def _images_below(folder: str) -> list[str]:
    found: list[str] = []
    hidden: list[str] = []
    others: Counter[str] = Counter()
    for path in Path(folder).rglob("*"):
        suffix = path.suffix.lower()
        if is_hidden(path.relative_to(folder).as_posix()):
            if suffix in SUFFIXES:
                hidden.append(str(path))
        elif suffix in SUFFIXES:
            found.append(str(path))
        elif suffix in OTHER_FORMATS:
            others[suffix] += 1
    notes = [
        f"{_counted(n, f'{suffix} file')} left out: convert {'it' if n == 1 else 'them'} to JPEG or PNG"
        for suffix, n in sorted(others.items())
    ]
    if hidden:
        notes.append(f"{_counted(len(hidden), 'hidden file')} left out, such as {min(hidden)!r}")
    if not found:
        looked = f"looked for {' '.join(sorted(SUFFIXES))}"
        raise ValueError(f"no image in the folder {folder!r} ({'; '.join([*notes, looked])})")
    for note in notes:
        print(f"note: {folder}: {note}.", file=sys.stderr)
    return sorted(found)


def _counted(n: int, what: str) -> str:
    return f"{n} {what} was" if n == 1 else f"{n} {what}s were"
