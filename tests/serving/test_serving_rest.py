"""REST under clients that are slow, under more of them than there are threads, and at the end."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import serving_toy as toy
from serving_client import Client, fails
from test_serving_server import FAST, rest

from serving import http_server
from serving.http_server import Handler
from serving.server import EmbeddedServer
from tests.conftest import until

PREDICT = "/v1/models/htr:predict"
ENDED = b'{"error": "the server is shutting down"}'


@pytest.fixture(scope="module")
def server(base):
    with EmbeddedServer(model_base_path=str(base), **FAST, rest_api_port=-1, max_request_bytes=10_000) as started:
        yield started


def test_rest_threads_that_are_all_busy(base):
    body = json.dumps({"signature_name": "burn", "inputs": [200_000]})  # half a minute, cut off after half a second
    settings = {**FAST, "rest_api_port": -1, "rest_api_num_threads": 1, "rest_api_timeout_in_ms": 500}
    with EmbeddedServer(model_base_path=str(base), **settings) as busy, ThreadPoolExecutor(3) as pool:
        answers = sorted(pool.map(lambda _: rest(busy, "POST", PREDICT, body)[0], range(3)))
        counted = busy.service.metrics.request_count
        for status, code in ((429, "RESOURCE_EXHAUSTED"), (504, "DEADLINE_EXCEEDED")):
            assert answers.count(status) == counted.value("htr", code)
    assert set(answers) <= {429, 504} and 504 in answers


def test_the_wait_for_a_rest_thread_is_part_of_the_time_limit(base):
    settings = {**FAST, "rest_api_port": -1, "rest_api_num_threads": 1, "rest_api_timeout_in_ms": 3000}
    burn = [json.dumps({"signature_name": "burn", "inputs": [rounds]}) for rounds in (1, 200_000)]
    with EmbeddedServer(model_base_path=str(base), **settings) as server:
        assert rest(server, "POST", PREDICT, burn[0])[0] == 200
        slots = server.rest._slots
        slots.acquire()
        assert rest(server, "POST", PREDICT, burn[0]) == (429, b'{"error": "Server Threadpool Exhausted"}')
        assert server.service.metrics.request_count.value("htr", "RESOURCE_EXHAUSTED") == 1
        threading.Timer(2.4, slots.release).start()
        started = time.monotonic()
        assert rest(server, "POST", PREDICT, burn[1])[0] == 504
        assert time.monotonic() - started < 5, "2.4 s of waiting and 3 s of work"


def test_without_a_time_limit_a_request_waits_for_a_rest_thread(base):
    settings = {**FAST, "rest_api_port": -1, "rest_api_num_threads": 1, "rest_api_timeout_in_ms": 0}
    body = json.dumps({"signature_name": "burn", "inputs": [1]})
    with EmbeddedServer(model_base_path=str(base), **settings) as server:
        slots = server.rest._slots
        slots.acquire()
        threading.Timer(0.5, slots.release).start()
        assert rest(server, "POST", PREDICT, body)[0] == 200


def test_a_client_that_still_sends_chunks_hears_that_they_are_too_many(server):
    status, data = rest(server, "POST", PREDICT, iter([bytes(1000)] * 20_000))
    assert status == 413 and b"larger than max (10000)" in data


def test_a_label_in_a_path_may_be_quoted(server):
    body = json.dumps({"signature_name": "burn", "inputs": [1]})
    status, data = rest(server, "POST", "/v1/models/htr/labels/a%20b:predict", body)
    assert status == 400 and b"label: a b" in data


def test_a_head_is_answered_without_a_body(server):
    """By hand, since http.client passes over one."""
    host, port = server.rest_address.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"HEAD /v1/models/htr HTTP/1.1\r\nConnection: close\r\n\r\n")
        said = b"".join(iter(lambda: connection.recv(1000), b""))
    assert said.startswith(b"HTTP/1.1 400 ") and said.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("begin", "answer"),
    [
        (b"", b""),
        (b"GET /v1/models/htr HTTP/1.1\r\nX: ", b""),
        (b"POST /v1/models/htr:predict HTTP/1.1\r\nContent-Length: 100\r\n\r\n", b"HTTP/1.1 408 "),
        (b"POST /v1/models/htr:predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1", b"HTTP/1.1 408 "),
    ],
    ids=["request line", "head", "body", "length of a chunk"],
)
def test_a_request_that_comes_byte_by_byte_is_cut_off(server, monkeypatch, begin, answer):
    monkeypatch.setattr(Handler, "timeout", 1)
    host, port = server.rest_address.split(":")
    with socket.create_connection((host, int(port)), timeout=0.6) as connection:
        started, got = time.monotonic(), None
        connection.sendall(begin)
        while got is None and time.monotonic() - started < 6:
            connection.sendall(b"1")
            try:
                got = connection.recv(1000)
            except TimeoutError:
                continue
            except ConnectionError:
                got = b""
        assert got is not None, "still taken after six times the limit"
        assert got.startswith(answer) if answer else not got


# -- draining ------------------------------------------------------------------------------------------------


@pytest.fixture
def ending(base):
    """A server, and a function that has it stop, which returns the thread that waits for the end."""
    server = EmbeddedServer(model_base_path=str(base), **FAST, rest_api_port=-1).start()

    def stop() -> threading.Thread:
        time.sleep(0.5)  # until the server has heard of the request
        thread = threading.Thread(target=server.stop, daemon=True)
        thread.start()
        time.sleep(0.5)
        return thread

    yield server, stop
    server.stop(0)


def test_an_answer_under_way_is_sent_to_its_end(ending, monkeypatch):
    server, stop = ending
    data = bytes(16 << 20)  # more than the system takes for somebody who does not read
    monkeypatch.setattr(server.rest, "handle", lambda *_: (200, "text/plain", data))
    host, port = server.rest_address.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    connection.request("GET", "/v1/models/htr")
    response = connection.getresponse()
    stopping = stop()
    assert stopping.is_alive()
    assert response.read() == data
    stopping.join(10)
    assert not stopping.is_alive()


def test_a_request_that_outlasts_the_grace_is_cancelled(base):
    settings = {**FAST, "rest_api_port": -1, "rest_api_timeout_in_ms": 0}
    body = json.dumps({"signature_name": "burn", "inputs": [10_000_000]})
    with EmbeddedServer(model_base_path=str(base), **settings) as server, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(rest, server, "POST", PREDICT, body)
        version = server.manager.versions.serving["htr"][1]
        until(lambda: version.requests, 10)
        assert server.stop(grace=0.5), "TensorFlow is not at rest"
        assert answer.result() == (503, ENDED)


def test_grpc_takes_no_more_while_rest_drains(ending, image):
    server, stop = ending
    body = json.dumps({"instances": [{"b64": base64.b64encode(image).decode()}]}).encode()
    host, port = server.rest_address.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection, Client(server.address) as client:
        request = toy.predict_request({"image_bytes": [image]})
        client.predict(request)
        head = f"POST /v1/models/htr:predict HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body[:9])
        stopping = stop()
        assert fails(client.predict, request)[0] == "UNAVAILABLE"
        assert stopping.is_alive()
        connection.sendall(body[9:])
        assert connection.recv(1 << 20).startswith(b"HTTP/1.1 200 ")
        stopping.join(10)
        assert not stopping.is_alive()


def test_a_request_that_is_still_arriving_is_answered(ending, image):
    server, stop = ending
    body = json.dumps({"instances": [{"b64": base64.b64encode(image).decode()}]}).encode()
    host, port = server.rest_address.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        head = f"POST /v1/models/htr:predict HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body[:9])
        with socket.create_connection((host, int(port))):  # one that asks nothing keeps nobody waiting
            stopping = stop()
            assert stopping.is_alive()
            connection.sendall(body[9:])
            answer = connection.recv(1 << 20)
            assert answer.startswith(b"HTTP/1.1 200 ") and b"Connection: close" in answer
            stopping.join(10)
            assert not stopping.is_alive()


@pytest.mark.parametrize(("method", "path"), [("POST", PREDICT), ("GET", "/v1/models/htr")])
def test_a_connection_that_was_kept_hears_of_the_end(base, method, path):
    """And not of a missing model, which clients do not ask for again."""
    with EmbeddedServer(model_base_path=str(base), **FAST, rest_api_port=-1) as server:
        host, port = server.rest_address.split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        connection.request("GET", "/v1/models/htr")
        assert connection.getresponse().read()
    connection.request(
        method, path, json.dumps({"signature_name": "burn", "inputs": [1]}) if method == "POST" else None
    )
    response = connection.getresponse()
    assert (response.status, response.read(), response.getheader("Connection")) == (503, ENDED, "close")


def test_connections_that_have_ended_or_get_no_thread_cost_no_place(base, monkeypatch):
    start = threading.Thread.start

    def refuse(thread):
        if "process_request_thread" in thread.name:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(http_server, "_MAX_CONNECTIONS", 3)
    with EmbeddedServer(model_base_path=str(base), **FAST, rest_api_port=-1) as server:
        host, port = server.rest_address.split(":")
        with monkeypatch.context() as short:
            short.setattr(threading.Thread, "start", refuse)
            for _ in range(3):
                with socket.create_connection((host, int(port)), timeout=20) as connection:
                    assert not connection.recv(1)

        def is_answered():
            with contextlib.suppress(ConnectionError):  # the one before may still be ending
                return rest(server, "GET", "/v1/models/htr")[0] == 200

        for _ in range(5):
            until(is_answered)
