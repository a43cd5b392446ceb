"""CI fails on a test that is skipped without need."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import airflow_deployment, no_skips

pytestmark = pytest.mark.either_stack

ROOT = Path(__file__).parent.parent
SKIPPED = """
import pytest

def test_runs():
    pass

def test_of_a_skip():
    pytest.skip({reason!r})

@pytest.mark.skipif(True, reason={reason!r})
def test_of_a_mark():
    pass

@pytest.fixture
def tool():
    pytest.skip({reason!r})

def test_of_a_fixture(tool):
    pass

@pytest.mark.xfail(strict=True)
def test_that_is_known_to_fail():
    assert False
"""
MODULE = "import pytest\npytest.importorskip('no_such_module_of_anybody')\n"


def outcomes(folder, code, no_skips="1", *options):
    """Exit code and output of pytest on one file, with the check."""
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -rs\n")
    (folder / "test_it.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.no_skips", "-c", folder / "pytest.ini", *options, folder],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "HTR_NO_SKIPS": no_skips},
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.mark.parametrize("options", [(), ("-n1",)], ids=["one process", "workers"])
def test_a_skip_without_need_fails(tmp_path, options):
    code, output = outcomes(tmp_path, SKIPPED.format(reason="no such tool"), "1", *options)
    assert code == 1 and "1 failed, 1 passed, 1 xfailed, 2 errors" in output
    assert "was skipped in CI: no such tool" in output and "allowed_skips.txt" in output


def test_a_module_that_is_skipped_fails(tmp_path):
    code, output = outcomes(tmp_path, MODULE)
    assert code and "no_such_module_of_anybody" in output and "was skipped in CI" in output


def test_what_is_allowed_may_be_skipped(tmp_path):
    code, output = outcomes(tmp_path, SKIPPED.format(reason=f"because {no_skips.allowed()[0]}"))
    assert code == 0 and "1 passed, 3 skipped, 1 xfailed" in output


def test_ci_fails_where_the_deployment_of_airflow_cannot_be_tested():
    """Else its job is green without that test, on a system whose packages have other names."""
    reason = airflow_deployment.why_skipped(["PostgreSQL", "MariaDB"])
    assert not [part for part in no_skips.allowed() if part in reason]
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    assert jobs["airflow"]["env"]["HTR_NO_SKIPS"] == "1"


def test_outside_of_ci_skips_are_skips(tmp_path):
    code, output = outcomes(tmp_path, SKIPPED.format(reason="no such tool"), no_skips="")
    assert code == 0 and "1 passed, 3 skipped, 1 xfailed" in output


def test_each_allowed_skip_is_one_that_a_test_has():
    """What no test says any more goes from the list."""
    texts = "".join(path.read_text("utf-8") for path in no_skips.ALLOWED.parent.rglob("*.py"))
    assert no_skips.allowed() and not [part for part in no_skips.allowed() if part not in texts]
