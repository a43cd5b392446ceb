"""The curated schema as a step. Its text is a setting of the step: another schema re-runs what depends on it, and no
path of the machine that describes the pipeline has to exist on the one that runs it.
"""  # noqa: D205

from __future__ import annotations

import os
from typing import Any

from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact_utils, channel_utils, component_spec, standard_artifacts

from components.common.artifacts import write_text
from components.example_validator.thresholds import SCHEMA_FILE


class SchemaGenSpec(component_spec.ComponentSpec):
    """Output and setting of SchemaGen."""

    PARAMETERS = {"text": component_spec.ExecutionParameter(type=str)}
    INPUTS: dict[str, Any] = {}
    OUTPUTS = {"schema": component_spec.ChannelParameter(type=standard_artifacts.Schema)}


class Executor(base_executor.BaseExecutor):
    """Writes the schema."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Writes the text to the file that TFX looks for."""
        folder = artifact_utils.get_single_uri(output_dict["schema"])
        write_text(os.path.join(folder, "schema.pbtxt"), exec_properties["text"])


class SchemaGen(base_component.BaseComponent):
    """Provides components/example_validator/schema.pbtxt to the other steps."""

    SPEC_CLASS = SchemaGenSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(self) -> None:
        """Creates the step."""
        text = SCHEMA_FILE.read_text(encoding="utf-8")
        super().__init__(SchemaGenSpec(text=text, schema=channel_utils.as_channel([standard_artifacts.Schema()])))
