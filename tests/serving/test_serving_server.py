"""The server as a whole, in this process: limits, health, draining, hostile clients."""

from __future__ import annotations

import base64
import functools
import http.client
import json
import random
import re
import socket
import threading
import time
from collections import Counter
from concurrent.futures import Future
from pathlib import Path

import grpc
import numpy as np
import pytest
import serving_toy as toy
from google.protobuf.message import DecodeError
from serving_client import Client, fails
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest

from serving import protos
from serving.metrics import resident_bytes
from serving.runner import LoadedModel
from serving.server import EmbeddedServer
from serving.service import Call
from serving.status import Code, ServingError
from tests.conftest import until

FAST = {
    "port": 0,
    "model_name": "htr",
    "file_system_poll_wait_seconds": 0.1,
    "max_num_load_retries": 0,
    "tensorflow_session_parallelism": 1,
}
PREDICT = "/tensorflow.serving.PredictionService/Predict"


@pytest.fixture(scope="module")
def server(base):
    monitoring = base.parent / "monitoring.config"
    monitoring.write_text('prometheus_config { enable: true path: "/metrics" }')
    settings = {"rest_api_port": -1, "monitoring_config_file": str(monitoring), "max_request_bytes": 4 << 20}
    with EmbeddedServer(model_base_path=str(base), **FAST, **settings) as started:
        yield started


@pytest.fixture(scope="module")
def client(server):
    with Client(server.address) as connected:
        yield connected


def rest(server, method, path, body=None, headers=None):
    host, port = server.rest_address.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    connection.request(method, path, body, headers or {}, encode_chunked=bool(headers))
    response = connection.getresponse()
    data = response.read()
    connection.close()
    return response.status, data


# -- limits --------------------------------------------------------------------------------------------------


def test_too_large_a_request(client, server):
    assert fails(client.channel.unary_unary(PREDICT), b"\0" * (5 << 20), timeout=20)[0] == "RESOURCE_EXHAUSTED"
    status, data = rest(server, "POST", "/v1/models/htr:predict", b"x" * (5 << 20))
    assert status == 413 and b"larger than max" in data


def test_address_of_ipv6_is_one_that_clients_take(base):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 on this machine")
    with EmbeddedServer(model_base_path=str(base), **FAST, host="::1") as started, Client(started.address) as connected:
        grpc.channel_ready_future(connected.channel).result(timeout=20)


def test_too_many_rows(client):
    request = toy.predict_request({"image_bytes": [b""] * 257})
    message = "Task size 257 is larger than maximum input batch size 256"
    assert fails(client.predict, request) == ("INVALID_ARGUMENT", message)


@pytest.mark.parametrize("dtype", [1, 7], ids=["float", "string"])
def test_a_shape_that_asks_for_terabytes(client, dtype):
    request = toy.predict_request({})
    proto = request.inputs["image_bytes"]
    proto.dtype = dtype
    proto.tensor_shape.dim.add(size=1 << 40)
    assert fails(client.predict, request) == ("INVALID_ARGUMENT", "tensor parsing error: image_bytes")


@pytest.mark.parametrize("shape", [(), (32,), (32, 128), (1, 32, 128), (1, 32, 128, 2), (1, 1, 32, 128, 1)])
def test_ranks_that_abort_the_real_server(client, shape):
    request = toy.predict_request({"image": np.zeros(shape, "f")}, "tensor")
    code, message = fails(client.predict, request)
    assert code == "INVALID_ARGUMENT" and "the signature tensor takes [?, 32, 128, 1]" in message
    good = toy.predict_request({"image": np.zeros((2, 32, 128, 1), "f")}, "tensor")
    assert client.predict(good).outputs["features"].tensor_shape.dim[0].size == 2


def test_a_deadline_ends_the_work_too(client, server):
    request = toy.predict_request({"rounds": [200_000]}, "burn")  # half a minute
    started = time.monotonic()
    assert fails(client.predict, request, timeout=0.2) == ("DEADLINE_EXCEEDED", "Deadline Exceeded")
    until(lambda: not server.front.predictions.active)
    assert time.monotonic() - started < 15


@pytest.mark.parametrize("batching", [False, True], ids=["plain", "batching"])
def test_callers_that_wait_in_vain_all_hear_of_the_deadline(base, batching):
    """Also when the server's clock runs out first, and whether or not their work was begun."""
    request = toy.predict_request({"rounds": [1500]}, "burn")
    settings = {**FAST, "enable_batching": batching, "grpc_max_threads": 64}
    with EmbeddedServer(model_base_path=str(base), **settings) as server, Client(server.address) as client:
        calls = [client.prediction.Predict.future(request, timeout=0.3) for _ in range(40)]
        codes = Counter(call.code().name for call in calls)
        assert "DEADLINE_EXCEEDED" in codes and codes.keys() <= {"OK", "DEADLINE_EXCEEDED"}
        until(lambda: not server.front.predictions.active)
        counted = request_counts(server)
        assert counted.total() == 40 and counted.keys() <= {"OK", "DEADLINE_EXCEEDED"}
        assert counted["OK"] >= codes["OK"], "an answer may come too late, but nobody gets one that counts as none"


