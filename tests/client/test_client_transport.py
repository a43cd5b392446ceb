"""A client whose requests are carried by something else than gRPC."""

import asyncio
import threading

import pytest

from htr_client import AsyncHtrClient, HtrClient
from htr_client.aio_transport import AsyncGrpcTransport
from htr_client.ending import Ending
from htr_client.errors import ServerBusy, ServerFault
from htr_client.network.endpoint import Endpoint
from htr_client.testing import png
from htr_client.transport import GrpcTransport


class Noting(GrpcTransport):
    """Notes what it carries; the first request with images is refused."""

    def __init__(self, address: str) -> None:
        super().__init__(Endpoint(address, None, 2**20, False))
        self.carried: list[str] = []

    def call(self, ask, seconds, ending=None):
        self.carried.append(ask.request.model_spec.signature_name or ask.method.rpartition("/")[2])
        if self.carried == ["serving_default"]:
            raise ServerFault("It is broken.", code="INTERNAL")
        return super().call(ask, seconds, ending)


def test_a_transport_carries_every_request_and_its_failures_are_those_of_calls(server):
    transport = Noting(server.address)
    with HtrClient(transport=transport) as client:
        with pytest.raises(ServerFault, match="It is broken"):
            client.transcribe(png("a"))
        assert client.transcribe(png("a")).text == "a"
        assert [result.text for result in client.transcribe_many([png("b"), png("c")])] == ["b", "c"]
        assert client.model_status()[0].state == "AVAILABLE"
        assert client.server == transport.name == server.address
        page = client.metrics.page()
    assert set(transport.carried) == {"serving_default", "alphabet", "language_model", "GetModelStatus"}
    calls = transport.carried.count("serving_default")
    assert f'signature="serving_default",code="OK"}} {calls - 1}' in page
    assert 'signature="serving_default",code="INTERNAL"} 1' in page


def test_who_stops_early_ends_the_calls_of_any_transport(server):
    held, ended = threading.Event(), threading.Event()

    class Holding(GrpcTransport):
        """Keeps the second request with images until its end."""

        def call(self, ask, seconds, ending=None):
            if ask.request.model_spec.signature_name == "serving_default" and server.model.batches:
                with ending.on_end(ended.set):
                    held.set()
                    if ended.wait(seconds):
                        raise ServerBusy("ended")
            return super().call(ask, seconds, ending)

    holding = Holding(Endpoint(server.address, None, 2**20, False))
    with HtrClient(transport=holding, batch_size=1, in_flight=1) as client:
        results = client.transcribe_many([png("a")] * 3)
        assert next(results).text == "a" and held.wait(15.0) and not ended.is_set()
        results.close()
        assert ended.is_set()


def test_what_begins_after_the_end_is_ended_at_once():
    ending, called = Ending(), []
    with ending.on_end(lambda: called.append("left before")):
        pass
    ending.end()
    with ending.on_end(lambda: called.append("come after")):
        assert called == ["come after"]


def test_an_asynchronous_transport(server):
    async def transcribe() -> str:
        transport = AsyncGrpcTransport(Endpoint(server.address, None, 2**20, False))
        async with AsyncHtrClient(transport=transport) as client:
            return (await client.transcribe(png("word"))).text

    assert asyncio.run(transcribe()) == "word"
