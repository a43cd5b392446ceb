"""GPUs that the system tells of, without TensorFlow, and the word about those that TensorFlow does not use."""

from pathlib import Path

import pytest

from components.trainer.devices import system_gpus, unused_gpus

SMI = """GPU 0: NVIDIA GeForce RTX 4090 (UUID: GPU-1c2d)
GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-77aa)
  MIG 1g.10gb     Device  0: (UUID: MIG-5e)
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a program nvidia-smi into a root folder of the test's own."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")

    def write(script: str) -> str:
        path = tmp_path / "usr/bin/nvidia-smi"
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{script}")
        path.chmod(0o755)
        return str(tmp_path)

    return write


def with_proc(root: Path) -> str:
    for number, model in enumerate(("NVIDIA L4", "Tesla T4")):
        folder = root / f"proc/driver/nvidia/gpus/0000:0{number}:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 11\n")
    return str(root)


def test_nvidia_smi_names_them(program):
    assert system_gpus(program(f"cat <<END\n{SMI}END\n")) == ["NVIDIA GeForce RTX 4090", "NVIDIA A100-SXM4-80GB"]


def test_proc_names_them_where_nvidia_smi_is_missing_or_fails(tmp_path, program):
    root = with_proc(tmp_path)
    assert system_gpus(root) == ["NVIDIA L4", "Tesla T4"]
    assert system_gpus(program("echo NVIDIA-SMI has failed; exit 9")) == ["NVIDIA L4", "Tesla T4"]


def test_device_files_are_enough_and_nothing_is_none(tmp_path):
    assert system_gpus(str(tmp_path)) == []
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    assert system_gpus(str(tmp_path)) == ["NVIDIA GPU"]


def test_what_is_said_of_unused_ones(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert unused_gpus([]) is None
    told = unused_gpus(["NVIDIA L4"])
    assert "NVIDIA L4" in told and "./setup_env.sh" in told and "htr doctor" in told
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert "CUDA_VISIBLE_DEVICES='-1' hides" in unused_gpus(["NVIDIA L4"])
