"""Serving check: loads the exported model in a model server process and sends it the warm-up requests over gRPC.

A model can look healthy in Python and still fail in a server, so nothing is pushed before a server has answered.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact_utils, channel_utils, component_spec, standard_artifacts
from tfx.utils import json_utils, path_utils

from components.common import storage
from components.common.artifacts import is_blessed
from components.common.datasets import untuned
from components.common.words import counted
from components.serving_check import early
from serving.version_directory import WARMUP_FILE

START_SECONDS = 180
_VERSION = "1"
_CHANNEL = {
    "grpc.enable_http_proxy": 0,  # a proxy for the world outside does not know this machine's own ports
    "grpc.max_receive_message_length": 32 * 2**20,  # as our client's; gRPC's own limit is 4 MiB
    # A server that imports TensorFlow is not there for seconds; gRPC would wait ever longer before it tries again.
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.min_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 200,
}


class NotServable(RuntimeError):
    """The model server did not load the model or did not answer its warm-up requests."""


class ServingCheckSpec(component_spec.ComponentSpec):
    """Inputs, outputs and settings of ServingCheck."""

    PARAMETERS = {
        "server_command": component_spec.ExecutionParameter(type=str),
        "name": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "model_blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing),
    }
    OUTPUTS = {"blessing": component_spec.ChannelParameter(type=standard_artifacts.InfraBlessing)}


class Executor(base_executor.BaseExecutor):
    """Starts the server, sends the requests, stops the server."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Marks the InfraBlessing; a model that the gate did not bless is not tried.

        Raises:
            NotServable: The server does not answer as it should; the message has what it said.
        """
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        model_blessing = artifact_utils.get_single_instance(input_dict["model_blessing"])
        blessing.set_int_custom_property("blessed", 0)
        if not is_blessed(model_blessing):
            return
        model = artifact_utils.get_single_instance(input_dict["model"])
        command = json_utils.loads(exec_properties["server_command"])
        check(path_utils.serving_model_path(model.uri), exec_properties["name"], command)
        blessing.set_int_custom_property("blessed", 1)


def check(model_path: str, name: str, command: list[str]) -> int:
    """Serves a SavedModel in a process of its own and replays its warm-up requests.

    Args:
        model_path: Directory of the SavedModel, with warm-up requests.
        name: Name of the servable.
        command: Command of a server that takes TensorFlow Serving's flags; the embedded one if empty.

    Returns:
        Number of requests that were answered.

    Raises:
        NotServable: The server does not answer as it should; the message has what it said.
    """
    with tempfile.TemporaryDirectory() as base:
        # A server wants numbered versions below a base path.
        version = os.path.join(base, name, _VERSION)
        storage.copy_tree(model_path, version)
        port = _free_port()
        flags = [
            f"--port={port}", f"--model_name={name}", f"--model_base_path={os.path.dirname(version)}",
            # The default would try a bad model for minutes before anybody hears of it.
            "--max_num_load_retries=0",
        ]  # fmt: skip
        with early.serving(flags, command) as server:
            try:
                return _replay(port, name, os.path.join(version, WARMUP_FILE), server.process)
            except NotServable as error:
                raise NotServable(f"{error} The server's last words:\n{server.last_words()}") from None


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _replay(port: int, name: str, warmup_file: str, process: subprocess.Popen) -> int:
    with grpc.insecure_channel(f"127.0.0.1:{port}", list(_CHANNEL.items())) as channel:
        _wait_until_available(model_service_pb2_grpc.ModelServiceStub(channel), name, process)
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        answered = 0
        for record in untuned(tf.data.TFRecordDataset(warmup_file)).as_numpy_iterator():
            request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
            try:
                response = stub.Predict(request, timeout=60)
            except grpc.RpcError as error:
                raise NotServable(
                    f"{request.model_spec.signature_name}: {error.code().name}: {error.details()}"
                ) from None
            if wrong := what_is_wrong(request, response):
                raise NotServable(f"{request.model_spec.signature_name}: {wrong}.")
            answered += 1
        if not answered:
            raise NotServable(f"{warmup_file} holds no requests.")
        return answered


def what_is_wrong(request: predict_pb2.PredictRequest, response: predict_pb2.PredictResponse) -> str:
    """What makes an answer useless to every client; empty if nothing does.

    Args:
        request: A request, each of whose inputs has a row for each image.
        response: The server's answer to it.
    """
    if not response.outputs:
        return "the answer has no outputs"
    (asked,) = {tensor.tensor_shape.dim[0].size for tensor in request.inputs.values()}
    for name, tensor in sorted(response.outputs.items()):
        values = tf.make_ndarray(tensor)
        if values.shape[:1] != (asked,):
            return f"the output {name} has the shape {list(values.shape)} for {counted(asked, 'input')}"
        if tf.as_dtype(tensor.dtype).is_floating and not np.isfinite(values.astype(np.float32)).all():
            return f"the output {name} holds numbers that are not finite"
    return ""


def _wait_until_available(stub: Any, name: str, process: subprocess.Popen) -> None:
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = name
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise NotServable(f"The server ended with code {process.returncode} before it served the model.")
        try:
            versions = stub.GetModelStatus(request, timeout=5, wait_for_ready=False).model_version_status
        except grpc.RpcError:
            versions = []
        for status in versions:
            if status.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE:
                return
            if status.state == get_model_status_pb2.ModelVersionStatus.END:
                raise NotServable(f"The server could not load the model: {status.status.error_message}.")
        time.sleep(0.1)
    raise NotServable(f"The server did not serve the model within {START_SECONDS} s.")


class ServingCheck(base_component.BaseComponent):
    """Blesses a model for serving once a model server has answered its warm-up requests."""

    SPEC_CLASS = ServingCheckSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(self, model: Any, model_blessing: Any, name: str, server_command: list[str]):
        """Creates the step.

        Args:
            model: Channel of the exported model.
            model_blessing: Channel of the gate's verdict.
            name: Name of the servable.
            server_command: Command of a model server; the embedded one if empty.
        """
        super().__init__(
            ServingCheckSpec(
                model=model, model_blessing=model_blessing, name=name,
                server_command=json_utils.dumps(server_command),
                blessing=channel_utils.as_channel([standard_artifacts.InfraBlessing()]),
            )
        )  # fmt: skip
