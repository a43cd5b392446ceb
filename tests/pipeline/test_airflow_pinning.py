"""One run in Airflow, one configuration: what is compiled during a run counts for the next one."""

import json
import os

import pytest

from htr_client.version import __version__
from pipeline import cli
from pipeline.runners import airflow_runner


@pytest.fixture
def attempt(tmp_path, monkeypatch):
    """Starts a step as its task does, by the file that was compiled last; returns the settings that it goes by."""
    compiled, used, workspace = tmp_path / "dags" / "htr.json", [], tmp_path / "workspace"
    compiled.parent.mkdir()

    def attempt(step, run="run1", tries="2", settings=None, fails=False, release=__version__, code=None):
        def run_step(document, *_):
            used.append(document["pipeline"])
            if fails:
                raise RuntimeError("out of memory")

        if settings:
            document = {"name": "htr", "release": release, "workspace": str(workspace), "pipeline": settings}
            compiled.write_text(json.dumps(document))
        monkeypatch.setattr(airflow_runner, "run_step", run_step)
        monkeypatch.setattr("sys.argv", ["airflow_runner", str(compiled), step, run, tries])
        assert airflow_runner.main() == (int(fails) if code is None else code)
        return used[-1]

    return attempt


def test_a_run_keeps_the_settings_that_it_began_with(attempt, capsys):
    assert attempt("SchemaGen", settings="first") == "first"
    assert "goes on with the settings" not in capsys.readouterr().out
    assert attempt("Trainer", settings="second", fails=True) == "first"
    assert "goes on with the settings that it began with. Others have been compiled since" in capsys.readouterr().out
    assert attempt("Trainer") == attempt("Evaluator") == "first"
    assert attempt("SchemaGen", run="run2") == "second"


def test_a_cleared_task_and_those_after_it_take_what_is_compiled_then(attempt):
    attempt("SchemaGen", settings="first")
    attempt("Trainer", fails=True)
    assert attempt("Trainer", settings="second", tries="3", fails=True) == "second"  # cleared after it had failed
    assert attempt("Trainer", settings="third", tries="3") == "second"  # which is tried again
    assert attempt("Evaluator") == "second"
    assert attempt("Evaluator", tries="3") == "third"  # cleared after it had succeeded
    # `airflow dags test` with a date deletes the run of that date, and begins another one of the same id.
    assert attempt("SchemaGen", settings="fourth") == attempt("Trainer") == "fourth"


def test_steps_of_another_release_are_refused_and_those_of_a_cleared_task_are_not(attempt, capsys):
    attempt("SchemaGen", settings="first")
    assert attempt("SchemaGen", run="run2", settings="old", release="0.0.9", code=2) == "first"
    assert "compiled by htr 0.0.9, and" in capsys.readouterr().out
    assert attempt("Trainer", run="run2", settings="new", code=2) == "first"  # and goes on as it began
    assert attempt("SchemaGen", run="run2", tries="3") == attempt("Trainer", run="run2", tries="3") == "new"


def test_a_step_that_was_compiled_during_a_run_is_passed_over_in_it(tmp_path, monkeypatch, capsys):
    compiled = tmp_path / "htr.json"
    document = {"name": "htr", "release": __version__, "workspace": str(tmp_path / "workspace"), "pipeline": {}}
    compiled.write_text(json.dumps(document))
    monkeypatch.setattr("sys.argv", ["airflow_runner", str(compiled), "Tuner", "run1", "2"])
    assert airflow_runner.main() == 0
    assert "This run began without the step Tuner" in capsys.readouterr().out


@pytest.mark.parametrize(("connection", "expected"), [("mlmd", "Airflow's connection mlmd"), (None, "aside")])
def test_a_workspace_whose_runs_are_noted_elsewhere_lacks_nothing(tmp_path, monkeypatch, capsys, connection, expected):
    workspace, compiled = tmp_path / "workspace", tmp_path / "htr.json"
    (workspace / "pipeline" / "SchemaGen").mkdir(parents=True)
    airflow = {"metadata_connection": connection}
    document = {"name": "htr", "release": __version__, "workspace": str(workspace), "airflow": airflow, "pipeline": {}}
    compiled.write_text(json.dumps(document))
    monkeypatch.setattr("sys.argv", ["airflow_runner", str(compiled), "SchemaGen", "run1", "2"])
    assert airflow_runner.main() == 0
    assert cli.main(["runs", "--workspace", str(workspace)]) == cli.ERROR
    error = capsys.readouterr().err
    assert expected in error and ("aside" in error) == (connection is None)


def test_old_runs_are_forgotten(attempt, tmp_path):
    for number in range(25):
        attempt("SchemaGen", run=f"run{number}", settings="first")
        for folder in (tmp_path / "workspace" / "airflow" / "htr").iterdir():  # file systems have coarse clocks
            status = (folder / "pipeline.json").stat()
            os.utime(folder / "pipeline.json", (status.st_atime, status.st_mtime - 60))
    assert len(list((tmp_path / "workspace" / "airflow" / "htr").iterdir())) == 20
    assert attempt("Trainer", run="run24", settings="second") == "first"
