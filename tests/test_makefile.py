"""Targets of the Makefile in a clone whose path has spaces; nothing is downloaded or run."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="there is no make")


@pytest.fixture
def clone(tmp_path):
    """A clone whose Python and uv write down what they are given, an argument a line."""
    folder = tmp_path / "a clone"
    for name in ("setup_env.sh", *(f".venv/bin/{tool}" for tool in ("python", "uv", "ruff", "lint-imports", "mypy"))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('#!/bin/sh\nprintf "%s\\n" "$@" >> asked\n')
        (folder / name).chmod(0o755)
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copytree(ROOT / "requirements", folder / "requirements")
    return folder


def called(clone, *arguments):
    # Not the variables of a make that runs these tests.
    alone = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "SELECT")}
    return subprocess.run(["make", *arguments], cwd=clone, env=alone, capture_output=True, text=True)


def make(clone, *arguments):
    done = called(clone, *arguments)
    assert done.returncode == 0, done.stderr
    return (clone / "asked").read_text().splitlines()


def test_airflow_is_installed_beside_the_clones_other_files(clone):
    environment = clone / ".venv-airflow3"
    environment.mkdir()  # as uv does
    asked = make(clone, "airflow-env")
    assert str(environment) in asked and f"{environment}/bin/python" in asked
    (clone / "asked").unlink()
    assert "venv" not in make(clone, "airflow-env"), "installed already"


def test_each_test_is_run_by_one_of_two_commands(clone):
    chosen = []
    for target in ("test", "test-slow"):
        asked = make(clone, target)
        (clone / "asked").unlink()
        assert asked[asked.index("-m") + 1] == "pytest"
        chosen.append(asked[len(asked) - 1 - asked[::-1].index("-m") + 1])
    assert chosen == ["not slow and not deployment", "slow and not deployment"]


def test_benchmarks_get_their_folders_whole(clone):
    for version in ("9", "17", "tmp8"):
        (clone / "my work/serving_model/htr" / version).mkdir(parents=True)
    asked = make(clone, "bench", "DATA=my data", "WORKSPACE=my work")
    assert {"my data", "my data/images", "my work", "my work/serving_model/htr", "my work/serving_model/htr/17"} < {
        *asked
    }
    assert f"--batching_parameters_file={clone}/benchmarks/batching.config" in asked


@pytest.mark.parametrize("target", ["base-model", "base-line-finder"])
def test_a_training_of_what_is_shipped_needs_the_real_sets(clone, target):
    assert "my sets" in make(clone, target, "SETS=my sets")
    done = called(clone, target)
    assert done.returncode and "SETS=... names the folder" in done.stderr


def test_benchmarks_of_a_workspace_without_a_version_end_at_once(clone):
    done = called(clone, "bench", "WORKSPACE=nowhere")
    assert done.returncode and "There is no pushed version in nowhere/serving_model/htr" in done.stderr
    assert "pipeline.demo" not in (clone / "asked").read_text()


def test_the_audit_takes_each_locked_version_once_whatever_python_it_is_for(clone):
    """pip-audit passes over lines that are not for the Python that it runs on, and refuses two versions in one file."""
    copies = 'while [ $# -gt 0 ]; do [ "$1" != --requirement ] || cp "$2" "audited-${2##*/}"; shift; done'
    (clone / ".venv/bin/uv").write_text(f"#!/bin/sh\n{copies}\n")
    done = called(clone, "audit")
    assert done.returncode == 0, done.stderr
    lists = [path.read_text().splitlines() for path in clone.glob("audited-*")]
    for lines in lists:
        names = [line.split("==")[0].split("[")[0] for line in lines]
        assert len(set(names)) == len(names) > 1 and not [line for line in lines if ";" in line or line[0] in " #"]
    locked = {
        line.split(" ;")[0]
        for name in ("portable", "current", "portable-cuda", "current-cuda", "airflow", "airflow2")
        for line in (ROOT / f"requirements/{name}.txt").read_text().splitlines()
        if line[0] not in " #"
    }
    assert sorted(line for lines in lists for line in lines) == sorted(locked)


def test_an_audit_that_finds_something_goes_on_and_fails(clone):
    (clone / ".venv/bin/uv").write_text('#!/bin/sh\n[ "$1" != tool ] || { echo; false; } >> asked\n')
    done = called(clone, "audit")
    assert done.returncode and "Vulnerabilities" in done.stderr and (clone / "asked").read_text().count("\n") > 1


def test_a_locked_package_can_be_upgraded(clone):
    """Without that its pin stays, also after the audit has named it."""
    asked = make(clone, "lock", "UPGRADE=starlette tornado")
    for name in ("starlette", "tornado"):
        assert asked.count(name) == asked.count("compile") > 1 and asked[asked.index(name) - 1] == "--upgrade-package"
    (clone / "asked").unlink()
    assert "--upgrade-package" not in make(clone, "lock")
