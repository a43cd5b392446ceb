"""Client and server of the product together under more callers than the server has places for."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import re
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import serving_toy as toy
from serving_client import Client
from test_serving_process import Process

from htr_client import AsyncHtrClient, HtrClient, HtrError
from serving import protos
from serving.configuration.settings import FOLDER, Settings
from serving.runner import LoadedModel
from serving.server import EmbeddedServer
from tests.conftest import until

pytestmark = pytest.mark.either_stack

CALLERS, REQUESTS = 50, 2000


def outcomes(ask, callers: int, requests: int) -> Counter[str]:
    """Let callers ask at once, `requests` times in all.

    Args:
        ask: Gets the number of the caller; returns or raises what is counted.
        callers: Number of threads.
        requests: Number of requests of all threads together.

    Returns:
        How often each outcome was seen.
    """
    counts: Counter[str] = Counter()
    lock = threading.Lock()
    start = threading.Barrier(callers)

    def caller(number: int) -> None:
        start.wait(60)
        for _ in range(requests // callers):
            try:
                outcome = str(ask(number))
            except HtrError as error:
                outcome = f"{type(error).__name__}: {error}"
            with lock:
                counts[outcome] += 1

    threads = [threading.Thread(target=caller, args=(number,), daemon=True) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return counts


@pytest.fixture(scope="module")
def process(base):
    """A server with the options that a user has who gives none."""
    with Process(f"--model_base_path={base}", "--rest_api_port=-1") as started:
        started.ready()
        yield started


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False], ids=["one client", "a client each"])
def test_fifty_callers_lose_nothing(process, image, shared):
    clients = [HtrClient(process.address) for _ in range(1 if shared else CALLERS)]
    counts = outcomes(lambda number: clients[number % len(clients)].transcribe(image).version, CALLERS, REQUESTS)
    for client in clients:
        client.close()
    assert counts == {"1": REQUESTS}


@pytest.mark.slow
def test_fifty_coroutines_lose_nothing(process, image):
    """As in a web service: one asynchronous client, many requests of its own callers."""

    async def ask() -> Counter[str]:
        counts: Counter[str] = Counter()
        async with AsyncHtrClient(process.address) as client:
            for _ in range(REQUESTS // CALLERS):
                answers = (client.transcribe(image) for _ in range(CALLERS))
                for answer in await asyncio.gather(*answers, return_exceptions=True):
                    counts[str(answer if isinstance(answer, BaseException) else answer.version)] += 1
        return counts

    assert asyncio.run(ask()) == {"1": REQUESTS}


@pytest.mark.slow
def test_fifty_callers_over_rest_lose_nothing(process, image):
    body = json.dumps({"instances": [{"b64": base64.b64encode(image).decode()}]})
    connections = [http.client.HTTPConnection(process.rest, timeout=60) for _ in range(CALLERS)]

    def ask(number: int) -> int:
        connections[number].request("POST", "/v1/models/htr:predict", body)
        response = connections[number].getresponse()
        response.read()
        return response.status

    counts = outcomes(ask, CALLERS, REQUESTS)
    for connection in connections:
        connection.close()
    assert counts == {"200": REQUESTS}


@pytest.mark.parametrize("size", [(128, 32), (1200, 400)], ids=["small", "larger than gRPC keeps by default"])
def test_who_finds_a_server_full_comes_again(base, size):
    """The real server refuses the ninth caller on two cores; the client's attempts find it a place."""
    image = toy.png(*size)
    settings = {"model_name": "htr", "model_base_path": str(base), "port": 0, "grpc_max_threads": 1}
    with EmbeddedServer(**settings) as server, Client(server.address) as other, HtrClient(server.address) as client:
        assert client.transcribe(image).version == 1
        grpc.channel_ready_future(other.channel).result(timeout=20)
        # Kept, since a call that nobody refers to is cancelled.
        burning = other.prediction.Predict.future(toy.predict_request({"rounds": [200_000]}, "burn"), timeout=1.5)
        with Client(server.address) as late:
            until(lambda: server.front.predictions.full)
            with pytest.raises(grpc.RpcError) as failure:
                late.predict(toy.predict_request({"image_bytes": [image]}))
            assert failure.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert client.transcribe(image).version == 1
        assert burning.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_production_threads_leave_room_to_count_refusals(base, tmp_path, monkeypatch):
    """Single images fill all batches; what comes then is refused by the batch queue, which is counted."""
    settings = Settings.read().variants["gpu"]
    wanted = settings.batching
    fill = wanted.max_batch_size * (wanted.num_batch_threads + wanted.max_enqueued_batches)
    # None starts before it is full: the most requests that there can be.
    parameters = (FOLDER / "batching.gpu.config").read_text()
    patient = re.sub(r"(batch_timeout_micros {\s+value:) \d+", r"\1 60000000", parameters)
    assert patient != parameters
    (tmp_path / "batching.config").write_text(patient)
    flags = {"enable_batching": True, "batching_parameters_file": str(tmp_path / "batching.config")}
    places = {
        "model_name": "htr",
        "model_base_path": str(base),
        "port": 0,
        "grpc_max_threads": settings.grpc_max_threads,
    }
    go, run = threading.Event(), LoadedModel.run

    def wait_and_run(*args):
        go.wait(60)
        return run(*args)

    request = toy.predict_request({"rounds": [1]}, "burn")
    with EmbeddedServer(**flags, **places) as server, Client(server.address) as client:
        monkeypatch.setattr(LoadedModel, "run", wait_and_run)
        waiting = [client.prediction.Predict.future(request, timeout=60) for _ in range(fill)]
        until(lambda: server.front.predictions.active == fill, 30)
        codes = [client.prediction.Predict.future(request, timeout=60).code().name for _ in range(10)]
        go.set()
        assert codes == ["UNAVAILABLE"] * 10
        assert server.service.metrics.request_count.value("htr", "UNAVAILABLE") == 10
        assert {call.code().name for call in waiting} == {"OK"}


