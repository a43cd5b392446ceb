"""Pusher that publishes a version in one rename, keeps the last few, and the way back to an earlier one."""

from __future__ import annotations

import json
import os
from typing import Any

from tfx.components.pusher import executor
from tfx.dsl.components.base import base_component, executor_spec
from tfx.proto import pusher_pb2
from tfx.types import artifact_utils, channel_utils, component_spec, standard_artifacts, standard_component_specs
from tfx.utils import json_utils, proto_utils

from components.common import storage
from components.common.artifacts import Report
from components.common.console import console
from components.common.in_service import holds, needing_no_push, withdrawn_as
from components.common.writers import without_writers
from components.pusher.publishing import WITHDRAWN_VERSION, push, why_withheld
from serving.version_directory import CARD_FILE, LEARNT_FILE, METRICS_FILE

MODEL_NAME = "model_name"
"""Property of PushedModel: name of the model in the file of labels."""


class Executor(executor.Executor):
    """TFX's Pusher, with an atomic copy instead of one that a polling server can see half-done."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Pushes a blessed model that was not withdrawn; marks the PushedModel artifact as not pushed otherwise."""
        self._log_startup(input_dict, output_dict, exec_properties)
        pushed = artifact_utils.get_single_instance(output_dict["pushed_model"])
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(pushed)
            return
        destination = pusher_pb2.PushDestination()
        proto_utils.json_to_proto(exec_properties["push_destination"], destination)
        custom = json_utils.loads(exec_properties.get("custom_config") or "{}") or {}
        model, model_dir = self.GetModelPath(input_dict), destination.filesystem.base_directory
        # A step may be repeated: after a lost connection to the cluster, or where a new verdict says the same again.
        same = next((version for version in needing_no_push(model_dir, custom["name"]) if holds(version, model)), None)
        # Without a cache the next run on the same data makes the same model: its push would undo `htr rollback`.
        if same is None and (withdrawn := withdrawn_as(model_dir, model)) is not None:
            self._MarkNotPushed(pushed)
            pushed.set_string_custom_property(WITHDRAWN_VERSION, os.path.join(model_dir, str(withdrawn.number)))
            text = f"{why_withheld(withdrawn.number)}, for the settings whose versions are in {model_dir}"
            console().print(f"  Not pushed: {text}", markup=False)
            return
        version = same.number if same else push(model, model_dir, custom["keep_versions"])
        _describe(artifact_utils.get_single_uri(input_dict["report"]), model_dir, version)
        path = os.path.join(model_dir, str(version))
        self._MarkPushed(pushed, pushed_destination=path, pushed_version=str(version))
        pushed.set_string_custom_property(MODEL_NAME, custom["name"])


def _describe(report: str, model_dir: str, version: int) -> None:
    """Puts model card, metrics and note on the images beside a version, without what they tell of single writers."""
    beside = os.path.join(model_dir, f"{version}.")
    for name in (CARD_FILE, LEARNT_FILE):
        if storage.exists(os.path.join(report, name)):  # of a line finder, no images are noted
            storage.copy_file(os.path.join(report, name), beside + name)
    metrics = without_writers(json.loads(storage.read(os.path.join(report, METRICS_FILE))))
    storage.write(beside + METRICS_FILE, json.dumps(metrics, ensure_ascii=False, indent=1).encode())


class PusherSpec(standard_component_specs.PusherSpec):
    """TFX's specification with the run's report as another input."""

    INPUTS = {
        **standard_component_specs.PusherSpec.INPUTS,
        "report": component_spec.ChannelParameter(type=Report),
    }


class Pusher(base_component.BaseComponent):
    """Pushes into a directory of numbered versions that a model server watches, with a model card for each."""

    SPEC_CLASS = PusherSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self, model: Any, model_blessing: Any, infra_blessing: Any, report: Any, model_dir: str, name: str,
        keep_versions: int,
    ):  # fmt: skip
        """Creates the step.

        Args:
            model: Channel of the exported model.
            model_blessing: Channel of the gate's verdict.
            infra_blessing: Channel of the serving check's verdict.
            report: Channel of the run's report, which holds the model card.
            model_dir: Directory of the numbered versions.
            name: Name of the model in the file of labels.
            keep_versions: How many remain.
        """
        filesystem = pusher_pb2.PushDestination.Filesystem(base_directory=model_dir)
        custom = {"name": name, "keep_versions": keep_versions}
        super().__init__(
            PusherSpec(
                model=model, model_blessing=model_blessing, infra_blessing=infra_blessing, report=report,
                push_destination=pusher_pb2.PushDestination(filesystem=filesystem),
                custom_config=json_utils.dumps(custom),
                pushed_model=channel_utils.as_channel([standard_artifacts.PushedModel()]),
            )
        )  # fmt: skip
