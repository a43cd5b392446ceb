"""Driver of steps that read files which are no artifacts, so that changed files are a changed input."""

from __future__ import annotations

import abc
from typing import Any

from tfx.dsl.components.base import base_driver
from tfx.orchestration.portable import base_driver as portable_driver
from tfx.proto.orchestration import driver_output_pb2


class FingerprintDriver(base_driver.BaseDriver, portable_driver.BaseDriver, abc.ABC):
    """Sets the execution property `input_fingerprint`, which TFX's cache compares with the others."""

    def __init__(self, metadata_handle: Any):
        base_driver.BaseDriver.__init__(self, metadata_handle)
        portable_driver.BaseDriver.__init__(self, metadata_handle)

    @abc.abstractmethod
    def fingerprint(self, exec_properties: dict[str, Any]) -> str:
        """A digest that changes when what the step reads changes."""

    def resolve_exec_properties(
        self, exec_properties: dict[str, Any], pipeline_info: Any, component_info: Any
    ) -> dict[str, Any]:
        """Called by runners with classic drivers."""
        exec_properties["input_fingerprint"] = self.fingerprint(exec_properties)
        return exec_properties

    def run(self, execution_info: Any) -> driver_output_pb2.DriverOutput:
        """Called by runners that execute the pipeline's intermediate representation."""
        result = driver_output_pb2.DriverOutput()
        properties = self.resolve_exec_properties(dict(execution_info.exec_properties), None, None)
        for name, value in properties.items():
            if value is not None:
                result.exec_properties[name].string_value = value
        return result
