"""Documents of a batch: their names, and which of them it may replace or delete: those that are as it has written them.

People correct documents where a batch has put them. So they keep their names, and a shard notes the digest of each
document before it writes it: a file with another digest was changed, or somebody else has put it there, and it stays.
A note comes before its file, so that after a kill no file of the batch looks like one of somebody else.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from components.common import storage
from components.common.records import read_record

_EMPTY = hashlib.sha256(b"").hexdigest()


def names_of(paths: Sequence[str], ending: str, former: Mapping[str, str]) -> list[str]:
    """Names of documents: with their ending instead of the image's, or after it where names would meet.

    Args:
        paths: Paths of all images.
        ending: Ending of the format.
        former: Names that earlier runs have given, by path; these stay.

    Returns:
        A name for each path.
    """
    stems = {path: os.path.splitext(path)[0] for path in paths}
    counts = Counter([*stems.values(), *stems])
    below = {os.path.dirname(path) for path in paths}
    folders = {str(one) for folder in below for one in (folder, *Path(folder).parents)}
    held = {
        path: name for path, name in former.items()
        if path in stems and name.endswith(ending) and name not in folders
    }  # fmt: skip
    taken = {*held.values(), *folders}

    def name(path: str) -> str:
        short = stems[path] + ending
        return short if counts[stems[path]] == 1 and short not in taken else path + ending

    return [held.get(path) or name(path) for path in paths]


class OwnFiles:
    """Documents of a shard, known by their digests."""

    def __init__(self, folder: str, notes: str, write: Callable[[str, bytes], None]) -> None:
        """Reads what earlier runs have noted.

        Args:
            folder: Folder of the documents.
            notes: File of the notes: digests by name. Beside the newest stands the one that it replaces.
            write: Writes a file, given its path and content, so that it is seen whole or not at all.
        """
        self._folder, self._notes, self._write = folder, notes, write
        self._digests: dict[str, list[str]] = read_record(notes)

    @property
    def names(self) -> set[str]:
        """Names of the documents that were noted."""
        return set(self._digests)

    def is_there(self, name: str) -> bool:
        """Whether a document is there, be it the batch's own or changed.

        An empty file is none, unless the batch has written it so, as the text of a page without lines: a power cut
        leaves such files.
        """
        stamp = storage.stamp(os.path.join(self._folder, name))
        return bool(stamp) and (not stamp.startswith("0-") or _EMPTY in self._digests.get(name, ()))

    def replace(self, name: str, content: bytes) -> bool:
        """Writes a document unless a file that is not the batch's own is in its place.

        Args:
            name: Its name below the folder.
            content: Its content.

        Returns:
            Whether it was written.
        """
        there, new = self._digest(name), hashlib.sha256(content).hexdigest()
        if there not in (None, new, *self._digests.get(name, ())):
            return False
        self._digests[name] = [digest for digest in (there, new) if digest]
        self.note()
        self._write(os.path.join(self._folder, name), content)
        return True

    def delete(self, name: str) -> bool | None:
        """Deletes a document if it is the batch's own.

        Args:
            name: Its name below the folder.

        Returns:
            Whether it was deleted; None if there was none.
        """
        there = self._digest(name)
        if there is not None and there not in self._digests.setdefault(name, []):
            return False
        if there is not None:
            storage.remove(os.path.join(self._folder, name))
        self._digests.pop(name, None)
        return None if there is None else True

    def note(self) -> None:
        """Writes the notes."""
        self._write(self._notes, json.dumps(self._digests).encode())

    def _digest(self, name: str) -> str | None:
        """Digest of the document of a name; None if there is none."""
        try:
            found = hashlib.sha256(storage.read(os.path.join(self._folder, name))).hexdigest()
        except FileNotFoundError:
            return None
        return None if found == _EMPTY and _EMPTY not in self._digests.get(name, ()) else found
