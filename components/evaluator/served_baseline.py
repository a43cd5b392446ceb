"""The model that a candidate has to beat, for runners that look nothing up in ML Metadata: the one in service.

`components.evaluator.baseline` finds it where there is ML Metadata.
"""

from __future__ import annotations

from typing import Any

from tfx.components.evaluator import component, executor
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact_utils, channel_utils, component_spec, standard_artifacts, standard_component_specs
from tfx.utils import path_utils

from components import storage
from components.pusher import versions
from pipeline.console import console

_BASELINE = standard_component_specs.BASELINE_MODEL_KEY


class ServedBaselineSpec(component_spec.ComponentSpec):
    """Input, output and setting of ServedBaseline."""

    PARAMETERS = {"model_dir": component_spec.ExecutionParameter(type=str)}  # noqa: RUF012 - the form of ComponentSpec
    INPUTS = {"candidate": component_spec.ChannelParameter(type=standard_artifacts.Model)}  # noqa: RUF012
    OUTPUTS = {"model": component_spec.ChannelParameter(type=standard_artifacts.Model)}  # noqa: RUF012


class Executor(base_executor.BaseExecutor):
    """Copies the model in service."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Copies the newest pushed version that is not the candidate; leaves the output empty if there is none."""
        candidate = path_utils.serving_model_path(artifact_utils.get_single_uri(input_dict["candidate"]))
        found = (v for v in reversed(versions.in_service(exec_properties["model_dir"]))
                 if not versions.holds(v, candidate))  # fmt: skip
        baseline = next(found, None)
        if baseline is None:
            console().print(f"  no other version in {exec_properties['model_dir']}: nothing to compare with")
            return
        console().print(f"  version {baseline.number} of {exec_properties['model_dir']}")
        model = artifact_utils.get_single_instance(output_dict["model"])
        storage.copy_tree(baseline.path, path_utils.serving_model_dir(model.uri))


class ServedBaseline(base_component.BaseComponent):
    """Provides the newest pushed version that is not the candidate; it must not be cached."""

    SPEC_CLASS = ServedBaselineSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(self, candidate: Any, model_dir: str):
        """Creates the step.

        Args:
            candidate: channel of the model that will be judged.
            model_dir: directory of the numbered versions.
        """
        super().__init__(
            ServedBaselineSpec(
                candidate=candidate, model_dir=model_dir, model=channel_utils.as_channel([standard_artifacts.Model()])
            )
        )


class EvaluatorExecutor(executor.Executor):
    """TFX's executor, for which an empty model is no model."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Judges the candidate, and compares it with the baseline if there is one."""
        models = [
            model
            for model in input_dict.get(_BASELINE, [])
            if storage.exists(f"{path_utils.serving_model_path(model.uri)}/saved_model.pb")
        ]
        super().Do({**input_dict, _BASELINE: models}, output_dict, exec_properties)


class Evaluator(component.Evaluator):
    """TFX's Evaluator, where the baseline may be the output of a step that found none."""

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(EvaluatorExecutor)
