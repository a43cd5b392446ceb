"""What runs did, read from ML Metadata and the reports it points to; there is no second record of them.

No TFX or TensorFlow here: listing and comparing runs starts at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2
from tensorflow_metadata.proto.v0 import anomalies_pb2

from components.common.records import read_record
from components.common.run_metadata import (
    CPU_PROPERTY,
    PEAK_PROPERTY,
    NoSuchRun,
    NothingRun,
    open_metadata,
    outputs_of,
)
from components.common.versions import fate
from components.evaluator.verdict import Verdict
from components.pusher.publishing import WITHDRAWN_VERSION, why_withheld
from components.report import html
from components.report.numbers import run_name
from serving.version_directory import METRICS_FILE

_COUNTS_FILE = "counts.json"  # of Quarantine and of Transcriptions
# Parameters of ExampleGen that hold a section of settings as JSON.
_READ_WITH = {"data": "data_config", "transform": "transform_config"}
_NO_COUNTS: dict[str, Any] = {"accepted": {}, "rejected": {}, "notes": []}


@dataclass(frozen=True)
class Step:
    """One step of a run.

    Attributes:
        name: Name of the component.
        state: "COMPLETE", "CACHED", "FAILED", ...
        seconds: Time between its registration and its end; None for one that has no end, since it runs, or was killed.
        peak_bytes: Peak memory of the process while it ran; None where it was not measured.
        cpu_seconds: CPU time of the process and of those that it started; None where it was not measured.
    """

    name: str
    state: str
    seconds: float | None
    peak_bytes: int | None = None
    cpu_seconds: float | None = None


@dataclass(frozen=True)
class RunSummary:
    """What a run did.

    Attributes:
        run_id: Time of its start.
        steps: Steps in order.
        seconds: Time from its first step to the end of its last one; None where a step has no end.
        counts: `{"accepted": {split: n}, "rejected": {reason: n}, "notes": [...]}`.
        report_folder: Artifact of its report; None if the run did not come so far.
        pushed: Whether a version was pushed by this run or the run whose push it found cached.
        version: Its number.
        pushed_path: Its directory.
        withdrawn_path: Where the version lay that holds the same model, if nothing was pushed because it was withdrawn.
        transcriptions_folder: Artifact of its BulkInferrer, where there is one.
        statistics_folder: Artifact of its StatisticsGen; None if the run did not come so far.
        anomalies_folder: Artifact of its ExampleValidator; None if the run did not come so far.
        read_with: Sections `data` and `transform` of its settings, by which ExampleGen accepted and rejected rows;
            empty if the run did not come so far.
    """

    run_id: str
    steps: list[Step]
    seconds: float | None
    counts: dict[str, Any]
    report_folder: str | None = None
    pushed: bool = False
    version: int | None = None
    pushed_path: str | None = None
    withdrawn_path: str | None = None
    transcriptions_folder: str | None = None
    statistics_folder: str | None = None
    anomalies_folder: str | None = None
    read_with: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What tells runs apart for people."""
        return run_name(self.run_id)

    @cached_property
    def report(self) -> dict[str, Any] | None:
        """Contents of its report, see `components.report.contents`."""
        return _read(self.report_folder, html.CONTENTS_FILE)

    @cached_property
    def metrics(self) -> dict[str, Any] | None:
        """The figures alone: quicker to read than the report."""
        return _read(self.report_folder, METRICS_FILE)

    @property
    def transcribed(self) -> dict[str, Any] | None:
        """What BulkInferrer counted, see `components.batch_transcriber.component`; None without that step."""
        return _read(self.transcriptions_folder, _COUNTS_FILE)

    @cached_property
    def drift(self) -> dict[str, tuple[float, float]]:
        """Distance of the training split to that of the run before, and what is allowed, by feature; may be empty."""
        path = os.path.join(self.anomalies_folder or "", "Split-train", "SchemaDiff.pb")
        if not self.anomalies_folder or not os.path.exists(path):
            return {}
        with open(path, "rb") as file:
            found = anomalies_pb2.Anomalies.FromString(file.read())
        return {
            ".".join(info.path.step): (measured.value, measured.threshold)
            for info in found.drift_skew_info
            for measured in info.drift_measurements
        }

    @cached_property
    def verdict(self) -> Verdict | None:
        """Of the gate; None if the run did not come so far."""
        return Verdict.from_dict(self.report["verdict"]) if self.report else None

    @property
    def off(self) -> list[str]:
        """Settings of the gate that are null."""
        return html.switched_off(self.report) if self.report else []

    @property
    def withdrawn(self) -> int | None:
        """Number of the version at `withdrawn_path`, which may have been restored since."""
        return int(os.path.basename(self.withdrawn_path)) if self.withdrawn_path else None

    @property
    def outcome(self) -> str:
        """In a few words: "blessed", "blessed, not pushed", "not blessed", the step that failed, or what is wrong."""
        failed = next((step.name for step in self.steps if step.state == "FAILED"), None)
        if failed and failed != "Gate":  # which fails to show the verdict
            return f"failed at {failed}"
        if self.metrics is None:
            damaged = os.path.exists(os.path.join(self.report_folder or "", METRICS_FILE))
            return "report damaged" if self.report_folder and damaged else "unfinished"
        if not self.metrics["blessed"]:
            return "not blessed"
        return "blessed" if self.pushed or self.withdrawn_path else "blessed, not pushed"  # yet, or it was stopped

    @property
    def version_text(self) -> str:
        """The version for people, with what has become of it; empty where the model has none."""
        number, path = self.version or self.withdrawn, self.pushed_path or self.withdrawn_path
        if number is None or path is None:
            return str(number or "")
        found = fate(path)
        if found == "offered" or (found == "unknown" and self.pushed):
            return str(number)
        return f"{number} ({'withdrawn' if found == 'unknown' else found})"

    @property
    def next_steps(self) -> list[str]:
        """What to try, for a model that is not blessed; see `components.report.next_steps`."""
        return self.report.get("next_steps", []) if self.report else []  # an earlier release noted none

    def page(self) -> str:
        """The report as HTML, with the push and the timings that were not known when it was first written."""
        pushed = (self.version, self.pushed_path) if self.version and self.pushed_path else None
        found = fate(self.pushed_path) if pushed and self.pushed_path else ""
        became = found if found in ("withdrawn", "deleted") else ""
        not_pushed = ""
        if self.withdrawn is not None and self.withdrawn_path:
            restorable = fate(self.withdrawn_path) in ("withdrawn", "unknown")
            then = f"this model is version {self.withdrawn}, which was withdrawn then"
            not_pushed = why_withheld(self.withdrawn) if restorable else then
        return html.page(self.report, self.run_id, self.steps, pushed, not_pushed, became)


