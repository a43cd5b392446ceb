"""The DAG in a real Airflow. `make airflow-test` sets it up and runs this; other runs skip where it is missing."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from components.common.versions import list_versions
from components.common.workspace import METADATA_FILE
from pipeline import cli
from pipeline.demo.airflow import AIRFLOW, SETTINGS, run_dag
from pipeline.runners import airflow_runner, local_runner
from pipeline.runners.airflow_runner import METADATA_VARIABLE

# Airflow starts a process for each step, which on a busy machine takes more than the usual limit.
pytestmark = pytest.mark.timeout(1800)
needs_airflow = pytest.mark.skipif(not AIRFLOW.exists(), reason=f"no {AIRFLOW}: `make airflow-test` installs it")
STEPS = {
    "SchemaGen", "HandwritingExampleGen", "StatisticsGen", "ExampleValidator", "Transform", "Trainer", "LanguageModel",
    "Baseline", "Evaluator", "RunReport", "Gate", "ServingCheck", "Pusher",
}  # fmt: skip


def compile_dag(folder: Path, data: Path | str, *settings: str) -> int:
    overrides = [f"--set={setting}" for setting in [*SETTINGS, *settings]]
    arguments = ["--data", str(data), "--workspace", str(folder / "workspace"), *overrides]
    return cli.main(["compile", "airflow", str(folder / "dags"), *arguments])


def in_airflow(folder: Path, code: str, **environment: str) -> str:
    """Runs Python in Airflow's environment, where `dag` is the compiled DAG; returns what it prints last."""
    loading = """
import importlib.util, json, sys, types
spec = importlib.util.spec_from_file_location("htr", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
dag = module.dag
assert "tensorflow" not in sys.modules
"""
    done = subprocess.run(
        [AIRFLOW.with_name("python"), "-c", loading + code, str(folder / "dags" / "htr.py")],
        env={**os.environ, "AIRFLOW_HOME": str(folder / "home"), **environment},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A compiled pipeline, with settings of all kinds, whose interpreter is a script that ends as it is told."""
    folder = tmp_path_factory.mktemp("compiled")
    settings = [
        "airflow.schedule='@daily'", "airflow.retries=5", "airflow.pools={Trainer: gpu}",
        "airflow.queues={Trainer: big}", "airflow.metadata_connection=htr_metadata", "airflow.start_date=2026-02-03",
    ]  # fmt: skip
    (folder / "data").mkdir()
    assert compile_dag(folder, folder / "data", *settings) == 0
    interpreter = folder / "python.sh"
    interpreter.write_text('#!/bin/sh\necho "$HTR_METADATA_DATABASE" >"$0.database"\necho "$@" >"$0.arguments"\n'
                           'echo working\necho "the last words"\nexit "$EXIT_CODE"\n')  # fmt: skip
    interpreter.chmod(0o755)
    document = folder / "dags" / "htr.json"
    document.write_text(json.dumps({**json.loads(document.read_text()), "python": str(interpreter)}))
    return folder


@pytest.mark.slow
def test_the_dag_has_the_steps_and_edges_of_the_pipeline(compiled):
    upstream = json.loads((compiled / "dags" / "htr.json").read_text())["upstream"]
    assert upstream.keys() >= STEPS
    assert set(upstream["Evaluator"]) >= {"HandwritingExampleGen", "LanguageModel", "Baseline"}
    assert "Gate" in upstream["ServingCheck"] and "ServingCheck" in upstream["Pusher"]


@pytest.mark.slow
@pytest.mark.either_stack
def test_steps_that_do_not_exist_are_refused(tmp_path, capsys):
    assert compile_dag(tmp_path, tmp_path, "airflow.pools={Training: gpu}") == cli.USAGE
    assert "airflow.pools: no step Training; there are" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.either_stack
def test_the_dag_of_another_workspace_is_not_replaced_without_a_word(tmp_path, capfd):
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "htr.json").write_text('{"workspace": "/srv/other"}')
    assert compile_dag(tmp_path, "s3://bucket/names") == 0
    assert "whose workspace was /srv/other." in " ".join(capfd.readouterr().err.split())
    assert compile_dag(tmp_path, "s3://bucket/names") == 0
    assert "Warning" not in capfd.readouterr().err


@needs_airflow
@pytest.mark.slow
@pytest.mark.either_stack
def test_settings_reach_airflow(compiled):
    code = """
tasks = {t.task_id: [t.pool, t.queue, t.retries, sorted(t.upstream_task_ids)] for t in dag.tasks}
schedule = dag.schedule if hasattr(dag, "schedule") else dag.schedule_interval  # Airflow 2
about = [str(schedule), str(dag.start_date.date()), dag.catchup, dag.max_active_runs, dag.max_active_tasks]
print(json.dumps([tasks, about]))
"""
    tasks, about = json.loads(in_airflow(compiled, code))
    assert about == ["@daily", "2026-02-03", False, 1, 16]
    assert tasks["Trainer"][:3] == ["gpu", "big", 5]
    assert tasks["Pusher"][:3] == ["default_pool", "default", 5]
    assert {name: set(task[3]) for name, task in tasks.items()} == {
        name: set(names) for name, names in json.loads((compiled / "dags" / "htr.json").read_text())["upstream"].items()
    }


@needs_airflow
@pytest.mark.slow
@pytest.mark.either_stack
@pytest.mark.parametrize(
    ("exit_code", "expected"),
    [
        (0, "done"),
        (1, "AirflowException: Trainer ended with code 1: the last words"),
        (2, "AirflowFailException: the last words"),
        (3, "AirflowFailException: the last words"),
        (4, "AirflowFailException: the last words"),
    ],
)
def test_only_what_another_try_can_mend_is_tried_again(compiled, exit_code, expected):
    code = """
try:
    dag.get_task("Trainer").execute({"run_id": "manual__1", "ti": types.SimpleNamespace(max_tries=5)})
    print("done")
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""
    connection = {"AIRFLOW_CONN_HTR_METADATA": "mysql://user:secret%2F1@database:3307/mlmd"}
    assert in_airflow(compiled, code, EXIT_CODE=str(exit_code), **connection) == expected
    arguments = (compiled / "python.sh.arguments").read_text().split()
    document = str(compiled / "dags" / "htr.json")
    assert arguments == ["-m", "pipeline.runners.airflow_runner", document, "Trainer", "manual__1", "5"]
    assert json.loads((compiled / "python.sh.database").read_text()) == {
        "host": "database", "port": 3307, "database": "mlmd", "username": "user", "password": "secret/1",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.either_stack
def test_a_step_ends_with_its_reason_and_exit_code(tmp_path, monkeypatch, capfd):
    monkeypatch.delenv(METADATA_VARIABLE, raising=False)

    def launch_here(step, run):
        """Without ten seconds of imports."""
        monkeypatch.setattr(sys, "argv", ["airflow_runner", str(tmp_path / "dags" / "htr.json"), step, run, "2"])
        capfd.readouterr()
        return airflow_runner.main(), capfd.readouterr().out.splitlines()[-1]

    (tmp_path / "data").mkdir()
    assert compile_dag(tmp_path, tmp_path / "data") == 0
    code, reason = launch_here("HandwritingExampleGen", "run1")
    assert code == cli.USAGE and "holds no .csv or .tsv file with labels" in reason

    assert compile_dag(tmp_path / "remote", "s3://bucket/names") == 0
    dead = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1", "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.runners.airflow_runner", str(tmp_path / "remote" / "dags" / "htr.json"),
         "HandwritingExampleGen", "run1", "2"],
        env=os.environ | dead, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == cli.ERROR, done.stderr  # and is tried again
    assert "s3://bucket/names cannot be read: Could not connect" in done.stdout.splitlines()[-1]

    code, reason = launch_here("Trainer", "run1")
    assert code == cli.ERROR and "Trainer has not all of its inputs: first run the steps before it (" in reason

    with local_runner.locked(str(tmp_path / "workspace")):
        code, reason = launch_here("HandwritingExampleGen", "run2")
    assert code == cli.ERROR and "Another run works in" in reason


@pytest.mark.slow
@pytest.mark.either_stack
def test_another_try_finds_nothing_of_the_one_that_was_killed(tmp_path, monkeypatch):
    from ml_metadata.proto import metadata_store_pb2
    from tfx.orchestration import metadata

    monkeypatch.delenv(METADATA_VARIABLE, raising=False)
    assert compile_dag(tmp_path, "s3://bucket/names") == 0
    document = json.loads((tmp_path / "dags" / "htr.json").read_text())
    airflow_runner.run_step(document, "SchemaGen", "run1")
    database = tmp_path / "workspace" / METADATA_FILE
    with metadata.Metadata(metadata.sqlite_metadata_connection_config(str(database))) as handle:
        (execution,) = handle.store.get_executions()
        execution.last_known_state = metadata_store_pb2.Execution.RUNNING  # as a kill leaves it
        handle.store.put_executions([execution])
    (schema,) = (tmp_path / "workspace").rglob("schema.pbtxt")
    (schema.parent / "transform_fn").mkdir()
    (schema.parent / "transform_fn" / "saved_model.pb").touch()
    airflow_runner.run_step(document, "SchemaGen", "run1")
    assert [path.name for path in schema.parent.iterdir()] == ["schema.pbtxt"]


@pytest.mark.either_stack
@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a child that its parent has died")
def test_a_step_ends_with_a_worker_that_is_killed(tmp_path):
    """It waits for the compiled pipeline, which is a pipe here."""
    document = tmp_path / "htr.json"
    os.mkfifo(document)
    worker = """
import subprocess, sys
step = subprocess.Popen(sys.argv[1:], start_new_session=True)  # as Airflow's SubprocessHook
print(step.pid, flush=True)
step.wait()
"""
    step = [sys.executable, "-m", "pipeline.runners.airflow_runner", str(document), "Trainer", "run1", "2"]
    with subprocess.Popen([sys.executable, "-c", worker, *step], stdout=subprocess.PIPE, text=True) as running:
        process = psutil.Process(int(running.stdout.readline()))
        until = time.monotonic() + 60
        while time.monotonic() < until and process.is_running():
            try:
                pipe = os.open(document, os.O_WRONLY | os.O_NONBLOCK)
                break
            except OSError:  # nobody reads yet
                time.sleep(0.05)
        assert process.is_running()
        running.kill()
        try:
            process.wait(5)
        finally:
            os.close(pipe)


@pytest.mark.slow
@pytest.mark.either_stack
def test_steps_take_what_a_cleared_step_has_written_last(tmp_path, sample_data, monkeypatch):
    from components.common import run_metadata

    monkeypatch.delenv(METADATA_VARIABLE, raising=False)

    def launch(*steps, limit):
        assert compile_dag(tmp_path, sample_data, f"data.limit={limit}") == 0
        document = json.loads((tmp_path / "dags" / "htr.json").read_text())
        for step in steps:
            airflow_runner.run_step(document, step, "run1")

    def examples():
        store = run_metadata.open_metadata(str(tmp_path / "workspace"))
        execution = max(
            store.get_executions_by_type("components.example_validator.statistics_step.StatisticsGen"),
            key=lambda e: e.id,
        )
        events = [e for e in store.get_events_by_execution_ids([execution.id]) if e.type == e.INPUT]
        used = [a for a in store.get_artifacts_by_id([e.artifact_id for e in events]) if "ExampleGen" in a.uri]
        return [a.id for a in used], sorted(a.id for a in store.get_artifacts_by_type("Examples"))

    launch("HandwritingExampleGen", "SchemaGen", limit=100)
    launch("HandwritingExampleGen", "StatisticsGen", limit=120)
    used, (_, newest) = examples()
    assert used == [newest]
    launch("HandwritingExampleGen", "StatisticsGen", limit=100)  # from the cache
    used, (oldest, _) = examples()
    assert used == [oldest]


@needs_airflow
@pytest.mark.slow
@pytest.mark.either_stack
def test_a_step_that_cannot_work_fails_its_task_and_ends_the_run(tmp_path):
    (tmp_path / "data").mkdir()
    assert compile_dag(tmp_path, tmp_path / "data", "airflow.retries=2") == 0
    states = run_dag(tmp_path, "htr", tmp_path / "airflow.log")
    text = (tmp_path / "airflow.log").read_text()
    assert states.keys() >= STEPS and states["SchemaGen"] == "success", text
    assert states["HandwritingExampleGen"] == "failed", "and is not tried again"
    assert states["StatisticsGen"] == states["Trainer"] == states["Pusher"] == "upstream_failed"
    assert "AirflowFailException" in text and "holds no .csv or .tsv file with labels" in text


@pytest.fixture(scope="module")
def refused(tmp_path_factory, sample_data):
    """A folder in which the whole DAG has run in Airflow, and the states of its tasks: the gate allowed no error."""
    folder = tmp_path_factory.mktemp("refused")
    assert compile_dag(folder, sample_data, "gate.max_cer=0.0001", "airflow.retries=2") == 0
    return folder, run_dag(folder, "htr", folder / "airflow.log")


def pushed(folder: Path) -> list:
    return list_versions(str(folder / "workspace" / "serving_model" / "htr"))


@needs_airflow
@pytest.mark.deployment
@pytest.mark.timeout(3600)
def test_a_refused_model_fails_the_gate(refused):
    folder, states = refused
    assert states.keys() >= STEPS
    assert states["Gate"] == "failed"
    assert {name for name, state in states.items() if state != "success"} == {"Gate", "ServingCheck", "Pusher"}
    text = (folder / "airflow.log").read_text()
    assert "AirflowFailException: The model is not blessed: the upper end of the CER's interval is" in text
    assert "gate.max_cer allows 0.0001" in text
    assert not pushed(folder)


@needs_airflow
@pytest.mark.deployment
@pytest.mark.timeout(3600)
def test_a_good_model_is_pushed_by_the_next_run_without_another_training(refused, sample_data):
    folder, _ = refused
    before = len(pushed(folder))
    assert compile_dag(folder, sample_data, "gate.max_cer=null") == 0
    states = run_dag(folder, "htr", folder / "airflow.log")
    assert set(states.values()) == {"success"}, (folder / "airflow.log").read_text()[-3000:]
    assert len(pushed(folder)) == before + 1
    from components.report import summary

    steps = {step.name: step.state for step in summary.read(str(folder / "workspace"), "htr").steps}
    assert (steps["Trainer"], steps["Evaluator"], steps["Pusher"]) == ("CACHED", "COMPLETE", "COMPLETE")
