"""Which NVIDIA GPUs the system has, and what to do where TensorFlow does not use them; which workers train together.

All of it is found without TensorFlow.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import subprocess
from typing import Any

# Where the WSL 2 driver puts nvidia-smi; it is often off the PATH.
_WSL_PROGRAMS = "/usr/lib/wsl/lib"


def system_gpus(root: str = "/") -> list[str]:
    """NVIDIA GPUs that the driver tells of, whether TensorFlow can use them or not.

    Asks nvidia-smi first, then reads /proc/driver/nvidia, then looks for /dev/nvidia0 and its like (a container may
    have these without the others).

    Args:
        root: Folder that stands for the root of the file system; tests give one of their own.

    Returns:
        Their names, such as "NVIDIA H100 80GB HBM3"; empty where there is no GPU or no driver.
    """
    return _asked(root) or _listed(root) or _device_files(root)


def unused_gpus(gpus: list[str]) -> str | None:
    """What to tell people where TensorFlow sees no GPU.

    Args:
        gpus: Result of `system_gpus`.

    Returns:
        One sentence or two with what to do, or None where the system has none either.
    """
    if not gpus:
        return None
    named = gpus[0] if len(gpus) == 1 else f"{len(gpus)} GPUs ({gpus[0]})"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return f"This machine has {named}, which CUDA_VISIBLE_DEVICES={visible!r} hides: unset it to train there."
    return (
        f"This machine has {named}, but TensorFlow cannot use it and computes on the CPU. `./setup_env.sh` installs "
        f"CUDA's libraries; `htr doctor` says what is missing."
    )


def ask_driver(*arguments: str, root: str = "/") -> str:
    """What nvidia-smi prints; empty where there is none, or where it fails.

    Args:
        arguments: Arguments of nvidia-smi.
        root: As for `system_gpus`.

    Returns:
        Its standard output.
    """
    folders = [*os.environ.get("PATH", os.defpath).split(os.pathsep), _WSL_PROGRAMS]
    program = shutil.which("nvidia-smi", path=os.pathsep.join(_below(root, folder) for folder in folders if folder))
    if program is None:
        return ""
    command = [program, *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def tf_config() -> dict[str, Any]:
    """What Kubeflow's training operator and others tell each worker about the cluster and its own place in it."""
    return json.loads(os.environ.get("TF_CONFIG") or "{}")


def worker_count() -> int:
    """Number of processes that train one model together, by TF_CONFIG; 0 where it names none."""
    return sum(len(addresses) for addresses in tf_config().get("cluster", {}).values())


def _asked(root: str) -> list[str]:
    # Lines of MIG slices are indented and belong to the GPU above.
    return re.findall(r"^GPU \d+: (.+?)(?: \(UUID: .*)?$", ask_driver("-L", root=root), re.M)


def _listed(root: str) -> list[str]:
    names = []
    for path in sorted(glob.glob(_below(root, "proc/driver/nvidia/gpus/*/information"))):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                found = re.search(r"^Model:\s*(.+?)\s*$", file.read(), re.M)
        except OSError:
            found = None
        names.append(found[1] if found else "NVIDIA GPU")
    return names


def _device_files(root: str) -> list[str]:
    return ["NVIDIA GPU"] * len(glob.glob(_below(root, "dev/nvidia[0-9]*")))


def _below(root: str, path: str) -> str:
    return os.path.join(root, path.lstrip("/"))
