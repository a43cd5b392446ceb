"""After the first run: the notebook, the page, logs, drift against the run, and a drifted span in the pipeline."""

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from htr_client import HtrClient, RequestLog
from pipeline import cli
from tests.end_to_end.conftest import FAST

pytestmark = [pytest.mark.slow, pytest.mark.either_stack]

# Untrained networks: which of two reads better is chance.
SETTINGS = [*FAST, "gate.max_cer_increase=null"]
NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def notebook(tmp_path_factory, data):
    """The executed notebook, and the workspace that it made."""
    import nbclient
    import nbformat

    workspace = tmp_path_factory.mktemp("notebook") / "workspace"
    made = nbformat.read(NOTEBOOK, as_version=4)
    environment = {
        **os.environ, "HTR_REPOSITORY": str(NOTEBOOK.parents[1]), "HTR_DATA": str(data),
        "HTR_WORKSPACE": str(workspace), "HTR_SETTINGS": " ".join(SETTINGS),
    }  # fmt: skip
    client = nbclient.NotebookClient(made, timeout=600, resources={"metadata": {"path": str(workspace.parent)}})
    client.execute(env=environment)
    return made, workspace


@pytest.fixture(scope="module")
def workspace(notebook):
    return notebook[1]


@contextlib.contextmanager
def served(workspace, *flags):
    """A running `htr serve`; yields the line that it prints when it is ready."""
    command = [sys.executable, "-m", "pipeline.cli", "serve", "--workspace", str(workspace), "--port=0", *flags]
    with open(workspace / "server.log", "ab") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        yield process.stdout.readline()
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_notebook_runs_and_shows_the_report(notebook):
    made, workspace = notebook
    text = json.dumps(made)
    assert "accepted for train" in text and "Blessed: this model may ship." in text
    assert list(workspace.glob("serving_model/htr/*/saved_model.pb"))
    lines = made.cells[-1].outputs[0]["text"].splitlines()
    assert any('"confidence"' in line for line in lines)


def test_notebook_is_kept_without_outputs():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells)


def test_notebook_checks_the_data_with_the_settings_of_the_run(tmp_path, monkeypatch):
    """They may name the columns."""
    commands = []

    def run(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "{}", "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("HTR_DATA", str(tmp_path))
    monkeypatch.setenv("HTR_SETTINGS", "data.image_column=a data.text_column=b")
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    cell_of = {cell["id"]: "".join(cell["source"]) for cell in cells}
    exec("\n".join(cell_of[name] for name in ("cell-2", "cell-4", "cell-6")), {})
    _, check, train = commands
    assert (check[3], train[3]) == ("check", "run")
    assert check[-2:] == train[-2:] == ["--set=data.image_column=a", "--set=data.text_column=b"]


def test_page_log_drift_and_review_work_on_the_served_model(workspace, data, tmp_path, capsys):
    images = sorted((data / "images").glob("*.jpg"))[:80]
    with served(workspace, "--ui", "--ui_port=-1") as ready:
        grpc, page = re.search(r"grpc=(\S+) ui=http://(\S+)", ready).groups()
        log = RequestLog(tmp_path / "log", rate=1)
        with HtrClient(grpc, log=log) as client:
            answers = [answer for answer in client.transcribe_many(images) if answer.ok]
            log.close()
        greys = [cv2.imread(answer.source, cv2.IMREAD_GRAYSCALE) for answer in answers]
        turned = RequestLog(tmp_path / "inverted", rate=1)
        with HtrClient(grpc, log=turned) as client:
            list(client.transcribe_many(255 - grey for grey in greys))
        turned.close()
        connection = http.client.HTTPConnection(page, timeout=60)
        connection.request("POST", "/transcribe", Path(answers[0].source).read_bytes(), {"Content-Type": "image/jpeg"})
        shown = json.loads(connection.getresponse().read())
        assert (shown["text"], shown["version"]) == (answers[0].text, answers[0].version)
        arguments = [
            "review",
            *map(str, images),
            "--server",
            grpc,
            "--output",
            str(tmp_path / "review"),
            "--below",
            "1",
        ]
        assert cli.main([*arguments, "--limit", "5"]) == 0
    capsys.readouterr()
    assert len(list((tmp_path / "review" / "images").iterdir())) == 5
    assert log.counts.written == len(answers)
    moved = {}
    for folder in ("log", "inverted"):
        assert cli.main(["drift", "--data", str(tmp_path / folder), "--workspace", str(workspace), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["kind"] == "skew" and "confidence" in [measure["name"] for measure in found["measures"]]
        moved[folder] = set(found["moved"])
    assert "ink_share" in moved["inverted"] and not {"ink_share", "sharpness", "height"} & moved["log"]


def test_drifted_span_stops_the_run_when_asked_and_is_a_warning_otherwise(workspace, data, capfd):
    from components.report import summary

    for path in (data / "images").iterdir():
        grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if grey is not None:
            cv2.imwrite(str(path), cv2.GaussianBlur(grey, (0, 0), 2))
    arguments = [
        "run",
        "--data",
        str(data),
        "--workspace",
        str(workspace),
        *(f"--set={setting}" for setting in SETTINGS),
    ]
    assert cli.main([*arguments, "--set=drift.fail=true"]) == cli.DRIFT
    error = capfd.readouterr().err.split("error: ")[1]
    assert "drifted from that of the run before" in error and "sharpness" in error and "width" not in error
    states = {step.name: step.state for step in summary.read(str(workspace), "htr").steps}
    assert states["ExampleValidator"] == "FAILED" and "Transform" not in states

    assert cli.main(arguments) == 0
    warned = capfd.readouterr().err
    assert "data warning: sharpness (train)" in warned
    report = summary.read(str(workspace), "htr").report
    assert any("sharpness" in f["text"] for f in report["findings"] if f["kind"] == "anomaly")

    written = workspace / "runs.prom"
    assert cli.main(["runs", "--workspace", str(workspace), "--prometheus", str(written)]) == 0
    drift, allowed = (
        dict(re.findall(rf'htr_run_{name}{{model="htr",run="([^"]+)",measure="sharpness"}} (\S+)', written.read_text()))
        for name in ("drift", "drift_allowed")
    )
    # The first run had nothing to compare with.
    newest = summary.read(str(workspace), "htr").name
    assert newest in drift and drift.keys() == allowed.keys() and float(drift[newest]) > float(allowed[newest])
    assert f'htr_run_cer{{model="htr",run="{newest}"}} ' in written.read_text()
