"""The pipeline on Airflow: `htr compile airflow` writes a DAG, and each of its tasks comes back here for one step.

Airflow and TensorFlow do not share an environment: their libraries exclude each other, and a scheduler that reads DAG
files every few seconds should not import TensorFlow. So the DAG file (airflow_dag.py) needs Airflow alone, and its
tasks start

    python -m pipeline.runners.airflow_runner htr.json StepName RUN_ID MAX_TRIES

with the Python of the pipeline, which launches the step as the local runner does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from components.common import storage
from components.common.settings import ConfigError
from components.common.stopping import Stopped, follow_parent, stoppable
from components.common.suggestions import did_you_mean
from components.common.workspace import METADATA_FILE, PIPELINE_FOLDER
from htr_client.version import __version__
from pipeline.config import Config
from pipeline.runners.airflow_pinning import pinned
from pipeline.runners.process import check_release, limit_threads, tell

# An environment variable, since command lines are no place for the database's password.
METADATA_VARIABLE = "HTR_METADATA_DATABASE"
# A step that is stopped has that long to take away what it has begun.
_STOP_SECONDS = 3.0


def compile_dag(config: Config) -> dict[str, Any]:
    """Compiles the pipeline of a configuration.

    Args:
        config: All settings; every worker must see its paths, which must be absolute.

    Returns:
        What `write_dag` writes.

    Raises:
        ConfigError: A setting cannot work, such as a step in `airflow.pools` or `airflow.queues` that does not exist.
        StoreError: A store fails that `language.texts` are read from.
    """
    from google.protobuf import json_format
    from tfx.dsl.compiler import compiler
    from tfx.orchestration import metadata

    from pipeline import preflight
    from pipeline.definition import create_pipeline

    preflight.check_airflow(config)
    connection = metadata.sqlite_metadata_connection_config(os.path.join(config.workspace, METADATA_FILE))
    root = os.path.join(config.workspace, PIPELINE_FOLDER)
    compiled = compiler.Compiler().compile(create_pipeline(config, root, connection, fails_unblessed=True))
    upstream = {n.pipeline_node.node_info.id: list(n.pipeline_node.upstream_nodes) for n in compiled.nodes}
    settings = config.airflow
    for name, steps in (("pools", settings.pools), ("queues", settings.queues)):
        unknown = sorted(steps.keys() - upstream.keys())
        if unknown:
            meant = did_you_mean(unknown[0], upstream)
            raise ConfigError(f"airflow.{name}: no step {', '.join(unknown)}; there are {', '.join(upstream)}{meant}")
    return {
        "name": config.name,
        "release": __version__,
        "airflow": settings.model_dump(mode="json"),
        "upstream": upstream,
        "python": sys.executable,
        "workspace": config.workspace,
        "pipeline": json_format.MessageToDict(compiled, preserving_proto_field_name=True),
    }


def replaced_workspace(document: dict[str, Any], folder: str) -> str | None:
    """The workspace of the DAG that a compiled one would replace in a folder; None if it is the same."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        before = json.loads((Path(folder) / f"{document['name']}.json").read_text(encoding="utf-8"))["workspace"]
        return str(before) if before != document["workspace"] else None
    return None