def read(workspace: str, name: str, run: str = "latest") -> RunSummary:
    """Reads one run of a workspace.

    Args:
        workspace: Folder of the run.
        name: Name of the pipeline.
        run: "latest", its name or the beginning of it, or the version that it pushed.

    Returns:
        The summary.

    Raises:
        NothingRun: Nothing was run there yet.
        NoSuchRun: No run is called that, or several are.
        MetadataError: ML Metadata cannot be read.
    """
    if run == "latest":
        return read_all(workspace, name, newest=1)[0]
    runs = read_all(workspace, name)
    # A run that finds the push of an earlier one cached has the same version: the first is meant.
    found = (
        [r for r in runs if run in (r.run_id, r.name)]
        or [r for r in runs if r.run_id.startswith(run) or r.name.startswith(run)]
        or [r for r in runs if str(r.version) == run][-1:]
    )
    if len(found) != 1:
        many = "Several runs are" if found else "No run is"
        raise NoSuchRun(f"{many} called {run}. There are: {', '.join(r.name for r in found or runs)}.")
    return found[0]


def read_all(workspace: str, name: str, newest: int | None = None) -> list[RunSummary]:
    """Reads the runs of a workspace.

    Args:
        workspace: Folder of the runs.
        name: Name of the pipeline.
        newest: How many; all if None.

    Returns:
        The summaries, newest first.

    Raises:
        NothingRun: Nothing was run there yet.
        MetadataError: ML Metadata cannot be read.
    """
    store = open_metadata(workspace)
    pipeline = store.get_context_by_type_and_name("pipeline", name)
    mine = {execution.id for execution in store.get_executions_by_context(pipeline.id)} if pipeline else set()
    runs = []
    for run in sorted(store.get_contexts_by_type("pipeline_run"), key=lambda context: context.id, reverse=True):
        executions = [e for e in store.get_executions_by_context(run.id) if e.id in mine]
        if executions:
            runs.append(_read_run(store, name, run.name, sorted(executions, key=lambda e: e.id)))
        if len(runs) == newest:
            break
    if not runs:
        others = sorted({context.name for context in store.get_contexts_by_type("pipeline")} - {name})
        there = f", only of {', '.join(others)}: choose with --task, or the setting name" if others else " yet"
        raise NothingRun(f"{workspace} holds no run of the pipeline {name}{there}.")
    return runs


