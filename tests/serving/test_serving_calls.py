"""A single gRPC call: its deadline, the time that is told of it, and an answer that cannot be sent."""

from __future__ import annotations

import re
import time

import pytest
import serving_toy as toy
from serving_client import Client, fails

from serving.server import EmbeddedServer
from tests.conftest import until

pytestmark = pytest.mark.either_stack


@pytest.fixture(params=[False, True], ids=["plain", "batching"])
def server(request, base):
    settings = {"enable_batching": request.param, "tensorflow_session_parallelism": 1}
    with EmbeddedServer(model_name="htr", model_base_path=str(base), port=0, **settings) as started:
        yield started


def test_a_long_deadline_is_not_cut_short(server, monkeypatch):
    """The server gives up a moment before the caller does, however long the caller waits."""
    loop, delays = server.front.loop, []
    later = loop.call_later

    def call_later(delay, *args, **settings):
        delays.append(delay)
        return later(delay, *args, **settings)

    monkeypatch.setattr(loop, "call_later", call_later)
    with Client(server.address) as client:
        client.predict(toy.predict_request({"rounds": [1]}, "burn"), timeout=6000)
    # gRPC sends a deadline with three digits and rounds it up: what is 6,000.01 s by then arrives as 6,010.
    assert 5980 < max(delays) < 6010


def test_latencies_are_told_in_microseconds(server):
    with Client(server.address) as client:
        started = time.monotonic()
        client.predict(toy.predict_request({"rounds": [1000]}, "burn"))
        taken = 1e6 * (time.monotonic() - started)
    page = server.service.metrics.page()
    sums = re.findall(r"^:tensorflow:serving:(?:request|runtime)_latency_sum{.+} (\S+)$", page, re.M)
    assert len(sums) == 2 and all(taken / 100 < float(told) < taken for told in sums)


def test_an_answer_that_cannot_be_sent_is_an_error_and_frees_its_place(server, monkeypatch):
    class Unsendable:
        def SerializeToString(self):
            raise ValueError("more than 2 GiB")

    monkeypatch.setattr(server.service, "_response", lambda prediction: Unsendable())
    with Client(server.address) as client:
        code, text = fails(client.predict, toy.predict_request({"rounds": [1]}, "burn"), timeout=10)
    assert (code, text) == ("INTERNAL", "ValueError: more than 2 GiB")
    until(lambda: not server.front.predictions.active)