@pytest.mark.parametrize("batching", [False, True], ids=["plain", "batching"])
def test_a_call_that_ends_late_is_told_what_is_counted(base, batching):
    """The event loop may be too busy to end the call in time: then the work's end finds that it is over."""
    request = toy.predict_request({"rounds": [1500]}, "burn")
    with EmbeddedServer(model_base_path=str(base), **{**FAST, "enable_batching": batching}) as server:
        call, told = Call.within(60), Future()
        if batching:
            server.service.submit_predict(request, call, lambda answer, error: told.set_result((answer, error)))
            call.expired.set()
            error = told.result(60)[1]
        else:
            with pytest.raises(ServingError) as raised, server.service.counted("htr", "Predict", call):
                call.expired.set()
            error = raised.value
        assert error is not None and error.code.name == "DEADLINE_EXCEEDED"
        assert request_counts(server) == {"DEADLINE_EXCEEDED": 1}


def request_counts(server) -> Counter[str]:
    """How often each status was counted."""
    found = re.findall(r'request_count{.*status="(\w+)"} (\d+)', server.service.metrics.page())
    return Counter({status: int(count) for status, count in found})


# -- REST ----------------------------------------------------------------------------------------------------


def test_rest_and_grpc_give_the_same_numbers(client, server, image):
    body = json.dumps({"instances": [{"b64": base64.b64encode(image).decode()}]})
    status, data = rest(server, "POST", "/v1/models/htr:predict", body)
    assert status == 200
    by_rest = np.array(json.loads(data)["predictions"][0]["log_probs"], "f").ravel()
    by_grpc = client.predict(toy.predict_request({"image_bytes": [image]})).outputs["log_probs"].float_val
    np.testing.assert_array_equal(by_rest, np.array(by_grpc, "f"))


def test_rest_chunked_request(server, image):
    body = json.dumps({"instances": [{"b64": base64.b64encode(image).decode()}]}).encode()
    parts = iter([body[:100], body[100:]])
    assert rest(server, "POST", "/v1/models/htr:predict", parts, {"Transfer-Encoding": "chunked"})[0] == 200


def test_rest_survives_nonsense(server):
    host, port = server.rest_address.split(":")
    chunked = b"\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    for data, answer in [
        (b"\0\xff" * 100 + b"\r\n\r\n", b"400"),
        (b"POST /v1/models/htr:predict HTTP/1.1\r\nContent-Length: -5\r\n\r\n", b"HTTP/1.1 400 "),
        (b"POST /v1/models/htr:predict HTTP/1.1\r\nContent-Length: ten\r\n\r\n", b"HTTP/1.1 400 "),
        (b"POST /v1/models/htr:predict HTTP/1.1" + chunked, b"HTTP/1.1 400 "),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", b"HTTP/1.1 414 "),
    ]:
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(data)
            assert answer in connection.recv(1000), data[:60]
    deep = b'{"instances": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert rest(server, "POST", "/v1/models/htr:predict", deep)[0] == 400
    assert rest(server, "GET", "/v1/models/htr")[0] == 200


@pytest.mark.parametrize("version", [str(1 << 63), 5000 * "9"])
def test_a_version_that_is_no_number_of_63_bits(server, version):
    status, data = rest(server, "GET", f"/v1/models/htr/versions/{version}")
    assert status == 400 and f"Failed to convert version: {version} to numeric.".encode() in data
    assert rest(server, "GET", f"/v1/models/htr/versions/{5000 * '0'}1")[0] == 200