def write_dag(document: dict[str, Any], folder: str) -> Path:
    """Writes `<name>.py` and `<name>.json` into Airflow's folder of DAGs, which is made if it is missing.

    Returns:
        The DAG file.

    Raises:
        OSError: It cannot be written.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    dag = Path(folder) / f"{document['name']}.py"
    # Airflow reads the folder all the time, and must find no half of a file.
    storage.write(str(dag.with_suffix(".json")), json.dumps(document, indent=1).encode())
    storage.write(str(dag), Path(__file__).with_name("airflow_dag.py").read_bytes())
    return dag


def run_step(document: dict[str, Any], step: str, run_id: str) -> None:
    """Launches one step of a compiled pipeline; does nothing if that has no such step.

    Args:
        document: What `compile_dag` returned.
        step: Id of the step.
        run_id: Airflow's, which becomes the run's in ML Metadata.

    Raises:
        WorkspaceBusy: `htr run` or another step works in the workspace, where the metadata is in a file.
        MetadataError: What earlier runs have noted there cannot be read.
    """
    from google.protobuf import json_format
    from tfx.dsl.compiler import constants
    from tfx.orchestration import metadata
    from tfx.orchestration.portable import runtime_parameter_utils
    from tfx.proto.orchestration import pipeline_pb2

    from components.common import run_metadata
    from pipeline.runners import local_runner, steps

    pipeline = json_format.ParseDict(document["pipeline"], pipeline_pb2.Pipeline())
    runtime_parameter_utils.substitute_runtime_parameter(pipeline, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: run_id})
    node = next((node for node in pipeline.nodes if node.pipeline_node.node_info.id == step), None)
    if node is None:
        print(f"This run began without the step {step}, which was compiled later: there is nothing to do.", flush=True)
        return
    database = os.environ.get(METADATA_VARIABLE)
    if database:
        connection = metadata.Metadata(metadata.mysql_metadata_connection_config(**json.loads(database)))
        _heed_reruns(node.pipeline_node, connection)
        steps.launch(pipeline, node, connection)
        return
    os.makedirs(document["workspace"], exist_ok=True)
    with local_runner.locked(document["workspace"]):
        run_metadata.check_metadata(document["workspace"])
        connection = metadata.Metadata(steps.metadata_connection(pipeline))
        _heed_reruns(node.pipeline_node, connection)
        steps.launch(pipeline, node, connection)


def _heed_reruns(node: Any, connection: Any) -> None:
    """Changes a step for what has run more than once in this run, since its task was cleared in Airflow.

    TFX knows a step's execution by the run. It does nothing where one has succeeded, and would give the outputs of all
    of them to the steps after it, which take one. So a step that is run again gets a context of its own, and a step
    after it the outputs of the last execution.

    Args:
        node: The step in the compiled pipeline, with the run's id.
        connection: ML Metadata.
    """
    from ml_metadata.proto import metadata_store_pb2
    from tfx.dsl.compiler import constants
    from tfx.orchestration.portable.mlmd import event_lib

    with connection as handle:
        store = handle.store
        names = _names(node.contexts.contexts)
        if before := _successful(store, names):
            again = node.contexts.contexts.add()
            again.type.name = "cleared_task"
            again.name.field_value.string_value = "/".join([*names.values(), str(len(before))])
        for wanted in node.inputs.inputs.values():
            if len(wanted.channels) != 1:
                continue
            (channel,) = wanted.channels
            names = _names(channel.context_queries)
            if constants.PIPELINE_RUN_CONTEXT_TYPE_NAME in names and len(found := _successful(store, names)) > 1:
                events = store.get_events_by_execution_ids(found[-1:])
                outputs = [e.artifact_id for e in events if event_lib.is_valid_output_event(e, channel.output_key)]
                live = [a.id for a in store.get_artifacts_by_id(outputs) if a.state == metadata_store_pb2.Artifact.LIVE]
                del wanted.channels[:]
                wanted.static_inputs.SetInParent()
                wanted.static_inputs.artifact_ids.extend(live)


def _names(contexts: Any) -> dict[str, str]:
    """Names of contexts, or of queries for them, by type."""
    return {context.type.name: context.name.field_value.string_value for context in contexts}


def _successful(store: Any, names: dict[str, str]) -> list[int]:
    """Ids of the successful executions that all these contexts have, the oldest one first."""
    from ml_metadata.proto import metadata_store_pb2

    done = (metadata_store_pb2.Execution.COMPLETE, metadata_store_pb2.Execution.CACHED)
    contexts = [store.get_context_by_type_and_name(*name) for name in names.items()]
    if None in contexts:
        return []
    found = ({e.id for e in store.get_executions_by_context(c.id) if e.last_known_state in done} for c in contexts)
    return sorted(set.intersection(*found))


def main() -> int:
    """Runs the step that the command line names; the last line of its output says what went wrong."""
    path, step, run_id, tries = sys.argv[1:]
    limit_threads()
    try:
        with (
            stoppable(_STOP_SECONDS),
            pinned(json.loads(Path(path).read_text(encoding="utf-8")), step, run_id, tries) as document,
        ):
            check_release(document.get("release"), "compile the DAG again, and start another run")
            run_step(document, step, run_id)
    except Stopped as stopped:
        return stopped.code
    except Exception as error:
        return tell(error)
    return 0


if __name__ == "__main__":
    # In a session of its own, it would outlive a worker that is killed, and be in the way of the next try.
    follow_parent(signal.SIGTERM)
    sys.exit(main())
