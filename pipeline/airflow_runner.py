"""The pipeline on Airflow: `htr compile airflow` writes a DAG, and each of its tasks comes back here for one step.

Airflow and TensorFlow do not share an environment: their libraries exclude each other, and a scheduler that reads DAG
files every few seconds should not import TensorFlow. So the DAG file (airflow_dag.py) needs Airflow alone, and its
tasks start

    python -m pipeline.airflow_runner htr.json StepName RUN_ID

with the Python of the pipeline, which launches the step as the local runner does.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

from components.common.settings import ConfigError
from components.common.suggestions import did_you_mean
from pipeline.config import Config

# An environment variable, since command lines are no place for the database's password.
METADATA_VARIABLE = "HTR_METADATA_DATABASE"


def compile_dag(config: Config, folder: str) -> Path:
    """Writes `<name>.py` and `<name>.json` into Airflow's folder of DAGs.

    Args:
        config: all settings; every worker must see its paths, which must be absolute.
        folder: where Airflow looks for DAGs; made if missing.

    Returns:
        The DAG file.

    Raises:
        ConfigError: a setting cannot work, such as a step in `airflow.pools` or `airflow.queues` that does not exist.
    """
    from google.protobuf import json_format
    from tfx.dsl.compiler import compiler
    from tfx.orchestration import metadata

    from components.report import summary
    from pipeline import preflight
    from pipeline.definition import create_pipeline

    preflight.check_airflow(config)
    connection = metadata.sqlite_metadata_connection_config(os.path.join(config.workspace, summary.METADATA_FILE))
    root = os.path.join(config.workspace, summary.PIPELINE_FOLDER)
    compiled = compiler.Compiler().compile(create_pipeline(config, root, connection, fails_unblessed=True))
    upstream = {n.pipeline_node.node_info.id: list(n.pipeline_node.upstream_nodes) for n in compiled.nodes}
    settings = config.airflow
    for name, steps in (("pools", settings.pools), ("queues", settings.queues)):
        unknown = sorted(steps.keys() - upstream.keys())
        if unknown:
            meant = did_you_mean(unknown[0], upstream)
            raise ConfigError(f"airflow.{name}: no step {', '.join(unknown)}; there are {', '.join(upstream)}{meant}")
    document = {
        "name": config.name,
        "airflow": settings.model_dump(mode="json"),
        "upstream": upstream,
        "python": sys.executable,
        "workspace": config.workspace,
        "pipeline": json_format.MessageToDict(compiled, preserving_proto_field_name=True),
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    dag = Path(folder) / f"{config.name}.py"
    dag.with_suffix(".json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name("airflow_dag.py"), dag)
    return dag


def run_step(document: dict[str, Any], step: str, run_id: str) -> None:
    """Launches one step of a compiled pipeline.

    Args:
        document: what `compile_dag` wrote.
        step: id of the step.
        run_id: Airflow's, which becomes the run's in ML Metadata.

    Raises:
        WorkspaceBusy: `htr run` or another step works in the workspace, where the metadata is in a file.
        MetadataError: what earlier runs have noted there cannot be read.
    """
    from google.protobuf import json_format
    from tfx.dsl.compiler import constants
    from tfx.orchestration import metadata
    from tfx.orchestration.portable import runtime_parameter_utils
    from tfx.proto.orchestration import pipeline_pb2

    from components.report import summary
    from pipeline import local_runner, steps

    pipeline = json_format.ParseDict(document["pipeline"], pipeline_pb2.Pipeline())
    runtime_parameter_utils.substitute_runtime_parameter(pipeline, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: run_id})
    node = next(node for node in pipeline.nodes if node.pipeline_node.node_info.id == step)
    database = os.environ.get(METADATA_VARIABLE)
    if database:
        connection = metadata.mysql_metadata_connection_config(**json.loads(database))
        steps.launch(pipeline, node, metadata.Metadata(connection))
        return
    os.makedirs(document["workspace"], exist_ok=True)
    with local_runner.locked(document["workspace"]):
        summary.check_metadata(document["workspace"])
        steps.launch(pipeline, node, metadata.Metadata(steps.metadata_connection(pipeline)))


def main() -> int:
    """Runs the step that the command line names; the last line of its output says what went wrong."""
    path, step, run_id = sys.argv[1:]
    try:
        run_step(json.loads(Path(path).read_text(encoding="utf-8")), step, run_id)
    except Exception as error:
        from pipeline.exit_codes import exit_code
        from pipeline.local_runner import root_message

        traceback.print_exc()
        name, message = root_message(error)
        sys.stderr.flush()
        print(" ".join(message.split()), flush=True)
        return exit_code(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