def test_slow_clients_hold_nobody_up(client, server, image):
    host, port = server.rest_address.split(":")
    slow = []
    for _ in range(40):
        connection = socket.create_connection((host, int(port)), timeout=10)
        connection.sendall(b"POST /v1/models/htr:predict HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
        slow.append(connection)
    for _ in range(40):  # gRPC's connection preface, and then nothing
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        slow.append(connection)
    endless = client.channel.stream_unary(PREDICT)  # headers, but never a message
    stop = threading.Event()
    calls = [endless.future(iter(stop.wait, True), timeout=30) for _ in range(40)]
    started = time.monotonic()
    client.predict(toy.predict_request({"image_bytes": [image]}))
    assert rest(server, "GET", "/v1/models/htr")[0] == 200
    assert time.monotonic() - started < 8
    stop.set()
    for call in calls:
        call.cancel()
    for connection in slow:
        connection.close()


def test_metrics_at_the_configured_path(client, server, image):
    client.predict(toy.predict_request({"image_bytes": [image]}))
    fails(client.predict, toy.predict_request({"image_bytes": [b"bad"]}))
    status, data = rest(server, "GET", "/metrics")
    page = data.decode()
    assert status == 200
    assert ':tensorflow:serving:request_count{model_name="htr",status="OK"} ' in page
    assert ':tensorflow:serving:request_count{model_name="htr",status="INVALID_ARGUMENT"} ' in page
    latency = ':tensorflow:serving:request_latency_count{model_name="htr",API="Predict",entrypoint="GRPC"} '
    assert latency in page
    assert page.count('le="+Inf"') >= 3
    (resident,) = re.findall(r"^process_resident_memory_bytes{} (\S+)", page, re.M)
    (told,) = re.findall(r"^VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    assert float(resident) == pytest.approx(int(told) * 1024, rel=0.1)
    metric = server.service.metrics.request_count
    for index in range(2000):  # names from outside must not fill the memory
        metric.add(1, f"made-up-{index}", "NOT_FOUND")
    assert metric.value("other", "NOT_FOUND") > 1000


# -- health and draining -------------------------------------------------------------------------------------


def test_health_watch_and_drain(base):
    draining = EmbeddedServer(model_base_path=str(base), **FAST).start()
    with Client(draining.address) as client:
        watch = client.channel.unary_stream("/grpc.health.v1.Health/Watch")
        stream = watch(protos.HealthCheckRequest(service="PredictionService").SerializeToString())
        assert protos.HealthCheckResponse.FromString(next(stream)).status == 1
        unknown = watch(protos.HealthCheckRequest(service="nope").SerializeToString())
        assert protos.HealthCheckResponse.FromString(next(unknown)).status == 3
        running = client.prediction.Predict.future(toy.predict_request({"rounds": [4000]}, "burn"), timeout=60)
        time.sleep(0.1)
        stopper = threading.Thread(target=draining.stop)
        stopper.start()
        assert protos.HealthCheckResponse.FromString(next(stream)).status == 2
        time.sleep(0.1)
        assert not running.done()
        with Client(draining.address) as late:
            assert fails(late.predict, toy.predict_request({"rounds": [1]}, "burn"))[0] == "UNAVAILABLE"
        assert running.result().outputs["done"].int_val == [4000]
        stopper.join(10)
        assert draining.wait(1)


def test_the_page_answers_what_it_was_asked_before_the_end(base, image, monkeypatch):
    go, run = threading.Event(), LoadedModel.run
    server = EmbeddedServer(model_base_path=str(base), **FAST, ui_port=-1).start()
    monkeypatch.setattr(LoadedModel, "run", lambda *args: go.wait(20) and run(*args))
    connection = http.client.HTTPConnection(server.ui_address, timeout=20)
    connection.request("POST", "/transcribe", image, {"Content-Type": "image/png"})
    until(lambda: server.front.predictions.active)
    stopper = threading.Thread(target=server.stop)
    stopper.start()
    time.sleep(0.3)
    go.set()
    response = connection.getresponse()
    assert (response.status, json.loads(response.read()).get("error")) == (200, None)
    stopper.join(10)
    assert server.wait(1)


def test_no_health_service_when_switched_off(base):
    settings = {**FAST, "enable_grpc_healthcheck_service": False}
    with EmbeddedServer(model_base_path=str(base), **settings) as silent, Client(silent.address) as client:
        assert fails(client.health) == ("UNIMPLEMENTED", "")


@pytest.mark.parametrize(("flag", "any_free"), [("port", 0), ("rest_api_port", -1), ("ui_port", -1)])
def test_a_taken_port(base, server, flag, any_free):
    with pytest.raises(ServingError) as failure:
        EmbeddedServer(**{**FAST, "model_base_path": str(base), flag: server.port}).start()
    assert failure.value.code == Code.UNAVAILABLE
    assert f"cannot listen on 127.0.0.1:{server.port}: Address already in use." in str(failure.value)
    assert f"choose another port with --{flag} ({any_free} picks a free one)" in str(failure.value)


# -- hostile input -------------------------------------------------------------------------------------------


def mutate(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        kind, at = rng.randrange(5), rng.randrange(len(out) or 1)
        if kind == 0 and out:
            out[at % len(out)] = rng.randrange(256)
        elif kind == 1 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del out[at : at + rng.randrange(1, 20)]
        elif kind == 3:
            out[at:at] = rng.randbytes(rng.randrange(1, 20))
        else:
            out += out[at : at + rng.randrange(1, 40)]
    return bytes(out)


def mutated_reload(rng: random.Random) -> bytes:
    """A request for another configuration, of a kind that is refused: a list of models would unload the present one."""
    seed = ReloadConfigRequest()
    seed.config.custom_model_config.type_url = "type.googleapis.com/tensorflow.serving.ModelConfig"
    data = mutate(seed.SerializeToString(), rng)
    try:
        harmless = not ReloadConfigRequest.FromString(data).config.HasField("model_config_list")
    except DecodeError:
        harmless = True
    return data if harmless else seed.SerializeToString()


@pytest.mark.either_stack
@pytest.mark.slow
@pytest.mark.parametrize("batching", [False, True], ids=["plain", "batching"])
def test_fuzzed_requests_each_get_a_status_and_leave_no_trace(base, image, batching):
    rng = random.Random(batching)
    small = toy.png(8, 4)
    seeds = [
        toy.predict_request({"image_bytes": [small]}),
        toy.predict_request({"image_bytes": [small, small]}, "transcribe", version=1),
        toy.predict_request({"query": [b"x"]}, "alphabet", label="stable"),
        toy.predict_request({"image": np.zeros((1, 4, 4, 1), "f")}, "tensor"),
        toy.predict_request({"rounds": [1]}, "burn"),
    ]
    prediction, model = "/tensorflow.serving.PredictionService/", "/tensorflow.serving.ModelService/"
    methods = [PREDICT] * 9
    methods += [prediction + name for name in ("GetModelMetadata", "Classify", "Regress", "MultiInference")]
    reload = model + "HandleReloadConfigRequest"
    methods += [model + "GetModelStatus", reload, "/grpc.health.v1.Health/Check"]
    settings = {**FAST, "enable_batching": batching, "grpc_max_threads": 16}
    with EmbeddedServer(model_base_path=str(base), **settings) as server, Client(server.address) as client:
        good = toy.predict_request({"image_bytes": [image]})
        before = 0
        for block in range(10):
            calls = []
            for _ in range(250):
                seed, method = rng.choice(seeds), rng.choice(methods)
                if method == reload:
                    data = mutated_reload(rng)
                elif rng.random() < 0.3 and "image_bytes" in seed.inputs:
                    copy = type(seed).FromString(seed.SerializeToString())
                    copy.inputs["image_bytes"].string_val[0] = mutate(small, rng)
                    data = copy.SerializeToString()
                else:
                    data = mutate(seed.SerializeToString(), rng)
                calls.append(client.channel.unary_unary(method).future(data, timeout=10))
            codes = {call.code() for call in calls}
            assert None not in codes and grpc.StatusCode.UNAVAILABLE not in codes
            # gRPC's own answer to what it cannot parse has no text; an exception of the server's has one.
            internal = [call.details() for call in calls if call.code() == grpc.StatusCode.INTERNAL]
            assert not any(internal), max(internal)
            assert client.predict(good).model_spec.version.value == 1
            if block == 3:
                before = resident_bytes()
        assert resident_bytes() - before < 60 << 20


def test_a_kilobyte_of_names_is_answered(client):
    request = toy.predict_request({"x" * 10_000: [1]}, "y" * 10_000)
    code, message = fails(client.predict, request)
    assert code == "FAILED_PRECONDITION" and message.endswith("...TRUNCATED")


def test_overload_is_refused_at_once_and_forgotten_at_once(base):
    """Many more callers than places: rejects are fast and typed, and right afterwards all is well."""
    request = toy.predict_request({"rounds": [300]}, "burn")
    settings = {**FAST, "grpc_max_threads": 4}
    with EmbeddedServer(model_base_path=str(base), **settings) as server, Client(server.address) as client:
        rejected, accepted = [], []

        def note(done, call):
            done.setdefault(call, time.monotonic())

        for _ in range(50):
            started = time.monotonic()
            calls = [client.prediction.Predict.future(request, timeout=60) for _ in range(12)]
            done: dict = {}
            for call in calls:
                call.add_done_callback(functools.partial(note, done))
            for call in calls:
                if call.exception() is not None:
                    assert (call.code().name, call.details()) == ("RESOURCE_EXHAUSTED", "Server Threadpool Exhausted")
                (accepted if call.exception() is None else rejected).append(done.get(call, time.monotonic()) - started)
            if len(accepted) > 4 and len(rejected) > 10:
                break
        assert len(accepted) > 4 and len(rejected) > 10
        assert np.median(rejected) < np.median(accepted), "a refusal waits for the work of others"
        until(lambda: not server.front.predictions.active)
        client.predict(toy.predict_request({"rounds": [1]}, "burn"))
