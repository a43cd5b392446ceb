"""The pipeline in a whole deployment of Airflow 3, run by its scheduler; `make airflow-test` installs what it needs.

Two pipelines share Airflow, ML Metadata and a pool of one slot: `good` is scheduled, and one of its steps is killed;
`refused` is triggered, and its model misses the bound of the gate. The tests go on where the one before has ended,
since each run costs minutes.
"""

import contextlib
import os
import re
import signal
from itertools import pairwise
from typing import NamedTuple

import psutil
import pytest

from components.common.versions import list_versions
from pipeline import cli
from pipeline.demo.airflow import SETTINGS
from tests import airflow_deployment

MISSING = airflow_deployment.missing()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.deployment,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(bool(MISSING), reason=airflow_deployment.why_skipped(MISSING)),
]
POOL = "trainings"


@pytest.fixture(scope="module")
def deployment():
    with airflow_deployment.deploy() as running:
        yield running


def compile_dag(deployment, data, name, *settings):
    chosen = [
        *SETTINGS, f"name={name}", f"airflow.metadata_connection={airflow_deployment.CONNECTION}",
        f"airflow.pools={{Trainer: {POOL}}}", "airflow.retries=2", "airflow.retry_delay=1", *settings,
    ]  # fmt: skip
    workspace = str(deployment.folder / name)
    options = ["--data", str(data), "--workspace", workspace, *(f"--set={setting}" for setting in chosen)]
    assert cli.main(["compile", "airflow", str(deployment.dags), *options]) == 0


def pushed(deployment, name):
    return list_versions(str(deployment.folder / name / "serving_model" / name))


def kill_step(deployment, dag, step):
    """Kills the pipeline's process of a step that has begun to write its outputs."""
    document = str(deployment.dags / f"{dag}.json")

    def at_work():
        if not list((deployment.folder / dag).glob(f"pipeline/**/{step}/*/*")):
            return None
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.cmdline()[-4:-2] == [document, step]:
                    return process.pid
        return None

    os.kill(airflow_deployment.wait_for(f"{step} at work", at_work, seconds=1800), signal.SIGKILL)


class Runs(NamedTuple):
    good: str
    refused: str


@pytest.fixture(scope="module")
def runs(deployment, sample_data):
    """Ids of the first runs of both pipelines, which have ended."""
    deployment.airflow("pools", "set", POOL, "0", "one training at a time")
    compile_dag(deployment, sample_data, "good", "airflow.schedule='@yearly'")
    compile_dag(deployment, sample_data, "refused", "gate.max_cer=0.0001", "language.enabled=false")
    for dag in ("good", "refused"):
        airflow_deployment.wait_for(dag, lambda dag=dag: deployment.call("GET", f"/api/v2/dags/{dag}"))
        deployment.pause(dag, False)
    found = airflow_deployment.wait_for("the scheduled run", lambda: deployment.runs("good"))
    ids = Runs(found[0]["dag_run_id"], deployment.trigger("refused"))

    # Both trainings wait for a slot, then there is one.
    for dag, run in zip(Runs._fields, ids, strict=True):
        deployment.wait_for_task(dag, run, "Trainer", "scheduled")
    pool = {"pool": POOL, "slots": 1, "description": "one training at a time", "include_deferred": False}
    deployment.call("PATCH", f"/api/v2/pools/{POOL}", pool)
    kill_step(deployment, "good", "Trainer")
    for dag, run in zip(Runs._fields, ids, strict=True):
        deployment.finish(dag, run)
    return ids


def test_a_scheduled_run_ends_well_although_a_step_was_killed(deployment, runs):
    (run,) = deployment.runs("good")
    assert (run["run_type"], run["state"]) == ("scheduled", "success")
    assert deployment.tasks("good", runs.good)["Trainer"]["try_number"] == 2
    assert "Command exited with return code -9" in deployment.log("good", runs.good, "Trainer", 1)
    assert len(pushed(deployment, "good")) == 1


def test_a_refused_model_fails_the_gate_and_is_not_tried_again(deployment, runs):
    tasks = deployment.tasks("refused", runs.refused)
    assert {name: task["state"] for name, task in tasks.items() if task["state"] != "success"} == {
        "Gate": "failed", "ServingCheck": "upstream_failed", "Pusher": "upstream_failed",
    }  # fmt: skip
    assert (tasks["Gate"]["try_number"], tasks["Gate"]["max_tries"]) == (1, 2)
    assert pushed(deployment, "refused") == []


def test_a_pool_of_one_slot_keeps_trainings_apart(deployment, runs):
    tries = [one for dag, run in zip(Runs._fields, runs, strict=True) for one in deployment.tries(dag, run, "Trainer")]
    assert len(tries) == 3
    times = sorted((one["start_date"], one["end_date"]) for one in tries)
    assert all(before[1] <= after[0] for before, after in pairwise(times)), times


def test_logs_tell_epochs_and_what_the_gate_says(deployment, runs):
    assert re.search(r"epoch +1/1", deployment.log("good", runs.good, "Trainer", 2))
    gate = deployment.log("refused", runs.refused, "Gate")
    assert "The model is not blessed: the upper end of the CER's interval is" in gate
    assert "gate.max_cer allows 0.0001" in gate


@pytest.fixture(scope="module")
def later(deployment, runs, sample_data):
    """Id of a second run of `good`, which has ended, as has what was cleared of the first run of `refused`."""
    deployment.pause("good", True)
    second = deployment.trigger("good")
    compile_dag(deployment, sample_data, "refused", "language.enabled=false")
    body = {"dry_run": False, "dag_run_id": runs.refused, "task_ids": ["Evaluator"], "only_failed": False,
            "include_downstream": True}  # fmt: skip
    deployment.call("POST", "/api/v2/dags/refused/clearTaskInstances", body)
    # The scheduler is at work while the paused DAG waits.
    deployment.wait_for_task("refused", runs.refused, "Evaluator", "running")
    assert deployment.state("good", second) == "queued"
    deployment.pause("good", False)
    deployment.finish("refused", runs.refused)
    deployment.finish("good", second)
    return second


def test_cleared_steps_run_again_with_new_settings(deployment, runs, later):
    assert deployment.state("refused", runs.refused) == "success"
    tasks = deployment.tasks("refused", runs.refused)
    again = {name for name in ("Trainer", "Evaluator", "RunReport", "Gate") if tasks[name]["try_number"] > 1}
    assert again == {"Evaluator", "RunReport", "Gate"}
    assert len(pushed(deployment, "refused")) == 1


def test_a_second_run_uses_what_the_first_has_made(deployment, later):
    assert deployment.state("good", later) == "success"
    assert not re.search(r"epoch +1/1", deployment.log("good", later, "Trainer"))
    assert len(pushed(deployment, "good")) == 1
