"""What the machine is, read from the files of Linux: system, processor, limits of a container, NVIDIA's driver."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path

from components.trainer import devices
from htr_client.cores import cgroups, core_limit, read_text, visible_cores
from serving.precision import BFLOAT16_INSTRUCTIONS

ROOT = Path("/")
# Of CUDA 12, which both stacks' TensorFlow is built with; setup_env.sh knows it too.
OLDEST_DRIVER = "525.60.13"
# What decides how fast TensorFlow computes, by the names of /proc/cpuinfo.
_INSTRUCTIONS = {
    "AVX": {"avx"}, "AVX2": {"avx2"}, "AVX-512": {"avx512f"}, "AMX": {"amx_tile"}, "bfloat16": BFLOAT16_INSTRUCTIONS,
}  # fmt: skip
_NVIDIA, _DISPLAYS = "0x10de", ("0x0300", "0x0302")


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU as the driver tells of it.

    Attributes:
        name: Its name.
        memory: Bytes; None if the driver did not say.
    """

    name: str
    memory: int | None


def system() -> str:
    """Distribution, kernel, C library and architecture in one line."""
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        name = platform.system()
    libc = " ".join(part for part in platform.libc_ver() if part) or "no glibc"
    wsl = " (WSL)" if "microsoft" in platform.release().lower() else ""
    return f"{name}, kernel {platform.release()}{wsl}, {libc}, {platform.machine()}"


def processor(root: Path = ROOT) -> tuple[str, dict[str, bool]]:
    """Name of the processor, and which of the instruction sets that matter it has; empty where that is not known."""
    text = read_text(root / "proc/cpuinfo")
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    flags = re.search(r"^flags\s*:(.*)$", text, re.M)
    has = set(flags[1].split()) if flags else set()
    known = {kind: not has.isdisjoint(any_of) for kind, any_of in _INSTRUCTIONS.items()} if flags else {}
    return name[1].strip() if name else platform.machine(), known


def cores(root: Path = ROOT) -> tuple[int, float | None]:
    """Cores that this process may use, and how many the cgroup allows it to fill; None where it sets no limit."""
    return visible_cores(), core_limit(root)


def memory(root: Path = ROOT) -> tuple[int, int, int | None]:
    """Bytes of memory, bytes that are available, and the limit of the cgroup; None where it sets none."""
    sizes = {
        name: int(kilobytes) * 1024
        for name, kilobytes in re.findall(r"(\w+):\s+(\d+) kB", read_text(root / "proc/meminfo"))
    }
    total = sizes.get("MemTotal", 0)
    texts = (read_text(folder / name) for folder in cgroups(root) for name in ("memory.max", "memory.limit_in_bytes"))
    limits = [int(text) for text in texts if text.strip().isdigit()]
    limit = min(limits, default=total)
    return total, sizes.get("MemAvailable", 0), limit if limit < total else None


def gpus(root: Path = ROOT) -> tuple[list[Gpu], str | None]:
    """NVIDIA GPUs of the system, seen by TensorFlow or not, and the version of their driver if it is known."""
    query = ("--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits")
    rows = [line.split(", ") for line in devices.ask_driver(*query, root=str(root)).splitlines()]
    rows = [row for row in rows if len(row) == 3]
    if rows:
        found = [Gpu(name, int(size) * 2**20 if size.strip().isdigit() else None) for name, _, size in rows]
        return found, rows[0][1]
    version = re.search(r"^NVRM version:.*? (\d+\.[\d.]+) ", read_text(root / "proc/driver/nvidia/version"), re.M)
    return [Gpu(name, None) for name in devices.system_gpus(str(root))], version[1] if version else None


def cards_without_driver(root: Path = ROOT) -> int:
    """Number of NVIDIA display cards on the PCI bus that NVIDIA's driver does not drive."""
    cards = [
        folder for folder in (root / "sys/bus/pci/devices").glob("*")
        if read_text(folder / "vendor").strip() == _NVIDIA and read_text(folder / "class")[:6] in _DISPLAYS
    ]  # fmt: skip
    return sum((card / "driver").resolve().name not in ("nvidia", "vfio-pci") for card in cards)


def is_older(version: str, than: str) -> bool:
    """Whether a version such as 525.60.13 is older than another."""
    return [int(n) for n in re.findall(r"\d+", version)] < [int(n) for n in re.findall(r"\d+", than)]
