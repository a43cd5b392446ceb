"""With HTR_NO_SKIPS=1, as in CI, a skipped test fails unless tests/allowed_skips.txt allows it.

A test that is skipped where it could run proves nothing, and nobody reads the list of skips of a green run.
"""

import os
from pathlib import Path

import pytest

ALLOWED = Path(__file__).with_name("allowed_skips.txt")


def allowed() -> list[str]:
    """Parts of the reasons of skips that are allowed; lines with # are comments."""
    lines = [line.strip() for line in ALLOWED.read_text("utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    if os.environ.get("HTR_NO_SKIPS") != "1" or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not any(part in reason for part in allowed()):
        report.outcome = "failed"
        report.longrepr = (
            f"{report.nodeid} was skipped in CI: {reason.removeprefix('Skipped: ')}\n"
            "Make it run (tests/tools.sh installs programs, requirements/common.in lists packages), or allow this skip "
            f"in tests/{ALLOWED.name}, with the reason."
        )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    report = yield
    _refuse(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(collector):
    report = yield
    _refuse(report)
    return report
