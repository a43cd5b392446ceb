"""`make airflow-demo`: the pipeline as a DAG of a real Airflow, without scheduler or web server, to a pushed model."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

from components.common.console import console
from components.common.versions import list_versions
from pipeline import cli
from pipeline.demo.data import render

# `make airflow-env` makes it, and the Makefile says which version is meant.
AIRFLOW = Path(os.environ.get("HTR_AIRFLOW_ENV", Path(__file__).parents[2] / ".venv-airflow3")) / "bin" / "airflow"
FOLDER = Path("demo/airflow")
# Seconds of training: this is about the DAG. `make demo` trains a model that can be used.
SETTINGS = [
    "train.epochs=1", "model.filters=[8,8,8]", "model.recurrent_units=8", "model.recurrent_layers=1",
    "gate.max_cer=null", "airflow.retries=0",
]  # fmt: skip


def run_dag(folder: Path, dag: str, log: Path) -> dict[str, str]:
    """Runs a DAG once in this machine's Airflow, task after task.

    Args:
        folder: Folder of Airflow's home (`home`, with a SQLite database) and of the DAGs (`dags`).
        dag: Its id.
        log: File for what Airflow and the tasks print.

    Returns:
        State by task: "success", "failed", "upstream_failed", or "" for one that was not reached.
    """
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str((folder / "home").resolve()),
        "AIRFLOW__CORE__DAGS_FOLDER": str((folder / "dags").resolve()),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    # Run ids differ between the versions of Airflow; a run is also known by its date.
    date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    with open(log, "ab") as output:
        for command in (["db", "migrate"], ["dags", "test", dag, date]):
            done = subprocess.run([AIRFLOW, *command], env=environment, stdout=output, stderr=subprocess.STDOUT)
            if done.returncode and command[0] == "db":
                raise RuntimeError(f"airflow {' '.join(command)} failed, see {log}")
    command = ["tasks", "states-for-dag-run", dag, date, "--output", "json"]
    listed = subprocess.run([AIRFLOW, *command], env=environment, capture_output=True, text=True, check=True)
    return {row["task_id"]: row["state"] or "" for row in json.loads(listed.stdout[listed.stdout.index("[{") :])}


def main() -> int:
    """Makes the data, compiles the DAG, runs it. Returns the exit code."""
    data, workspace, log = FOLDER / "data", FOLDER / "workspace", FOLDER / "airflow.log"
    render(data, 400)
    overrides = [f"--set={setting}" for setting in SETTINGS]
    code = cli.main(
        ["compile", "airflow", str(FOLDER / "dags"), "--data", str(data), "--workspace", str(workspace), *overrides]
    )
    if code:
        return code
    console().print(f"Running the DAG, step after step: some minutes. What Airflow prints goes to {log}")
    states = run_dag(FOLDER, "htr", log)
    for task, state in states.items():
        console().print(f"  {state or 'not reached':16s} {task}", markup=False)
    if set(states.values()) != {"success"}:
        return cli.ERROR
    print(f"Pushed {list_versions(str(workspace / 'serving_model' / 'htr'))[-1].path}")
    return cli.OK


if __name__ == "__main__":
    sys.exit(main())
