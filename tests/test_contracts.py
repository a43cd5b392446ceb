"""The import contracts of pyproject.toml hold, a broken one is found, and no file is too long to have one job."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("benchmarks", "pipeline", "components", "serving", "client/htr_client")
MOST_LINES = 450


def lint(tree):
    """What `make lint` says of a tree: exit code and output."""
    command = (ROOT / "Makefile").read_text("utf-8").split("lint-imports ")[1].split("\n")[0].split()
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), *command, "--config", ROOT / "pyproject.toml"],
        cwd=tree, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": f"{tree}:{tree / 'client'}"},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the code, to be broken."""
    copy = tmp_path_factory.mktemp("tree")
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            target = copy / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return copy


def test_contracts_hold(tree):
    code, output = lint(tree)
    assert code == 0, output


@pytest.mark.parametrize(
    ("file", "line", "found"),
    [
        ("serving/status.py", "import components.common.storage", "serving.status -> components.common.storage"),
        ("components/common/storage.py", "import pipeline.cli", "components.common.storage -> pipeline.cli"),
        ("client/htr_client/errors.py", "import serving.status", "htr_client.errors -> serving.status"),
        ("client/htr_client/errors.py", "import tensorflow", "htr_client.errors -> tensorflow"),
        ("serving/status.py", "def f():\n    import tfx.types", "serving.status -> tfx"),
    ],
)
def test_an_arrow_upwards_is_found(tree, file, line, found):
    path = tree / file
    before = path.read_text("utf-8")
    path.write_text(f"{before}\n{line}\n")
    try:
        code, output = lint(tree)
    finally:
        path.write_text(before)
    assert code == 1 and found in output


def test_no_file_is_too_long():
    lines = {
        str(path.relative_to(ROOT)): path.read_text("utf-8").count("\n")
        for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")
    }  # fmt: skip
    assert len(lines) > 100 and not {path: count for path, count in lines.items() if count > MOST_LINES}
