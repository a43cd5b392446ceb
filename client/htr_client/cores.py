"""The processor cores that there are to work with: those of the machine, within the limits of a container."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def usable_cores(root: Path = _ROOT) -> int:
    """Cores that this process can keep busy.

    A container with a CPU limit sees all cores of its machine, and stands still for the rest of each tenth of a second
    in which its threads have used up the limit.
    """
    visible, limit = visible_cores(), core_limit(root)
    return visible if limit is None else min(visible, math.ceil(limit))


def visible_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def core_limit(root: Path = _ROOT) -> float | None:
    """How many cores the cgroup allows this process to fill; None where it sets no limit."""
    limits = [limit for folder in cgroups(root) if (limit := _quota(folder)) is not None]
    return min(limits, default=None)


def cgroups(root: Path = _ROOT) -> Iterator[Path]:
    """Folders with limits of this process: its cgroup and all above it (version 2), or a container's (version 1)."""
    top = root / "sys/fs/cgroup"
    own = re.search(r"^0::/(.*)$", read_text(root / "proc/self/cgroup"), re.M)
    parts = [part for part in (own[1] if own else "").split("/") if part not in ("", "..")]
    for depth in range(len(parts), -1, -1):
        yield top.joinpath(*parts[:depth])
    yield from (top / "cpu", top / "memory")


def read_text(path: Path) -> str:
    """Text of one of the kernel's files, empty where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _quota(folder: Path) -> float | None:
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    text = read_text(folder / "cpu.max") or " ".join(read_text(folder / name) for name in names)
    numbers = re.match(r"([1-9]\d*)\s+([1-9]\d*)\s*$", text)
    return int(numbers[1]) / int(numbers[2]) if numbers else None
