"""Runs the pipeline in this process, step after step, and tells the person at the terminal what happens."""

from __future__ import annotations

import contextlib
import datetime
import os
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psutil
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.compiler import constants
from tfx.orchestration import metadata
from tfx.orchestration.portable import runtime_parameter_utils, tfx_runner

from components.common import run_metadata
from components.common.ahead import NETWORK_THREADS
from components.common.console import announced, console
from components.common.workspace import METADATA_FILE, PIPELINE_FOLDER
from components.report import summary
from components.serving_check import early
from htr_client.cores import usable_cores
from pipeline import imports
from pipeline.config import Config
from pipeline.definition import create_pipeline
from pipeline.page_definition import create_page_pipeline
from pipeline.runners import steps
from serving import file_lock

_DOING = {
    "HandwritingExampleGen": "Reading labels and images",
    "SchemaGen": "Loading the schema",
    "StatisticsGen": "Computing statistics",
    "PreviousStatistics": "Looking up the statistics of the data before",
    "ExampleValidator": "Checking the statistics against the schema and the data before",
    "Transform": "Resizing and normalising images, collecting the alphabet",
    "Tuner": "Searching for better hyper-parameters",
    "Trainer": "Training the network",
    "LanguageModel": "Learning the language model",
    "Baseline": "Looking up the model in service",
    "Evaluator": "Measuring CER and WER, asking the gate",
    "RunReport": "Writing the report",
    "ServingCheck": "Checking the model in a server",
    "Pusher": "Pushing the model",
    "BulkInferrer": "Transcribing new images",
    "PageExampleGen": "Reading pages",
    "LineEvaluator": "Finding and transcribing the lines of the evaluation pages, asking the gate",
    "LineReport": "Writing the report",
}
# What the same steps do with a model that is not blessed.
_DOING_NOTHING = {
    "ServingCheck": "No check in a server: the model is not blessed",
    "Pusher": "Not pushed: the model is not blessed",
    "BulkInferrer": "No new images are transcribed: the model is not blessed",
}

_GATES = ("Evaluator", "LineEvaluator")
_DEFINITIONS = {"text": create_pipeline, "pages": create_page_pipeline}
# Steps that say themselves how far they are.
_TALKING = ("Trainer", "Tuner")


class WorkspaceBusy(RuntimeError):
    """Another run works in the same workspace."""


class LocalRunner(tfx_runner.IrBasedRunner):
    """TFX's local runner with progress for people; notes memory and CPU time of each step in ML Metadata."""

    def __init__(self, server_command: Sequence[str] = ()):
        """Does nothing yet.

        Args:
            server_command: Command of the server that checks models; the embedded one, prepared early, if empty.
        """
        self._has_early_server = not server_command

    def run_with_ir(self, pipeline: Any, run_options: Any = None) -> None:
        """Runs all nodes in order; the first exception ends the run.

        Args:
            pipeline: The compiled pipeline.
            run_options: Options, which are not supported.
        """
        del run_options
        connection_config = steps.metadata_connection(pipeline)
        run_id = _unused_run_id(metadata.Metadata(connection_config))
        runtime_parameter_utils.substitute_runtime_parameter(
            pipeline, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: run_id}
        )
        blessed, trained = True, False
        for number, node in enumerate(pipeline.nodes, 1):
            node_id = node.pipeline_node.node_info.id
            if node_id in _GATES and trained and self._has_early_server:
                early.begin()  # most new models are blessed
            connection = metadata.Metadata(connection_config)
            idle = not blessed and node_id in _DOING_NOTHING
            doing = (_DOING_NOTHING if idle else _DOING).get(node_id, node_id)
            console().print(f"[{number}/{len(pipeline.nodes)}] {doing}", markup=False)
            begin, begin_cpu = time.monotonic(), _cpu_seconds()
            with _peak_memory() as peak, _slow(node_id):
                execution = steps.launch(pipeline, node, connection)
            cached = _note_cost(connection, execution, peak[0], _cpu_seconds() - begin_cpu)
            how = "cached" if cached else f"{time.monotonic() - begin:.1f} s"
            if not idle:
                console().print(f"  {how}", style="dim")
            if node_id == "Trainer":
                trained = not cached
            if node_id in _GATES:
                blessed = _is_blessed(connection, execution.execution_id)
                if not blessed:
                    early.end()


