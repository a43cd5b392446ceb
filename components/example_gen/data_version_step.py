"""DataVersion: the fingerprint of the data as a step of its own, for runners that call no drivers.

Where a runner calls them, HandwritingExampleGen's driver does the same without a step.
"""

from __future__ import annotations

from typing import Any

from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact_utils, channel_utils, component_spec, standard_artifacts

from components.common import storage
from components.common.folders import nearest
from components.common.settings import ConfigError
from components.example_gen.fingerprint import fingerprint
from components.example_gen.folders import find_tables
from components.example_gen.settings import DataConfig


class DataVersionSpec(component_spec.ComponentSpec):
    """Output and settings of DataVersion."""

    PARAMETERS = {
        "data_config": component_spec.ExecutionParameter(type=str),
        "model_dir": component_spec.ExecutionParameter(type=str),
    }
    INPUTS: dict[str, Any] = {}
    OUTPUTS = {"fingerprint": component_spec.ChannelParameter(type=standard_artifacts.String)}


class Executor(base_executor.BaseExecutor):
    """Looks at label files and images."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Writes the fingerprint.

        Raises:
            ConfigError: Pusher could not write the model directory.
            DatasetError: There is nothing to read.
        """
        place = exec_properties["model_dir"]
        try:
            storage.check_writable(place if storage.is_remote(place) else nearest(place))
        except OSError as error:
            why = error.strerror or error
            raise ConfigError(f"push.model_dir: {place} cannot be written by this container: {why}") from error
        tables, _ = find_tables(DataConfig.model_validate_json(exec_properties["data_config"]))
        artifact_utils.get_single_instance(output_dict["fingerprint"]).write(fingerprint(tables))


class DataVersion(base_component.BaseComponent):
    """Its output `fingerprint` changes when a label file or an image changes; it must not be cached itself."""

    SPEC_CLASS = DataVersionSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(self, data: DataConfig, model_dir: str):
        """Creates the step.

        Args:
            data: What to look at.
            model_dir: Directory of the versions. Whether it can be written, only a container knows, and this step is
                the first one: Pusher would find out after the training.
        """
        super().__init__(
            DataVersionSpec(
                data_config=data.model_dump_json(),
                model_dir=model_dir,
                fingerprint=channel_utils.as_channel([standard_artifacts.String()]),
            )
        )