# -- each error leaves the call uncommitted --------------------------------------------------------------------

_BACKOFF_SECONDS = 0.5
_REPEATED = [code.name for code in grpc.StatusCode if code.name not in ("OK", "CANCELLED")]
_POLICY = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 2,
                "initialBackoff": f"{_BACKOFF_SECONDS}s",
                "maxBackoff": f"{_BACKOFF_SECONDS}s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": _REPEATED,
            },
        }
    ]
}
PREDICTION, MODEL = "/tensorflow.serving.PredictionService/", "/tensorflow.serving.ModelService/"
HEALTH = "/grpc.health.v1.Health/"


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "batching"])
def small_server(request, base):
    settings = {"enable_batching": request.param, "grpc_max_threads": 2, "file_system_poll_wait_seconds": 0.1}
    with EmbeddedServer(model_name="htr", model_base_path=str(base), port=0, **settings) as server:
        yield server


def repeated(server, method: str, data: bytes, stream: bool = False) -> str:
    """Call once, under a policy that repeats whatever was not committed; return the code of the last attempt.

    How often the server was asked is seen from the time: a second attempt waits first.
    """
    options = [("grpc.service_config", json.dumps(_POLICY)), ("grpc.per_rpc_retry_buffer_size", 1 << 20)]
    with Client(server.address, options=options) as client:
        grpc.channel_ready_future(client.channel).result(timeout=20)
        started = time.monotonic()
        with pytest.raises(grpc.RpcError) as failure:
            if stream:
                next(client.channel.unary_stream(method)(data, timeout=20))
            else:
                client.channel.unary_unary(method)(data, timeout=20)
        assert time.monotonic() - started > 0.75 * _BACKOFF_SECONDS, "the call was committed, so it was not repeated"
    return failure.value.code().name


@pytest.mark.parametrize(
    ("method", "data", "code"),
    [
        (PREDICTION + "Predict", lambda: predict(b"x"), "INVALID_ARGUMENT"),
        (PREDICTION + "Predict", lambda: predict(b"x", model="nope"), "NOT_FOUND"),
        (PREDICTION + "Predict", lambda: predict(b"x", signature="nope"), "FAILED_PRECONDITION"),
        (PREDICTION + "Predict", lambda: b"\xff\xff", "INTERNAL"),
        (PREDICTION + "Predict", lambda: b"\xff" * (300 << 10), "INTERNAL"),
        (PREDICTION + "GetModelMetadata", lambda: b"", "INVALID_ARGUMENT"),
        (PREDICTION + "Classify", lambda: b"", "UNIMPLEMENTED"),
        (PREDICTION + "Nope", lambda: b"", "UNIMPLEMENTED"),
        (MODEL + "GetModelStatus", lambda: b"", "INVALID_ARGUMENT"),
        (MODEL + "HandleReloadConfigRequest", lambda: b"", "INVALID_ARGUMENT"),
        (
            "/grpc.health.v1.Health/Check",
            lambda: protos.HealthCheckRequest(service="x").SerializeToString(),
            "NOT_FOUND",
        ),
        ("/grpc.health.v1.Health/Check", lambda: b"\xff", "INVALID_ARGUMENT"),
    ],
)
def test_a_refused_call_can_be_repeated(small_server, method, data, code):
    assert repeated(small_server, method, data()) == code


def test_a_refused_stream_can_be_repeated(small_server):
    assert repeated(small_server, HEALTH + "Watch", b"\xff", stream=True) == "INVALID_ARGUMENT"


def predict(image: bytes, **spec) -> bytes:
    return toy.predict_request({"image_bytes": [image]}, **spec).SerializeToString()


def test_a_call_that_finds_no_place_can_be_repeated(small_server):
    with Client(small_server.address) as client:
        burn = toy.predict_request({"rounds": [400_000]}, "burn")
        calls = [client.prediction.Predict.future(burn, timeout=6) for _ in range(2)]
        until(lambda: small_server.front.predictions.full)
        assert repeated(small_server, PREDICTION + "Predict", predict(b"x")) == "RESOURCE_EXHAUSTED"
        assert client.states() == {1: 30}, "the state of a busy server can be asked for"
        for call in calls:
            call.cancel()


def test_a_reload_that_finds_no_place_can_be_repeated(small_server, tmp_path):
    with Client(small_server.address) as client:
        nowhere = {"name": "nowhere", "base_path": tmp_path / "nowhere"}
        here = {"name": "htr", "base_path": small_server.options.model_base_path}
        pool = ThreadPoolExecutor(2)
        blocked = [pool.submit(client.reload, [here, nowhere], timeout=3) for _ in range(2)]
        until(lambda: small_server.front.reloads.full)
        assert repeated(small_server, MODEL + "HandleReloadConfigRequest", b"") == "RESOURCE_EXHAUSTED"
        failures = [call.exception() for call in blocked]  # one of them waits for the other to fail
        assert grpc.StatusCode.DEADLINE_EXCEEDED in [failure.code() for failure in failures if failure]
        until(lambda: not small_server.front.reloads.active)
        client.reload([here])
