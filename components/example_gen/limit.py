"""A part of a dataset that is like the whole: `data.limit`."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Mapping
from typing import NamedTuple, TypeVar

_Name = TypeVar("_Name", bound=Hashable)


class Candidate(NamedTuple):
    """A row that may be taken.

    Attributes:
        group: Dataset folder and split, which keep their shares.
        writer: Who keeps his share within the group.
        rank: Rows of low rank are taken first.
        table: Number of its table.
        line: Its line.
    """

    group: tuple[str, str]
    writer: str
    rank: int
    table: int
    line: int


def rank(image: str) -> int:
    """A number that depends on the image's name only, so that a part stays the same while data is added."""
    return int.from_bytes(hashlib.sha256(f"limit\0{image}".encode(errors="backslashreplace")).digest()[:8], "big")


def choose(candidates: list[Candidate], limit: int) -> list[Candidate]:
    """Takes rows so that folders, splits, and within them writers, keep their shares.

    Args:
        candidates: All rows.
        limit: How many to take.
    """
    groups: dict[tuple[str, str], dict[str, list[Candidate]]] = defaultdict(lambda: defaultdict(list))
    for candidate in candidates:
        groups[candidate.group][candidate.writer].append(candidate)
    chosen: list[Candidate] = []
    for group, quota in _shares(limit, {name: sum(map(len, rows.values())) for name, rows in groups.items()}).items():
        writers = groups[group]
        for writer, count in _shares(quota, {name: len(rows) for name, rows in writers.items()}).items():
            chosen += sorted(writers[writer], key=lambda row: (row.rank, row.table, row.line))[:count]
    return chosen


def _shares(limit: int, sizes: Mapping[_Name, int]) -> dict[_Name, int]:
    """Divides a number in proportion to sizes, which it does not exceed (largest remainders)."""
    total = sum(sizes.values())
    if limit >= total:
        return dict(sizes)
    shares = {name: limit * size // total for name, size in sizes.items()}
    # Equal remainders are ordered by the names' digests: alphabetical order would favour some writers in every group.
    by_remainder = sorted(sizes, key=lambda name: (-(limit * sizes[name] % total), rank(repr(name))))
    for name in by_remainder[: limit - sum(shares.values())]:
        shares[name] += 1
    return shares