def _is_blessed(connection: metadata.Metadata, execution_id: int) -> bool:
    with connection as handle:
        blessing = run_metadata.outputs_of(handle.store, execution_id)["blessing"]
        return blessing.custom_properties["blessed"].int_value == 1


def _slow(node_id: str) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if node_id in _TALKING else announced("under way", after=10)


def _unused_run_id(connection: metadata.Metadata) -> str:
    """The time, or the next second that no run is named after: clocks go back, and reports are named by the second."""
    with connection as handle:
        taken = {context.name[:19] for context in handle.store.get_contexts_by_type("pipeline_run")}
    moment = datetime.datetime.now()
    while moment.isoformat()[:19] in taken:
        moment += datetime.timedelta(seconds=1)
    return moment.isoformat()


@contextlib.contextmanager
def _peak_memory() -> Iterator[list[int]]:
    """Yields a list whose one number becomes the peak resident bytes of this process and its children."""
    peak, stop, me = [0], threading.Event(), psutil.Process()

    def watch() -> None:
        while True:
            total = 0
            for process in [me, *me.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    total += process.memory_info().rss
            peak[0] = max(peak[0], total)
            if stop.wait(0.25):
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def _cpu_seconds() -> float:
    """CPU time of this process, and of processes that it has started and that have ended."""
    return sum(os.times()[:4])


def _note_cost(connection: metadata.Metadata, execution: Any, peak_bytes: int, cpu_seconds: float) -> bool:
    """Notes what a step has taken in ML Metadata, unless it was cached. Returns whether it was."""
    if execution is None or not execution.execution_id:
        return False
    with connection as handle:
        (record,) = handle.store.get_executions_by_id([execution.execution_id])
        cached = record.last_known_state == metadata_store_pb2.Execution.CACHED
        if not cached:
            record.custom_properties[run_metadata.PEAK_PROPERTY].int_value = peak_bytes
            record.custom_properties[run_metadata.CPU_PROPERTY].double_value = cpu_seconds
            handle.store.put_executions([record])
    return cached


@contextlib.contextmanager
def locked(workspace: str) -> Iterator[None]:
    """Holds the workspace's lock; the kernel drops it when the process ends, however it ends.

    Raises:
        WorkspaceBusy: Another process holds it.
        OSError: The folder cannot be written, or its file system has no locks.
    """
    path = os.path.join(workspace, ".lock")
    held = WorkspaceBusy(
        f"Another run works in {workspace} and holds {path}. Wait for it to end, or use another folder with "
        "--workspace."
    )
    with file_lock.locked(path, held=held):
        yield


def run(config: Config) -> summary.RunSummary:
    """Runs the pipeline of a configuration here.

    Args:
        config: All settings; `workspace` must be an absolute path.

    Returns:
        What the run did, read back from the metadata.

    Raises:
        WorkspaceBusy: Another run is under way in the workspace.
        MetadataError: What its earlier runs have noted cannot be read.
    """
    # One operation rarely fills many cores here, and threads that wait for each other cost a sixth of the CPU time.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(max(1, usable_cores() // NETWORK_THREADS)))
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "2")
    imports.remember_signatures()
    os.makedirs(config.workspace, exist_ok=True)
    with locked(config.workspace):
        run_metadata.check_metadata(config.workspace)
        database = os.path.join(config.workspace, METADATA_FILE)
        connection = metadata.sqlite_metadata_connection_config(database)
        create = _DEFINITIONS[config.task]
        pipeline = create(config, os.path.join(config.workspace, PIPELINE_FOLDER), connection)
        try:
            LocalRunner(config.push.server_command).run(pipeline)
        finally:
            early.end()
        return summary.read(config.workspace, pipeline.pipeline_info.pipeline_name)
