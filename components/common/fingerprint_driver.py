"""Drivers that find out what a step depends on besides its artifacts: what changes there is a changed input."""

from __future__ import annotations

import abc
from typing import Any

from tfx.dsl.components.base import base_driver
from tfx.orchestration.portable import base_driver as portable_driver
from tfx.proto.orchestration import driver_output_pb2


class NotingDriver(base_driver.BaseDriver, portable_driver.BaseDriver, abc.ABC):
    """Sets execution properties before TFX looks into its cache, which compares them with the others."""

    def __init__(self, metadata_handle: Any):
        base_driver.BaseDriver.__init__(self, metadata_handle)
        portable_driver.BaseDriver.__init__(self, metadata_handle)

    @abc.abstractmethod
    def noted(self, execution_info: Any) -> dict[str, str]:
        """What to set, by name.

        Args:
            execution_info: TFX's, with `input_dict` and `exec_properties`.
        """

    def run(self, execution_info: Any) -> driver_output_pb2.DriverOutput:
        """Called by runners that execute the pipeline's intermediate representation."""
        result = driver_output_pb2.DriverOutput()
        for name, value in self.noted(execution_info).items():  # the others stay as they are
            result.exec_properties[name].string_value = value
        return result


class FingerprintDriver(NotingDriver):
    """For steps that read files which are no artifacts; it sets the property `input_fingerprint`."""

    @abc.abstractmethod
    def fingerprint(self, exec_properties: dict[str, Any]) -> str:
        """A digest that changes when what the step reads changes."""

    def noted(self, execution_info: Any) -> dict[str, str]:
        """The digest."""
        return {"input_fingerprint": self.fingerprint(dict(execution_info.exec_properties))}
