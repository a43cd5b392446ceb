"""Pusher that publishes a version in one rename, keeps the last few, and the way back to an earlier one."""

from __future__ import annotations

import os
from typing import Any

from tfx.components.pusher import component, executor
from tfx.dsl.components.base import executor_spec
from tfx.proto import pusher_pb2
from tfx.types import artifact_utils
from tfx.utils import json_utils, proto_utils

from components.pusher import versions


class Executor(executor.Executor):
    """TFX's Pusher, with an atomic copy instead of one that a polling server can see half-done."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Pushes a blessed model; marks the PushedModel artifact as not pushed otherwise."""
        self._log_startup(input_dict, output_dict, exec_properties)
        pushed = artifact_utils.get_single_instance(output_dict["pushed_model"])
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(pushed)
            return
        destination = pusher_pb2.PushDestination()
        proto_utils.json_to_proto(exec_properties["push_destination"], destination)
        custom = json_utils.loads(exec_properties.get("custom_config") or "{}") or {}
        version = versions.push(
            self.GetModelPath(input_dict), destination.filesystem.base_directory, custom.get("keep_versions", 5)
        )
        path = os.path.join(destination.filesystem.base_directory, str(version))
        self._MarkPushed(pushed, pushed_destination=path, pushed_version=str(version))


class AtomicPusher(component.Pusher):
    """Pushes into a directory of numbered versions that a model server watches."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)
