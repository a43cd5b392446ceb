"""What ./setup_env.sh decides and installs, on machines made of a few files; nothing is downloaded."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = (
    "setup_env.sh", "setup.py", "pyproject.toml", "client/pyproject.toml", "client/htr_client/version.py",
    "requirements",
)  # fmt: skip
PROPRIETARY = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Thu Oct 19 18:56:32 UTC 2023\nGCC version: 12.2.0\n"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (dvs-builder@U16-I1)\n"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
STACK = "portable" if sys.version_info < (3, 11) else "current"


class Checkout:
    """A checkout with an environment whose Python installs nothing and whose uv writes down what it is asked for."""

    def __init__(self, folder: Path):
        self.folder, self.system = folder / "checkout", folder / "system"
        self.asked = folder / "asked"
        for name in FILES:
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy2)(ROOT / name, target)
        made, libraries = folder / "made", f"lib/python{PYTHON}/site-packages/nvidia"
        program(made / "bin/python", f'[ "$2" = pip ] || exec {sys.executable} "$@"')
        program(made / "bin/uv", f'echo "$@" >> {self.asked}')
        for name in ("cusolver/lib/libcusolver.so.11", "cusparse/lib/libcusparse.so.12"):
            program(made / libraries / name, "")
        shutil.copytree(made, self.folder / ".venv")
        self.libraries = self.folder / ".venv" / libraries
        self.python = folder / "python"
        made_anew = f'echo "$@" >> {self.asked}; rm -rf .venv; cp -r {made} .venv'
        program(self.python, f'[ "$2" = venv ] || exec {sys.executable} "$@"\n{made_anew}')
        (self.system / "dev").mkdir(parents=True)

    def driver(self, version: str, text: str = PROPRIETARY, device: str | None = "nvidia0") -> None:
        """Puts an NVIDIA driver into the machine, and a GPU's device file."""
        path = self.system / "proc/driver/nvidia/version"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(version))
        if device:
            (self.system / "dev" / device).touch()

    def set_up(self, **variables: str | None) -> tuple[str, str]:
        """Runs set-up. Returns what it says and what it installs, both empty where nothing was to be done."""
        self.asked.write_text("")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HTR_")}
        environment |= {"HTR_SYSTEM_ROOT": str(self.system), "HTR_PYTHON": str(self.python), "HTR_STACK": STACK}
        environment = {name: value for name, value in (environment | variables).items() if value is not None}
        done = subprocess.run(
            ["sh", "./setup_env.sh"], cwd=self.folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == (2 if "HTR_CUDA=" in done.stderr and "it is 0" in done.stderr else 0), done.stderr
        return done.stderr, self.asked.read_text()


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_without_a_gpu_cuda_is_left_out_and_said_to_be(checkout):
    told, installed = checkout.set_up()
    assert "CUDA's libraries for a GPU: no (no NVIDIA driver found" in told
    assert f"requirements/{STACK}.txt" in installed and "cuda" not in installed
    assert checkout.set_up() == ("", "")


def test_a_python_is_found_without_a_home(checkout):
    program(checkout.folder / "bin" / f"python{PYTHON}", f'exec {sys.executable} "$@"')
    found = f"{checkout.folder / 'bin'}:{os.environ['PATH']}"
    assert f"requirements/{STACK}.txt" in checkout.set_up(HTR_PYTHON=None, HOME=None, PATH=found)[1]


def made_anew(installed):
    return "-m venv --clear .venv\n" in installed and f"requirements/{STACK}.txt" in installed


def test_an_environment_whose_interpreter_is_gone_is_made_anew(checkout):
    assert not made_anew(checkout.set_up()[1])
    python = checkout.folder / ".venv/bin/python"
    python.unlink()
    python.symlink_to("/nowhere/python")
    assert made_anew(checkout.set_up()[1])
    assert checkout.set_up() == ("", "")


def test_an_environment_that_was_interrupted_before_it_had_pip_is_made_anew(checkout):
    program(checkout.folder / ".venv/bin/python", f'[ "$2" != pip ] || exit 1\nexec {sys.executable} "$@"')
    assert made_anew(checkout.set_up()[1])
    assert checkout.set_up() == ("", "")


@pytest.mark.parametrize("how", [shutil.move, shutil.copytree])
def test_a_clone_that_was_moved_or_copied_gets_an_environment_of_its_own(checkout, how):
    checkout.set_up()
    elsewhere = checkout.folder.with_name("elsewhere")
    how(checkout.folder, elsewhere)
    checkout.folder = elsewhere
    assert made_anew(checkout.set_up()[1])
    assert checkout.set_up() == ("", "")


def test_a_linked_environment_is_left_to_the_clone_that_has_it(checkout):
    checkout.set_up()
    other = checkout.folder.with_name("other")
    shutil.copytree(checkout.folder, other, ignore=shutil.ignore_patterns(".venv"))
    (other / ".venv").symlink_to(checkout.folder / ".venv")
    checkout.folder = other
    assert checkout.set_up() == ("", "")


@pytest.mark.parametrize("text", [PROPRIETARY, OPEN])
@pytest.mark.parametrize("version", ["525.60.13", "535.129.03", "1000.0"])
def test_a_gpu_gets_cuda(checkout, version, text):
    checkout.driver(version, text)
    told, installed = checkout.set_up()
    assert f"CUDA's libraries for a GPU: yes (NVIDIA driver {version})" in told
    assert f"--requirement requirements/{STACK}.txt --requirement requirements/{STACK}-cuda.txt" in installed
    assert checkout.set_up() == ("", "")


@pytest.mark.parametrize("version", ["525.60.11", "470.223.02", "96.43"])
def test_a_driver_that_is_too_old_is_named_with_what_to_do(checkout, version):
    checkout.driver(version)
    told, installed = checkout.set_up()
    assert f"no (the NVIDIA driver {version} is older than 525.60.13, which CUDA 12 needs: update it" in told
    assert "cuda" not in installed


def test_a_container_without_its_gpus_is_told_so(checkout):
    checkout.driver("550.54.14", device=None)
    told, installed = checkout.set_up()
    assert "there is no /dev/nvidia0; a container must be started with its GPUs" in told and "cuda" not in installed


@pytest.mark.parametrize(("version", "cuda"), [("551.61", "yes"), ("472.12", "no")])
def test_wsl_has_its_driver_in_a_folder_of_its_own(checkout, version, cuda):
    (checkout.system / "dev/dxg").touch()
    assert "no NVIDIA driver found" in checkout.set_up()[0]  # as on a machine with another maker's GPU
    program(checkout.system / "usr/lib/wsl/lib/nvidia-smi", f"echo {version}")
    assert f"CUDA's libraries for a GPU: {cuda} (" in checkout.set_up()[0]


def test_a_driver_that_does_not_answer_is_none(checkout):
    program(checkout.system / "usr/lib/wsl/lib/nvidia-smi", "echo NVIDIA-SMI has failed, no driver; exit 9")
    assert "CUDA's libraries for a GPU: no" in checkout.set_up()[0]


def test_a_card_that_is_plugged_in_runs_set_up_again(checkout):
    checkout.set_up()
    checkout.driver("550.54.14")
    assert "cuda.txt" in checkout.set_up()[1]
    assert checkout.set_up() == ("", "")


def test_the_switch_decides_and_is_kept(checkout):
    told, installed = checkout.set_up(HTR_CUDA="1")
    assert "yes (HTR_CUDA=1 asks for that)" in told and f"{STACK}-cuda.txt" in installed
    assert checkout.set_up() == checkout.set_up(HTR_CUDA="1") == ("", "")
    told, installed = checkout.set_up(HTR_CUDA="0")
    assert "no (HTR_CUDA=0 asks for that)" in told and "cuda.txt" not in installed
    assert "pip uninstall --quiet nvidia-cublas-cu12" in installed
    checkout.driver("550.54.14")
    assert checkout.set_up() == ("", "")
    assert "yes (NVIDIA driver 550.54.14)" in checkout.set_up(HTR_CUDA="auto")[0]


def test_cusolver_is_where_tensorflow_looks(checkout):
    link = checkout.libraries / "cusparse/lib/libcusolver.so.11"
    checkout.set_up(HTR_CUDA="1")
    assert link.resolve() == checkout.libraries / "cusolver/lib/libcusolver.so.11" and link.exists()
    checkout.set_up(HTR_CUDA="0")
    assert not link.is_symlink()


def test_a_switch_that_is_neither_is_refused(checkout):
    told, installed = checkout.set_up(HTR_CUDA="yes")
    assert "HTR_CUDA=yes: it is 0 (without CUDA), 1 (with CUDA) or auto" in told and not installed
