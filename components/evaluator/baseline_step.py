"""The step Baseline: provides the model that a candidate is compared with, to Evaluator and RunReport."""

from __future__ import annotations

import os
from typing import Any

from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact_utils, channel_utils, component_spec, standard_artifacts
from tfx.utils import path_utils

from components.common import storage
from components.common.artifacts import write_text
from components.common.console import console
from components.common.fingerprint_driver import NotingDriver
from components.common.in_service import holds, in_service
from components.evaluator.baseline import BaselineError, find
from components.evaluator.settings import GateConfig
from components.evaluator.verdict import BASELINE_FILE, Baseline
from serving.version_directory import GRAPH_FILE, SETTINGS_FILE

_CHOICE = "choice"


class BaselineModelSpec(component_spec.ComponentSpec):
    """Input, output and settings of BaselineModel."""

    PARAMETERS = {
        "model_dir": component_spec.ExecutionParameter(type=str),
        "name": component_spec.ExecutionParameter(type=str),
        "warm_start": component_spec.ExecutionParameter(type=str, optional=True),
        "no_baseline_reason": component_spec.ExecutionParameter(type=str, optional=True),
        # Set by the driver, so that another version in service is a changed input.
        _CHOICE: component_spec.ExecutionParameter(type=str, optional=True),
    }
    INPUTS = {"candidate": component_spec.ChannelParameter(type=standard_artifacts.Model)}
    OUTPUTS = {"model": component_spec.ChannelParameter(type=standard_artifacts.Model)}


def _choose(input_dict: dict[str, Any], exec_properties: dict[str, Any]) -> Baseline:
    """Finds the baseline and tells the person at the terminal."""
    found = find(
        exec_properties["model_dir"],
        exec_properties["name"],
        path_utils.serving_model_path(artifact_utils.get_single_uri(list(input_dict["candidate"]))),
        exec_properties.get("warm_start"),
        exec_properties.get("no_baseline_reason"),
    )
    if found.kind == "in_service":
        console().print(f"  version {found.version} of {exec_properties['model_dir']}, in service", markup=False)
    elif found.path:
        console().print(f"  {found}", markup=False)
    else:
        console().print(f"  nothing to compare with: {found.reason}", markup=False)
    return found


class Driver(NotingDriver):
    """Chooses the baseline before TFX looks into its cache."""

    def noted(self, execution_info: Any) -> dict[str, str]:
        """The choice, with a digest of the model."""
        return {_CHOICE: _choose(execution_info.input_dict, execution_info.exec_properties).as_json()}


class Executor(base_executor.BaseExecutor):
    """Copies the baseline: a version may be deleted while it is needed here, or lie where a later step sees nothing."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Copies the model and notes what it is; leaves the output without a model if there is none.

        Raises:
            BaselineError: The model in service is none of this pipeline's, or has just been deleted.
        """
        noted = exec_properties.get(_CHOICE)
        found = Baseline.from_json(noted) if noted else _choose(input_dict, exec_properties)
        model = artifact_utils.get_single_instance(output_dict["model"])
        if found.path and not storage.exists(f"{found.path}/{GRAPH_FILE}"):
            found = _without(found, input_dict, exec_properties)
        if found.path:
            _check(found)
            storage.copy_tree(found.path, path_utils.serving_model_dir(model.uri))
        write_text(os.path.join(model.uri, BASELINE_FILE), found.as_json())


def _without(gone: Baseline, input_dict: dict[str, Any], exec_properties: dict[str, Any]) -> Baseline:
    """What to do without a version that retention has deleted: a candidate that is in service already needs it not."""
    candidate = path_utils.serving_model_path(artifact_utils.get_single_uri(list(input_dict["candidate"])))
    current = in_service(exec_properties["model_dir"], exec_properties["name"])
    if current is None or not holds(current, candidate):
        raise BaselineError(f"The gate cannot compare with {gone}: {gone.path} no longer exists. Run again.")
    return Baseline("none", reason=f"{gone} when the model was pushed, no longer exists")


def _check(found: Baseline) -> None:
    if not storage.exists(f"{found.path}/{SETTINGS_FILE}"):
        raise BaselineError(
            f"The gate cannot compare with {found}: {found.path} holds no {SETTINGS_FILE}, so this pipeline has not "
            "made it. Push to another push.model_dir, or leave the comparison out: gate.baseline=none with a "
            "gate.baseline_reason."
        )


class BaselineModel(base_component.BaseComponent):
    """Provides the model that the candidate is compared with, see `components.evaluator.baseline`.

    Where a runner does not call the driver, the step must not be cached.
    """

    SPEC_CLASS = BaselineModelSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)
    DRIVER_CLASS = Driver

    def __init__(
        self, candidate: Any, model_dir: str, name: str, bounds: GateConfig | None, warm_start: str | None = None
    ):
        """Creates the step.

        Args:
            candidate: Channel of the model that will be evaluated.
            model_dir: Directory of the numbered versions.
            name: Name of the servable.
            bounds: Section `gate`, which says whether there is a baseline at all; None where there always may be.
            warm_start: What the training started from.
        """
        super().__init__(
            BaselineModelSpec(
                candidate=candidate, model_dir=model_dir, name=name, warm_start=warm_start,
                no_baseline_reason=bounds.baseline_reason if bounds and bounds.baseline == "none" else None,
                model=channel_utils.as_channel([standard_artifacts.Model()]),
            )
        )  # fmt: skip
        self.with_id("Baseline")  # its class has another name: verdict.Baseline is what the step notes
