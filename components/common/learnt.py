"""Which images a version has learnt from, so that an evaluation on some of them is noticed: a note beside the version.

Splits may be drawn anew from run to run. What starts from an earlier version has then seen what it is evaluated on.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from components.common import storage
from serving.version_directory import LEARNT_FILE

MOST = 2**16
"""Images that a note tells of at most: half a megabyte."""
_DIGEST = np.dtype(">u8")  # the first bytes of a SHA-256, which tell neither images nor names


def note_of(version: str | None) -> bytes:
    """The note beside a version; empty where there is none, as beside versions of earlier releases and base models.

    Args:
        version: Directory of the version, which may be gone; None for none.

    Raises:
        OSError: It cannot be read.
    """
    path = f"{version}.{LEARNT_FILE}"
    return storage.read(path) if version and storage.exists(path) else b""


def note(images: Collection[bytes], earlier: bytes = b"") -> bytes:
    """The note on a model.

    Args:
        images: SHA-256 of each image's file that the model was trained and validated on.
        earlier: Note on the model that its training started from.

    Returns:
        The sorted digests of all these images; of more than `MOST` the least, which are a sample of them by chance.
    """
    return np.union1d(_digests(images), np.frombuffer(earlier, _DIGEST))[:MOST].astype(_DIGEST).tobytes()


def count(images: Collection[bytes], noted: bytes) -> int:
    """How many images are among those of a note; of a note that is full, as many as the share that it can tell of.

    Args:
        images: SHA-256 of each image's file.
        noted: The note.
    """
    asked, known = _digests(images), np.frombuffer(noted, _DIGEST)
    if len(known) >= MOST:
        asked = asked[asked <= known[-1]]
    return round(len(images) * float(np.isin(asked, known).mean())) if len(asked) else 0


def _digests(images: Collection[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(image[: _DIGEST.itemsize] for image in images), _DIGEST)
