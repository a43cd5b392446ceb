"""What a run did, read from ML Metadata and the artifacts it points to; there is no second record of it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any

from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2

from components.evaluator.gate import Verdict, read_verdict
from components.example_gen.component import read_counts
from components.trainer.training import CURVES_FILE, HISTORY_FILE

METADATA_FILE = "metadata.db"


@dataclass(frozen=True)
class Step:
    """One step of a run.

    Attributes:
        name: of the component.
        state: "COMPLETE", "CACHED", "FAILED", ...
        seconds: between its registration and its end.
        peak_bytes: peak memory of the process while it ran; None where it was not measured.
    """

    name: str
    state: str
    seconds: float
    peak_bytes: int | None = None


@dataclass(frozen=True)
class RunSummary:
    """What a run did.

    Attributes:
        run_id: time of its start.
        steps: in order.
        counts: `{"accepted": {split: n}, "rejected": {reason: n}, "notes": [...]}`.
        verdict: of the gate; None if the run did not come so far.
        history: of the training, by epoch.
        curves: path of the training curves as PNG; None if there are none.
        pushed: whether a version was pushed by this run or the run whose push it found cached.
        version: its number.
        pushed_path: its directory.
    """

    run_id: str
    steps: list[Step]
    counts: dict[str, Any]
    verdict: Verdict | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    curves: str | None = None
    pushed: bool = False
    version: int | None = None
    pushed_path: str | None = None


def read(workspace: str, name: str, peak_bytes: dict[str, int] | None = None) -> RunSummary:
    """Reads the latest run of a workspace.

    Args:
        workspace: folder of the run.
        name: of the pipeline.
        peak_bytes: measured peak memory by step.

    Returns:
        The summary.

    Raises:
        FileNotFoundError: nothing was run there yet.
    """
    database = os.path.join(workspace, METADATA_FILE)
    if not os.path.exists(database):
        raise FileNotFoundError(f"{workspace} holds no run yet.")
    connection = metadata_store_pb2.ConnectionConfig()
    connection.sqlite.filename_uri = database
    connection.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READONLY
    store = metadata_store.MetadataStore(connection)
    pipeline = store.get_context_by_type_and_name("pipeline", name)
    mine = {execution.id for execution in store.get_executions_by_context(pipeline.id)} if pipeline else set()
    for run in sorted(store.get_contexts_by_type("pipeline_run"), key=lambda context: context.id, reverse=True):
        executions = [e for e in store.get_executions_by_context(run.id) if e.id in mine]
        if executions:
            break
    else:
        raise FileNotFoundError(f"{workspace} holds no run of the pipeline {name} yet.")
    steps, outputs = [], {}
    for execution in sorted(executions, key=lambda execution: execution.id):
        nodes = [c.name for c in store.get_contexts_by_execution(execution.id) if c.name.startswith(f"{name}.")]
        component = nodes[0].removeprefix(f"{name}.")
        state = metadata_store_pb2.Execution.State.Name(execution.last_known_state)
        seconds = (execution.last_update_time_since_epoch - execution.create_time_since_epoch) / 1000
        steps.append(Step(component, state, seconds, (peak_bytes or {}).get(component)))
        outputs.update(_outputs(store, execution.id))
    history, curves = _training(outputs.get("model_run"))
    pushed = outputs.get("pushed_model")
    properties = pushed.custom_properties if pushed else {}
    was_pushed = bool(pushed) and properties["pushed"].int_value == 1
    evaluation, quarantine = outputs.get("evaluation"), outputs.get("quarantine")
    return RunSummary(
        run_id=run.name,
        steps=steps,
        counts=read_counts(quarantine.uri) if quarantine else {"accepted": {}, "rejected": {}, "notes": []},
        verdict=read_verdict(evaluation.uri) if evaluation else None,
        history=history,
        curves=curves,
        pushed=was_pushed,
        version=int(properties["pushed_version"].string_value) if was_pushed else None,
        pushed_path=properties["pushed_destination"].string_value if was_pushed else None,
    )


def _outputs(store: metadata_store.MetadataStore, execution_id: int) -> dict[str, Any]:
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


def _training(model_run: Any) -> tuple[list[dict[str, float]], str | None]:
    if model_run is None:
        return [], None
    history, curves = (os.path.join(model_run.uri, name) for name in (HISTORY_FILE, CURVES_FILE))
    if not os.path.exists(history):
        return [], None
    with open(history, encoding="utf-8") as file:
        return json.load(file), curves if os.path.exists(curves) else None


def as_json(summary: RunSummary, model_dir: str) -> dict[str, Any]:
    """The one line of `htr run --json`."""
    metrics = summary.verdict.metrics if summary.verdict else {}
    return {
        "blessed": bool(summary.verdict and summary.verdict.blessed),
        "cer": metrics.get("cer"), "cer_low": metrics.get("cer_low"), "cer_high": metrics.get("cer_high"),
        "wer": metrics.get("wer"), "model_dir": model_dir, "version": summary.version,
        "rejected": summary.counts["rejected"],
        "failures": [str(failure) for failure in summary.verdict.failures] if summary.verdict else [],
    }  # fmt: skip
