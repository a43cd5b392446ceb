"""ML Metadata of a workspace: opening it to read, whether it is whole, and what executions have put out."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2

from components.common.workspace import AIRFLOW_FOLDER, METADATA_FILE, PINNED_FILE, PIPELINE_FOLDER

# Custom properties of executions, which `pipeline.runners.local_runner` writes.
PEAK_PROPERTY, CPU_PROPERTY = "peak_bytes", "cpu_seconds"


class NoSuchRun(LookupError):
    """There is no run, none of that name, or several; the message says which there are."""


class NothingRun(NoSuchRun):
    """Nothing was run in the workspace yet."""


class MetadataError(RuntimeError):
    """The database of ML Metadata cannot be read; the message says what to do."""


def check_metadata(workspace: str) -> None:
    """Looks whether the database of a workspace is whole, before ML Metadata reads or writes it; it may be missing.

    Raises:
        MetadataError: It is damaged, gone while the artifacts that it describes are there, or never was here.
    """
    database, artifacts = (os.path.join(workspace, name) for name in (METADATA_FILE, PIPELINE_FOLDER))
    if not os.path.exists(database) or not os.path.getsize(database):
        # A kill may have left an empty database, but not one that has been used.
        wrong = "missing or empty" if os.path.isdir(artifacts) and os.listdir(artifacts) else None
        if wrong and (connection := _connection_of_airflow(workspace)):
            raise MetadataError(
                f"The runs of {workspace} are those of a DAG and noted in the database of Airflow's connection "
                f"{connection}, which this command does not read. Nothing is missing. Their reports are "
                f"{artifacts}/RunReport/report/NUMBER/report.html; for runs of your own name another folder with "
                "--workspace."
            )
    else:
        wrong = _damage(database)
    if wrong:
        raise MetadataError(
            f"{database}, where runs are noted, is {wrong}. Nothing was changed. Put a copy of it back, or move it and "
            f"{artifacts} aside: the next run then begins anew, without an earlier model to compare with. Pushed "
            "versions stay."
        )


def _connection_of_airflow(workspace: str) -> str | None:
    """The setting `airflow.metadata_connection` of the newest run of a DAG in a workspace."""
    runs = Path(workspace, AIRFLOW_FOLDER).glob(f"*/*/{PINNED_FILE}")
    newest = max(runs, key=lambda path: path.stat().st_mtime, default=None)
    return json.loads(newest.read_bytes())["airflow"]["metadata_connection"] if newest else None


def _damage(database: str) -> str | None:
    try:
        # Not read-only: what a killed run has left in the journal is rolled back, which ML Metadata's readers cannot.
        with contextlib.closing(sqlite3.connect(f"file:{quote(database)}?mode=rw", uri=True)) as connection:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        locked = "locked" in str(error)  # by a run that is under way
        return None if locked else f"damaged ({error})"
    return None if found == "ok" else f"damaged ({found})"


def open_metadata(workspace: str) -> metadata_store.MetadataStore:
    """ML Metadata of a workspace, to read from; a run that goes on there is not disturbed.

    Raises:
        NothingRun: Nothing was run there yet.
        MetadataError: The database is damaged.
    """
    check_metadata(workspace)
    database = os.path.join(workspace, METADATA_FILE)
    if not os.path.exists(database):
        raise NothingRun(f"{workspace} holds no run yet.")
    connection = metadata_store_pb2.ConnectionConfig()
    connection.sqlite.filename_uri = database
    connection.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READONLY
    return metadata_store.MetadataStore(connection)


def outputs_of(store: Any, execution_id: int) -> dict[str, Any]:
    """Output artifacts of an execution by output key."""
    kinds = (metadata_store_pb2.Event.OUTPUT, metadata_store_pb2.Event.DECLARED_OUTPUT)
    events = [e for e in store.get_events_by_execution_ids([execution_id]) if e.type in kinds]
    artifacts = {a.id: a for a in store.get_artifacts_by_id([e.artifact_id for e in events])}
    return {
        step.key: artifacts[event.artifact_id]
        for event in events
        for step in event.path.steps
        if step.HasField("key") and event.artifact_id in artifacts
    }
