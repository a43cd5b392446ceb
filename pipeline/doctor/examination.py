"""What htr would use on this machine, and what prevents work there: `htr doctor` without a GPU's measurement."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from components.common import storage
from components.common.folders import free_space, nearest
from pipeline.doctor import machine

REPOSITORY = Path(__file__).parents[2]
# Of `htr serve`: what it listens for by default and with --ui, with the options that choose others; and REST.
PORTS = {8500: ("gRPC", "--port"), 8600: ("page, with --ui", "--ui_port")}
OPTIONAL_PORTS = {8501: "REST, only with --rest_api_port=8501"}
# A run of the demo's size peaks at 2.2 GB; its workspace and TensorFlow's temporary files stay below a gigabyte.
MEMORY, DISK, NO_DISK = 3 * 2**30, 2 * 2**30, 200 * 2**20
_OF_THE_DRIVER = ("libcuda.so.1", "libnvidia-ml.so.1")
_PATIENCE = 120.0  # seconds that TensorFlow may take to be imported
# What TensorFlow's log says, without time and place, where it does not use a GPU; the libraries that it did not find.
_REASONS = re.compile(r"^.*?\] (.*(?:failed call to cuInit|DSO version|kernel version).*)$", re.M)
_MISSING = re.compile(r"Could not load dynamic library '((?!libnvinfer)[^']+)'")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: What was looked at.
        text: What is there.
        values: The same for programs.
        problems: What prevents work: what, where, what to do.
        notes: What is worth knowing, in the same form.
    """

    name: str
    text: str
    values: dict[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def examine(
    workspace: str, root: Path = machine.ROOT, wait: Callable[[str], None] = lambda text: None
) -> list[Finding]:
    """Looks at everything that decides whether and how fast htr works here.

    Args:
        workspace: Folder of the runs; it need not exist.
        root: Folder that stands for the root of the file system; tests give one of their own.
        wait: Function that is given a sentence where the answer takes longer than two seconds.

    Returns:
        The lines of the report, in their order.
    """
    with start_probe() as probe:
        findings = [software(), packages(), system(), processor(root), cores(root), memory(root), disk(workspace)]
        gpus, driver = machine.gpus(root)
        found = finish_probe(probe, wait)
    return [*findings, graphics(gpus, driver, root), tensorflow(found, gpus, driver), ports(), writing(workspace)]


def as_text(findings: list[Finding]) -> str:
    """The report for people: a line for each finding, then problems and notes."""
    width = max(len(finding.name) for finding in findings) + 2
    lines = [f"{finding.name:{width}s}{finding.text}" for finding in findings]
    remarks = [f"problem: {text}" for finding in findings for text in finding.problems]
    remarks += [f"note: {text}" for finding in findings for text in finding.notes]
    return "\n".join([*lines, "", *remarks] if remarks else lines)


def as_json(findings: list[Finding]) -> dict[str, Any]:
    """The report for programs."""
    report: dict[str, Any] = {f.name.lower(): {"text": f.text, **f.values} for f in findings}
    report["problems"] = [text for finding in findings for text in finding.problems]
    report["notes"] = [text for finding in findings for text in finding.notes]
    return report


def versions() -> dict[str, str | None]:
    """Versions of htr and of what it is built on; None where it is not installed."""
    names = ("htr-pipeline", "htr-client", "tfx", "tensorflow", "keras", "apache-beam")
    return {name: _version(name) for name in names}


def software() -> Finding:
    """Version of htr and of Python."""
    python = ".".join(map(str, sys.version_info[:3]))
    text = f"{_version('htr-pipeline')} in {REPOSITORY}, Python {python} ({sys.executable})"
    return Finding("htr", text, {"version": _version("htr-pipeline"), "python": python, "executable": sys.executable})


def packages(folder: Path = REPOSITORY / "requirements") -> Finding:
    """The stack, and whether the installed packages are those of its lock file."""
    found = versions()
    missing = [name for name, version in found.items() if version is None]
    problems = [f"{', '.join(missing)} not installed for {sys.executable}: run ./setup_env.sh."] if missing else []
    text = f"TFX {found['tfx']}, TensorFlow {found['tensorflow']}, Keras {found['keras']}"
    stack = next((s for s in ("current", "portable") if locked(folder / f"{s}.txt").get("tfx") == found["tfx"]), None)
    if stack is None:
        where = f"of none of the lock files in {folder}" if folder.is_dir() else "no lock file to compare with"
        return Finding("Stack", f"{text} ({where})", found, tuple(problems))
    pinned = locked(folder / f"{stack}.txt")
    different = [f"{name} {_version(name) or 'missing'}, locked {version}"
                 for name, version in pinned.items() if _version(name) != version]  # fmt: skip
    values = {**found, "stack": stack, "different": different}
    if not different:
        return Finding("Stack", f"{stack}: {text}; {len(pinned)} packages as locked", values, tuple(problems))
    shown = "; ".join(different[:3]) + ("; ..." if len(different) > 3 else "")
    note = f"{len(different)} packages differ from {folder / stack}.txt ({shown}): ./setup_env.sh brings them back."
    return Finding("Stack", f"{stack}: {text}; {len(different)} packages differ", values, tuple(problems), (note,))


def locked(path: Path) -> dict[str, str]:
    """Versions of a lock file that hold for this Python, by canonical name; none where there is no file."""
    if not path.exists():
        return {}
    lines = (line for line in path.read_text(encoding="utf-8").splitlines() if line[:1] not in ("", "#", " "))
    wanted = [
        requirement for line in lines if not (requirement := Requirement(line)).marker or requirement.marker.evaluate()
    ]
    return {canonicalize_name(requirement.name): str(requirement.specifier)[2:] for requirement in wanted}


def system() -> Finding:
    """The operating system."""
    return Finding("System", machine.system())


def processor(root: Path = machine.ROOT) -> Finding:
    """The processor and what it can compute with."""
    name, known = machine.processor(root)
    has = ", ".join(kind for kind, there in known.items() if there)
    problems = () if known.get("AVX", True) else (
        f"The processor ({name}) has no AVX, without which TensorFlow's packages end with 'Illegal instruction': use "
        "another machine, or let the virtual machine pass the host's processor through.",
    )  # fmt: skip
    return Finding("Processor", f"{name}{': ' if has else ''}{has}", {"name": name, **known}, problems)


def cores(root: Path = machine.ROOT) -> Finding:
    """Cores, and what a container may use of them."""
    count, limit = machine.cores(root)
    text = f"{count}" + (f", of which the container may fill {limit:g}" if limit is not None and limit < count else "")
    return Finding("Cores", text, {"count": count, "limit": limit})


def memory(root: Path = machine.ROOT) -> Finding:
    """Memory, and what a container may use of it."""
    total, available, limit = machine.memory(root)
    text = f"{_size(total)}, {_size(available)} available" + (
        f", limit of the container {_size(limit)}" if limit else ""
    )
    usable = min(available, limit or available)
    notes = () if usable >= MEMORY else (
        f"{_size(usable)} of memory can be used; a run peaks at 2 to 3 GB. Close other programs or raise the limit, or "
        "lower train.batch_size and train.shuffle_buffer.",
    )  # fmt: skip
    return Finding("Memory", text, {"total": total, "available": available, "limit": limit}, (), notes)


def disk(workspace: str) -> Finding:
    """Free space where the runs are kept and where temporary files go."""
    free = {folder: free_space(folder) for folder in (workspace, tempfile.gettempdir())}
    text = ", ".join(f"{_size(size)} free for {folder}" for folder, size in free.items())
    advice = "make room, or use another folder (--workspace, TMPDIR)."
    problems = [f"Only {_size(size)} free for {folder}: {advice}" for folder, size in free.items() if size < NO_DISK]
    notes = [f"{_size(size)} free for {folder}, which a run may fill: {advice}"
             for folder, size in free.items() if NO_DISK <= size < DISK]  # fmt: skip
    return Finding("Disk", text, {"free": free}, tuple(problems), tuple(notes))


def graphics(gpus: list[machine.Gpu], driver: str | None, root: Path = machine.ROOT) -> Finding:
    """NVIDIA's GPUs, whether TensorFlow can use them or not."""
    values = {"gpus": [{"name": gpu.name, "memory": gpu.memory} for gpu in gpus], "driver": driver}
    if not gpus:
        cards = machine.cards_without_driver(root)
        notes = () if not cards else (
            f"{cards} NVIDIA card(s) on the PCI bus without NVIDIA's driver: install it ({machine.OLDEST_DRIVER} or "
            "later), then run ./setup_env.sh.",
        )  # fmt: skip
        return Finding("GPU", "a card without NVIDIA's driver" if cards else "none found", values, (), notes)
    text = ", ".join(gpu.name + (f" ({_size(gpu.memory)})" if gpu.memory else "") for gpu in gpus)
    return Finding("GPU", f"{text}, driver {driver or 'of unknown version'}", values)


def tensorflow(found: dict[str, Any], gpus: list[machine.Gpu], driver: str | None) -> Finding:
    """What TensorFlow computes with; where it leaves a GPU unused, why.

    Args:
        found: What `finish_probe` returned.
        gpus: Those of the system.
        driver: Version of their driver.
    """
    if found["failed"]:
        told = "; ".join(f"{module}: {text}" for module, text in found["failed"].items())
        problem = f"{told}. This was in {sys.executable}: run ./setup_env.sh, and see `htr --debug doctor` otherwise."
        return Finding("TensorFlow", "cannot be used", found, (problem,))
    cuda = f"CUDA up to {found['driver_cuda']}" if found["driver_cuda"] else "no CUDA driver"
    built = f"built for CUDA {found['cuda']}, cuDNN {found['cudnn']}; the driver supports {cuda}"
    if found["gpus"]:
        names = ", ".join(f"{gpu['name']} (compute capability {gpu['capability']})" for gpu in found["gpus"])
        text = f"computes on {names}; {built}"
        if error := found.get("gpu_error"):
            problem = (
                f"TensorFlow sees the GPU, but a convolution on it fails ({error}). Update NVIDIA's driver; until then "
                "CUDA_VISIBLE_DEVICES=-1 trains on the CPU."
            )
            return Finding("TensorFlow", text, found, (problem,))
        return Finding("TensorFlow", text, found)
    if not gpus:
        return Finding("TensorFlow", "computes on the CPU", found)
    notes = [f"{gpus[0].name} is not used: {reason}" for reason in unused(found, driver)]
    return Finding("TensorFlow", f"computes on the CPU, not on the GPU; {built}", found, (), tuple(notes))


def unused(found: dict[str, Any], driver: str | None) -> list[str]:
    """Why TensorFlow leaves a GPU of the system unused, each with what to do."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return [f"CUDA_VISIBLE_DEVICES={visible!r} hides it. Unset that to train on it."]
    reasons = []
    if driver and machine.is_older(driver, machine.OLDEST_DRIVER):
        reasons.append(f"its driver {driver} is older than {machine.OLDEST_DRIVER}, which CUDA 12 needs. Update it.")
    cuda = [name for name in found["missing"] if name not in _OF_THE_DRIVER]
    if len(cuda) < len(found["missing"]) or found["driver_cuda"] is None:
        reasons.append(
            f"{' and '.join(_OF_THE_DRIVER)} of the driver cannot be loaded. Install the driver's libraries, or start "
            "the container with its GPUs (docker run --gpus all)."
        )
    elif cuda:
        reasons.append(f"{', '.join(cuda)} not found. HTR_CUDA=1 ./setup_env.sh installs CUDA's libraries.")
    told = [f"TensorFlow says: {text}" for text in found.get("log", [])]
    return reasons + told or ["TensorFlow does not say why. TF_CPP_MIN_LOG_LEVEL=0 makes it say more."]


def ports() -> Finding:
    """Whether the ports of a server are free; one that it opens on demand only is not worth a note."""
    uses = {port: use for port, (use, _) in PORTS.items()} | OPTIONAL_PORTS
    taken = [port for port in uses if _taken(port)]
    text = ", ".join(f"{port} {'taken' if port in taken else 'free'} ({use})" for port, use in uses.items())
    notes = [
        f"Port {port} of localhost is taken, perhaps by a server that runs already: `htr serve {option}=N` uses "
        "another."
        for port, (_, option) in PORTS.items() if port in taken
    ]  # fmt: skip
    return Finding("Ports", text, {"taken": taken}, (), tuple(notes))


def writing(workspace: str) -> Finding:
    """Whether the workspace and the folder of temporary files can be written."""
    problems = []
    for folder in (workspace, tempfile.gettempdir()):
        try:
            storage.check_writable(nearest(folder))
        except OSError as error:
            problems.append(
                f"{folder} cannot be written ({error.strerror}): use another folder (--workspace, TMPDIR), or give "
                "this user the right to write there."
            )
    there = "exists" if os.path.isdir(workspace) else "will be created"
    text = f"{workspace} {there}, and can be written" if not problems else f"{workspace}, see below"
    return Finding("Workspace", text, {"path": workspace, "writable": not problems}, tuple(problems))


@contextlib.contextmanager
def start_probe() -> Any:
    """A process that asks TensorFlow; it ends with the block."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0", "TF_CPP_VMODULE": "dso_loader=1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-m", "pipeline.doctor.probe"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def finish_probe(process: subprocess.Popen[str], wait: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """What TensorFlow answered.

    Args:
        process: Process of `start_probe`.
        wait: Function that is given a sentence after two seconds.

    Returns:
        What `pipeline.doctor.probe` prints, with the libraries that TensorFlow did not find as `missing` and what it
        said about GPUs as `log`; only `failed`, by module, where there is no answer.
    """
    try:
        try:
            out, log = process.communicate(timeout=2)
        except subprocess.TimeoutExpired:
            wait("Asking TensorFlow what it computes with ...")
            out, log = process.communicate(timeout=_PATIENCE)
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"failed": {"tensorflow": f"no answer in {_PATIENCE:.0f} s"}}
    except (ValueError, IndexError):
        last = (log.strip().splitlines() or [""])[-1]
        return {"failed": {"tensorflow": f"its process ended with code {process.returncode} {last}".strip()}}
    found["missing"] = list(dict.fromkeys(_MISSING.findall(log)))
    found["log"] = list(dict.fromkeys(_REASONS.findall(log)))
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _taken(port: int) -> bool:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"