def _read_run(store: metadata_store.MetadataStore, name: str, run_id: str, executions: list[Any]) -> RunSummary:
    steps, outputs, read_with = [], {}, {}
    for execution in executions:
        nodes = [c.name for c in store.get_contexts_by_execution(execution.id) if c.name.startswith(f"{name}.")]
        component = nodes[0].removeprefix(f"{name}.")
        state = metadata_store_pb2.Execution.State.Name(execution.last_known_state)
        # ML Metadata hears of a step when it begins and when it ends: between, what it notes last is the beginning.
        ended = state != "RUNNING"
        taken = (execution.last_update_time_since_epoch - execution.create_time_since_epoch) / 1000
        measured = execution.custom_properties
        peak = measured[PEAK_PROPERTY].int_value if PEAK_PROPERTY in measured else None
        cpu = measured[CPU_PROPERTY].double_value if CPU_PROPERTY in measured else None
        steps.append(Step(component, state, taken if ended else None, peak, cpu))
        outputs.update(outputs_of(store, execution.id))
        for section, parameter in _READ_WITH.items():
            if parameter in measured:
                read_with[section] = json.loads(measured[parameter].string_value)
    pushed, quarantine = outputs.get("pushed_model"), outputs.get("quarantine")
    properties = pushed.custom_properties if pushed else {}
    was_pushed = bool(pushed) and properties["pushed"].int_value == 1
    withdrawn = properties[WITHDRAWN_VERSION].string_value if WITHDRAWN_VERSION in properties else ""
    written, transcribed = outputs.get("report"), outputs.get("transcriptions")
    statistics, anomalies = outputs.get("statistics"), outputs.get("anomalies")
    begin = executions[0].create_time_since_epoch
    ends = [execution.last_update_time_since_epoch for execution in executions]
    return RunSummary(
        run_id=run_id,
        steps=steps,
        seconds=None if any(step.seconds is None for step in steps) else (max(ends) - begin) / 1000,
        counts=_read(quarantine.uri if quarantine else None, _COUNTS_FILE) or _NO_COUNTS,
        report_folder=written.uri if written else None,
        pushed=was_pushed,
        version=int(properties["pushed_version"].string_value) if was_pushed else None,
        pushed_path=properties["pushed_destination"].string_value if was_pushed else None,
        withdrawn_path=withdrawn or None,
        transcriptions_folder=transcribed.uri if transcribed else None,
        statistics_folder=statistics.uri if statistics else None,
        anomalies_folder=anomalies.uri if anomalies else None,
        read_with=read_with,
    )


def _read(folder: str | None, name: str) -> dict[str, Any] | None:
    """A JSON file of an artifact; None where there is none, or one that a power cut has emptied."""
    return (read_record(os.path.join(folder, name)) or None) if folder else None
