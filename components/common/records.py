"""Records of jobs: JSON files that tell what is done."""

from __future__ import annotations

import json
from typing import Any

from components.common import storage


def read_record(path: str) -> dict[str, Any]:
    """A record; an empty one where there is none, or one that a power cut has emptied: its work is done again.

    Args:
        path: Path of the file.

    Raises:
        OSError: It cannot be read.
    """
    try:
        found = json.loads(storage.read(path))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
