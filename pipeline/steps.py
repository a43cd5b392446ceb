"""Launches one step of a compiled pipeline, as the local runner and a task of an orchestrator both do."""

from __future__ import annotations

from typing import Any

from tfx.orchestration import metadata
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import launcher


def metadata_connection(pipeline: Any) -> Any:
    """The ML Metadata connection that a compiled pipeline carries."""
    config = runner_utils.extract_local_deployment_config(pipeline).metadata_connection_config
    return getattr(config, config.WhichOneof("connection_config"))


def launch(pipeline: Any, node: Any, connection: metadata.Metadata) -> Any:
    """Runs driver, executor and publisher of a step; a step whose result is cached does not execute.

    Args:
        pipeline: compiled pipeline, its runtime parameters filled in.
        node: the step, one of its `nodes`.
        connection: to ML Metadata.

    Returns:
        What TFX says about the execution.
    """
    deployment = runner_utils.extract_local_deployment_config(pipeline)
    node_id = node.pipeline_node.node_info.id
    return launcher.Launcher(
        pipeline_node=node.pipeline_node,
        mlmd_connection=connection,
        pipeline_info=pipeline.pipeline_info,
        pipeline_runtime_spec=pipeline.runtime_spec,
        executor_spec=runner_utils.extract_executor_spec(deployment, node_id),
        custom_driver_spec=runner_utils.extract_custom_driver_spec(deployment, node_id),
    ).launch()
