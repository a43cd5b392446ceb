"""Airflow DAG of a compiled pipeline, for Airflow 3 and for 2.11.

`htr compile airflow FOLDER` copies this file into Airflow's folder of DAGs beside the compiled pipeline, a JSON file of
the same name. It imports Airflow alone; each task starts the Python of the pipeline for one step.
"""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import Any

try:
    from airflow.providers.standard.hooks.subprocess import SubprocessHook
    from airflow.sdk import DAG, BaseHook, BaseOperator
    from airflow.sdk.exceptions import AirflowException, AirflowFailException
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.exceptions import AirflowException, AirflowFailException
    from airflow.hooks.base import BaseHook
    from airflow.hooks.subprocess import SubprocessHook
    from airflow.models.baseoperator import BaseOperator

_COMPILED = Path(__file__).with_suffix(".json")
# Exit codes of `htr`: wrong usage or data, not blessed, too many rejected rows, drift. Trying again changes nothing.
_FINAL = (2, 3, 4, 5)


class PipelineStep(BaseOperator):
    """Runs one step of the pipeline in a process of its own, and passes on what it says when it fails."""

    ui_color = "#e8f0e4"

    def __init__(self, *, python: str, metadata_connection: str | None, **kwargs: Any):
        """Creates the task.

        Args:
            python: Interpreter of the pipeline's environment.
            metadata_connection: Id of the Airflow connection of ML Metadata, or None.
            **kwargs: Arguments of BaseOperator.
        """
        super().__init__(**kwargs)
        self.python = python
        self.metadata_connection = metadata_connection
        self._process = SubprocessHook()

    def execute(self, context: Any) -> None:
        """Starts the step and waits for it.

        Raises:
            AirflowFailException: The model is not blessed, or the data cannot be used: there is no retry.
            AirflowException: Anything else.
        """
        environment = dict(os.environ)
        if self.metadata_connection:
            found = BaseHook.get_connection(self.metadata_connection)
            database = {
                "host": found.host, "port": found.port or 3306, "database": found.schema,
                "username": found.login, "password": found.password,
            }  # fmt: skip
            environment["HTR_METADATA_DATABASE"] = json.dumps(database)
        command = [
            self.python, "-m", "pipeline.runners.airflow_runner", str(_COMPILED), self.task_id, context["run_id"],
            str(context["ti"].max_tries),
        ]  # fmt: skip
        result = self._process.run_command(command, env=environment)
        if result.exit_code in _FINAL:
            raise AirflowFailException(result.output)
        if result.exit_code:
            raise AirflowException(f"{self.task_id} ended with code {result.exit_code}: {result.output}")

    def on_kill(self) -> None:
        """Stops the step when the task is stopped."""
        self._process.send_sigterm()


def _dag(compiled: dict[str, Any]) -> DAG:
    settings = compiled["airflow"]
    shared = settings["metadata_connection"] is not None
    with DAG(
        compiled["name"],
        schedule=settings["schedule"],
        start_date=datetime.datetime.fromisoformat(settings["start_date"]).replace(tzinfo=datetime.timezone.utc),
        catchup=False,
        # A run compares with the model in service and pushes: two at a time would race.
        max_active_runs=1,
        # SQLite takes one writer.
        max_active_tasks=16 if shared else 1,
        tags=settings["tags"],
        doc_md="Handwritten text recognition: from labels and images to a gated, pushed model.",
        default_args={
            "retries": settings["retries"],
            "retry_delay": datetime.timedelta(seconds=settings["retry_delay"]),
            "retry_exponential_backoff": True,
            "execution_timeout": datetime.timedelta(seconds=settings["timeout"]),
        },
    ) as dag:
        tasks = {}
        for step, upstream in compiled["upstream"].items():
            chosen = {}
            if step in settings["pools"]:
                chosen["pool"] = settings["pools"][step]
            if step in settings["queues"]:
                chosen["queue"] = settings["queues"][step]
            tasks[step] = PipelineStep(
                task_id=step, python=compiled["python"], metadata_connection=settings["metadata_connection"], **chosen
            )
            tasks[step].set_upstream([tasks[name] for name in upstream])
    return dag


# A folder of packages is no DAG folder: in the repository there is nothing compiled beside this file.
if _COMPILED.exists():
    dag = _dag(json.loads(_COMPILED.read_text(encoding="utf-8")))
