"""Settings with which a server does not start, and what it says to some that have no effect."""

from __future__ import annotations

import os
import socket

import pytest
from serving_client import Client
from test_serving_server import FAST

from serving.server import EmbeddedServer
from serving.status import ServingError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_base_path": ""}, "Both server_options.model_base_path and server_options.model_config_file are empty"),
        ({"batching_parameters_file": "x"}, "without setting server_options.enable_batching to true"),
        ({"ssl_config_file": "/no/such/file"}, "--ssl_config_file: /no/such/file: No such file"),
        ({"ssl_config_file": os.devnull, "ui_port": -1}, "--ui and --ssl_config_file exclude each other"),
        ({"model_config_file": "/no/such/file"}, "--model_config_file: /no/such/file: No such file"),
        ({"ssl_config_file": os.devnull}, "needs server_key and server_cert"),
        ({"file_system_poll_wait_seconds": -1}, "--file_system_poll_wait_seconds=-1: no version would ever be found"),
        ({"port": 99_999}, "--port=99999: ports end at 65535"),
        ({"port": -5}, "--port=-5: ports begin at 1; 0 picks a free one"),
        ({"port": -1}, "--port=-1: ports begin at 1; 0 picks"),
        ({"rest_api_port": -2}, "--rest_api_port=-2: ports begin at 1; -1 picks a free one"),
        ({"ui_port": -2}, "--ui_port=-2: ports begin at 1; -1 picks"),
        ({"rest_api_port": 65_536}, "--rest_api_port=65536: ports end"),
        ({"grpc_socket_path": "/no/such/folder/htr"}, "there is no folder /no/such/folder"),
        ({"max_request_bytes": 0}, "--max_request_bytes=0: the limit may be 1 to 2147483647 bytes"),
        ({"max_request_bytes": -1}, "--max_request_bytes=-1: the limit"),
        ({"max_request_bytes": 2**31}, "--max_request_bytes=2147483648: the limit"),
        ({"grpc_channel_arguments": "a=--1,b=-2147483648"}, "--grpc_channel_arguments=b=-2147483648: gRPC's numbers"),
        ({"host": "nowhere.invalid"}, "cannot listen on nowhere.invalid:0: (?!in use)"),
    ],
)
def test_bad_settings(base, settings, message):
    code = "UNAVAILABLE" if settings.keys() & {"grpc_socket_path", "host"} else "INVALID_ARGUMENT"
    with pytest.raises(ServingError, match=f"^{code}: .*{message}"):
        EmbeddedServer(**{**FAST, "model_base_path": str(base), **settings}).start()


def test_settings_without_effect_are_said(base, tmp_path, caplog):
    monitoring, batching = tmp_path / "monitoring.config", tmp_path / "batching.config"
    monitoring.write_text("prometheus_config { enable: true }")
    batching.write_text("pad_variable_length_inputs: true")
    files = {"monitoring_config_file": str(monitoring), "batching_parameters_file": str(batching)}
    settings = {**FAST, "model_base_path": str(base), "enable_batching": True, "ssl_config_file": os.devnull, **files}
    for port, metrics in ((0, True), (-1, False)):
        caplog.clear()
        with pytest.raises(ServingError, match="needs server_key"):  # before anything is loaded
            EmbeddedServer(**settings, rest_api_port=port).start()
        assert f"{batching}: pad_variable_length_inputs is without effect" in caplog.text
        assert ("they need --rest_api_port too" in caplog.text) == metrics


def test_a_socket_that_another_server_has(base, tmp_path):
    path = tmp_path / "grpc"
    settings = {**FAST, "model_base_path": str(base), "grpc_socket_path": str(path)}
    socket.socket(socket.AF_UNIX).bind(str(path))  # one that a process has left behind is no obstacle
    with EmbeddedServer(**settings), Client(f"unix:{path}") as client:
        with pytest.raises(ServingError, match=f"^UNAVAILABLE: cannot listen on unix:{path}: another server has"):
            EmbeddedServer(**settings).start()
        assert client.states() == {1: 30}


def test_two_services_on_one_port(base):
    with pytest.raises(ServingError, match=r"^INVALID_ARGUMENT: --port and --rest_api_port are both 12345"):
        EmbeddedServer(**{**FAST, "model_base_path": str(base), "port": 12345, "rest_api_port": 12345}).start()
