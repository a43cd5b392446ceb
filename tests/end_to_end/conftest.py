"""A small dataset of their own for the tests of a file, which may change it; runs that are short."""

import contextlib
import json
import shutil
from typing import Any, NamedTuple

import pytest

from components.common import run_metadata
from components.report import summary
from pipeline import cli

# Seconds of training: enough to run every step, not to read. What a trained model reads, test_training.py checks.
FAST = ["train.epochs=1", "model.filters=[8,8,8]", "model.recurrent_units=8", "model.recurrent_layers=1",
        "gate.max_cer=null"]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory, sample_data):
    folder = tmp_path_factory.mktemp("data") / "data"
    shutil.copytree(sample_data, folder)
    return folder


class Ran(NamedTuple):
    """What a run has come to: exit code, the JSON line, the text for people, states of the steps, standard output."""

    code: int
    outcome: dict[str, Any]
    err: str
    states: dict[str, str]
    out: str


def run(data, workspace, capture, *settings):
    """Runs the pipeline in this process; `capture` is pytest's capsys or capfd."""
    options = (f"--set={setting}" for setting in (*FAST, *settings))
    capture.readouterr()  # what was printed before
    code = cli.main(["run", "--data", str(data), "--workspace", str(workspace), "--json", *options])
    out, err = capture.readouterr()
    states = {}
    with contextlib.suppress(run_metadata.NoSuchRun):
        states = {step.name: step.state for step in summary.read(str(workspace), "htr").steps}
    return Ran(code, json.loads(out.splitlines()[-1]) if out else {}, err, states, out)
