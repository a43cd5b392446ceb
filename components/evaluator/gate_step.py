"""The step Gate: fails the run of a model that is not blessed, for orchestrators that show people the state of steps.

`htr run` needs no such step: it reads the verdict when the pipeline has ended.
"""

from __future__ import annotations

from typing import Any

from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact_utils, component_spec, standard_artifacts

from components.common.artifacts import is_blessed
from components.evaluator.tfma_verdict import read_verdict


class NotBlessed(RuntimeError):
    """The model misses a bound of the gate; the message names bound and value."""


class GateSpec(component_spec.ComponentSpec):
    """Inputs of Gate."""

    PARAMETERS: dict[str, Any] = {}
    INPUTS = {
        "evaluation": component_spec.ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing),
    }
    OUTPUTS: dict[str, Any] = {}


class Executor(base_executor.BaseExecutor):
    """Reads the verdict."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Does nothing for a blessed model.

        Raises:
            NotBlessed: Bounds were missed; the message names all of them.
        """
        blessing = artifact_utils.get_single_instance(input_dict["blessing"])
        if not is_blessed(blessing):
            verdict = read_verdict(artifact_utils.get_single_uri(input_dict["evaluation"]))
            failures = "; ".join(map(str, verdict.failures))
            raise NotBlessed(f"The model is not blessed: {failures}. Nothing is pushed.")


class Gate(base_component.BaseComponent):
    """Stands between the verdict and the push."""

    SPEC_CLASS = GateSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(self, evaluation: Any, blessing: Any):
        """Creates the step.

        Args:
            evaluation: Channel of the metrics.
            blessing: Channel of the verdict.
        """
        super().__init__(GateSpec(evaluation=evaluation, blessing=blessing))
