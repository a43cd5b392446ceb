"""What a request leaves in the server's memory once it is answered: nothing, whatever the answer was."""

from __future__ import annotations

import base64
import gc
import json
import time

import numpy as np
import pytest
import serving_toy as toy
from google.protobuf.message import Message
from serving_client import Client
from test_serving_server import FAST, rest

from serving.server import EmbeddedServer
from tests.conftest import until

pytestmark = pytest.mark.either_stack

SMALL, LARGE = 20 << 10, 300 << 10  # the larger one is not parsed on the event loop


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "batching"])
def server(request, base):
    settings = {**FAST, "enable_batching": request.param, "rest_api_port": -1}
    with EmbeddedServer(model_base_path=str(base), **settings) as started:
        yield started


@pytest.fixture
def left(server):
    """A function that tells what of requests waits for Python's collector of reference cycles.

    That may come once in a long while in a server, and the memory of its requests would grow until then.
    """

    def found(sent: bytes) -> list[str]:
        until(lambda: not server.front.predictions.active)
        time.sleep(0.1)  # callers are answered a moment before all is over
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        gc.set_debug(0)
        held = [one for garbage in gc.garbage for one in gc.get_referents(garbage) if one is not sent]
        gc.garbage.clear()
        return [
            type(one).__name__ for one in held
            if isinstance(one, Message | np.ndarray) or (isinstance(one, bytes | str) and len(one) >= SMALL)
        ]  # fmt: skip

    gc.collect()
    gc.disable()
    yield found
    gc.set_debug(0)
    gc.enable()


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize(
    ("alias", "spec", "code"),
    [
        ("query", {"signature": "alphabet"}, "OK"),
        ("image_bytes", {"model": "nope"}, "NOT_FOUND"),
        ("image_bytes", {"signature": "nope"}, "FAILED_PRECONDITION"),
        ("image", {}, "INVALID_ARGUMENT"),
        ("image_bytes", {}, "INVALID_ARGUMENT"),
        (None, {}, "INTERNAL"),
    ],
    ids=["answer", "model", "signature", "input", "image", "garbage"],
)
def test_a_request_leaves_nothing(server, left, size, alias, spec, code):
    data = b"\xff" * size
    if alias is not None:
        data = toy.predict_request({alias: [b"x" * size]}, **spec).SerializeToString()
    with Client(server.address) as client:
        call = client.channel.unary_unary("/tensorflow.serving.PredictionService/Predict").future(data, timeout=20)
        assert call.code().name == code
        assert left(data) == []


@pytest.mark.parametrize(
    ("method", "code"),
    [
        ("tensorflow.serving.PredictionService/Classify", "UNIMPLEMENTED"),
        ("tensorflow.serving.PredictionService/GetModelMetadata", "INTERNAL"),
        ("tensorflow.serving.ModelService/HandleReloadConfigRequest", "INTERNAL"),
        ("grpc.health.v1.Health/Check", "INVALID_ARGUMENT"),
    ],
)
def test_refusals_of_other_methods_leave_nothing(server, left, method, code):
    data = b"\xff" * SMALL
    with Client(server.address) as client:
        call = client.channel.unary_unary(f"/{method}").future(data, timeout=20)
        assert call.code().name == code
        assert left(data) == []


def test_a_request_that_finds_no_place_leaves_nothing(server, left, monkeypatch):
    monkeypatch.setattr(server.front.predictions, "limit", 0)
    data = toy.predict_request({"image_bytes": [b"x" * SMALL]}).SerializeToString()
    with Client(server.address) as client:
        predict = client.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        assert predict.future(data, timeout=20).code().name == "RESOURCE_EXHAUSTED"
        assert left(data) == []


def test_a_request_that_ends_late_or_for_nobody_leaves_nothing(server, left):
    data = toy.predict_request({"rounds": [8_000, *[0] * 250]}, "burn").SerializeToString()
    with Client(server.address) as client:
        predict = client.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        assert predict.future(data, timeout=0.3).code().name == "DEADLINE_EXCEEDED"
        assert left(data) == []
        running = predict.future(data, timeout=20)
        until(lambda: server.front.predictions.active)
        running.cancel()
        assert left(data) == []


@pytest.mark.parametrize(
    ("path", "signature", "status"),
    [("htr", "alphabet", 200), ("nope", "alphabet", 404), ("htr/versions/7", "alphabet", 404),
     ("htr", "serving_default", 400)],
)  # fmt: skip
def test_a_request_over_rest_leaves_nothing(server, left, path, signature, status):
    inputs = [{"b64": base64.b64encode(b"x" * SMALL).decode()}]
    body = json.dumps({"signature_name": signature, "inputs": inputs}).encode()
    assert rest(server, "POST", f"/v1/models/{path}:predict", body)[0] == status
    assert left(body) == []
