"""The server as a process of its own, as users and the pipeline start it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import pytest
import serving_toy as toy
from serving_client import Client

from tests.conftest import until

ROOT = Path(__file__).parents[2]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "serving.server", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'client'}"}


class Process:
    def __init__(self, *arguments: str) -> None:
        self.address = self.rest = ""
        self.process = subprocess.Popen(
            command("--port=0", "--model_name=htr", *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        self.errors: list[str] = []
        threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True).start()

    def ready(self) -> str:
        line = self.process.stdout.readline()
        found = re.search(r"grpc=(\S+)(?: rest=(\S+))?", line)
        assert found, self.errors
        self.address, self.rest = found[1], found[2] or ""
        return self.address

    def says(self, words: str) -> None:
        """Waits for words in its log."""
        ended = self.process.poll
        until(lambda: any(words in line for line in self.errors) or ended() is not None, 60, lambda: self.errors)
        assert ended() is None, self.errors

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@pytest.mark.either_stack
@pytest.mark.slow
def test_term_drains_and_kill_is_survived(tmp_path, toy_model, image):
    base = tmp_path / "htr"
    toy.push(toy_model, base, 1)
    flags = [f"--model_base_path={base}", "--file_system_poll_wait_seconds=1", "--enable_grpc_healthcheck_service"]
    flags.append("--tensorflow_session_parallelism=1")
    slow = toy.predict_request({"rounds": [20_000]}, "burn")
    with Process(*flags) as first, Client(first.ready()) as client:
        running = client.prediction.Predict.future(slow, timeout=60)
        time.sleep(0.3)
        first.process.kill()  # in the middle of a request
        assert running.code() == grpc.StatusCode.UNAVAILABLE
    toy.push(toy_model, base, 2)
    toy.push(toy_model, base, 3, "truncated_variables")
    with Process(*flags, "--num_unload_threads=4") as second, Client(second.ready()) as client:
        assert client.predict(toy.predict_request({"image_bytes": [image]})).model_spec.version.value == 2
        running = client.prediction.Predict.future(slow, timeout=60)
        time.sleep(0.3)
        second.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert second.process.poll() is None
        assert running.result().outputs["done"].int_val == [20_000]
        assert second.process.wait(15) == 0
        errors = "".join(second.errors)
        assert "without effect in the embedded server: num_unload_threads" in errors
        assert "Traceback" not in errors and "Warning" not in errors and "external/local_xla" not in errors


@pytest.mark.either_stack
@pytest.mark.parametrize("batching", [False, True], ids=["plain", "batching"])
def test_a_request_that_outlasts_the_grace_is_cancelled(tmp_path, toy_model, batching):
    toy.push(toy_model, tmp_path, 1)
    flags = [f"--model_base_path={tmp_path}", "--drain_grace_seconds=1", f"--enable_batching={str(batching).lower()}"]
    with Process(*flags) as server, Client(server.ready()) as client:
        running = client.prediction.Predict.future(toy.endless())
        until(client.states, 20)
        time.sleep(0.5)  # until the request is under way too
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0, server.errors
        assert running.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        # What would end the process without having cancelled anything is for loads.
        assert "ending without waiting" not in "".join(server.errors)


@pytest.mark.either_stack
@pytest.mark.slow
def test_a_load_that_takes_long_does_not_make_the_end_a_crash(tmp_path, toy_model):
    """At the start and later; at once, since each server waits ten seconds for the load."""
    starting, later = tmp_path / "starting", tmp_path / "later"
    starting.mkdir()
    toy.push(toy_model, later, 1)
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(Process(f"--model_base_path={folder}", "--file_system_poll_wait_seconds=0.1"))
            for folder in (starting, later)
        ]
        servers[1].ready()
        for server, folder in zip(servers, (starting, later), strict=True):
            toy.push(toy_model, folder, 2, "endless_warmup")
            server.says("Loading version 2")
        time.sleep(3)  # until their warm-ups run
        for server in servers:
            server.process.send_signal(signal.SIGTERM)
        for server in servers:
            assert server.process.wait(60) == 0, server.errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_tensorflow_is_imported_ends_the_server(tmp_path, number):
    """The directory has no version yet: a server that missed the signal would wait for one."""
    with Process(f"--model_base_path={tmp_path}") as server:
        server.says("starting")
        server.process.send_signal(number)
        assert server.process.wait(60) == 0
        assert "Traceback" not in "".join(server.errors)


def test_bad_flags_end_at_once_with_the_real_servers_words():
    arguments = command("--port=0", "--model_base_path=relative")
    telling = {**environment(), "PYTHONPROFILEIMPORTTIME": "1"}
    result = subprocess.run(arguments, capture_output=True, text=True, env=telling)
    assert result.returncode == 255
    assert "have an absolute path or URI; got base_path()=relative" in result.stderr
    assert "Traceback" not in result.stderr
    assert re.search(r"\| +serving\.options\n", result.stderr)
    assert not re.search(r"\| +tensorflow\n", result.stderr), "which takes seconds"


@pytest.mark.parametrize("flag", ["port", "rest_api_port", "ui_port"])
def test_a_taken_port_is_found_before_anything_is_loaded(tmp_path, flag):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        arguments = [f"--model_base_path={tmp_path}", "--port=0", f"--{flag}={port}"]
        code = (
            "import sys, serving.server as s\n"
            f"assert s.main({arguments!r}) == 255\n"
            "heavy = {'tensorflow', 'grpc', 'tensorflow_serving'} & set(sys.modules)\n"
            "assert not heavy, heavy"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert result.returncode == 0, result.stderr
    assert f"127.0.0.1:{port}: Address already in use" in result.stderr and f"--{flag} (" in result.stderr


def test_help_needs_neither_tensorflow_nor_grpc():
    code = (
        "import sys, serving.server as s\n"
        "try: s.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'tensorflow', 'grpc', 'numpy', 'tfx', 'tensorflow_serving'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert result.returncode == 0, result.stderr
    for flag in ("--model_base_path", "--enable_batching", "--ssl_config_file", "--host"):
        assert flag in result.stdout
