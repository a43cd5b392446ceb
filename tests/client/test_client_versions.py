"""What a version brings: fetched and compiled by one caller for all, and not trusted after a silence."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from htr_client import AsyncHtrClient, BestPath, HtrClient, known_versions, messages
from htr_client.beam import PrefixBeamSearch
from htr_client.errors import HtrError, ServerFault, TimedOut, UnexpectedAnswer
from htr_client.language import LanguageModel
from htr_client.testing import ALPHABET, png

SECONDS = 60.0


class Gate:
    """A server whose answers about a version wait until they may go, and which counts them."""

    def __init__(self, server):
        self.asked, self.arrived, self.open = [], threading.Event(), threading.Event()
        self.failure = None
        self._answer = server.model.predict
        server.model.predict = self._predict

    def _predict(self, request, context):
        signature = request.model_spec.signature_name
        if signature != "serving_default":
            self.asked.append(signature)
            failure, self.failure = self.failure, None
            self.arrived.set()
            assert self.open.wait(SECONDS)
            if failure is not None:
                context.abort(*failure)
        return self._answer(request, context)


@pytest.fixture
def gate(server):
    made = Gate(server)
    yield made
    made.open.set()


def at_once(asynchronous, server, gate, count, **settings):
    """Transcribes images at once; what is asked about their version is answered when all of them have been."""
    outcomes = []

    def open_gate():
        end = time.monotonic() + SECONDS
        while len(server.model.batches) < count and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.5)  # for what should not be asked to arrive
        gate.open.set()

    def synchronous():
        with HtrClient(server.address, timeout=SECONDS, **settings) as client, ThreadPoolExecutor(count) as threads:
            calls = [threads.submit(client.transcribe, png("hello")) for _ in range(count)]
            outcomes.extend(call.exception() or call.result() for call in calls)

    async def awaited():
        async with AsyncHtrClient(server.address, timeout=SECONDS, **settings) as client:
            calls = [client.transcribe(png("hello")) for _ in range(count)]
            outcomes.extend(await asyncio.gather(*calls, return_exceptions=True))

    opening = threading.Thread(target=open_gate)
    opening.start()
    if asynchronous:
        asyncio.run(awaited())
    else:
        synchronous()
    opening.join()
    return outcomes


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def asynchronous(request):
    return request.param


def test_callers_that_meet_a_new_version_at_once_fetch_and_compile_it_once(asynchronous, server, gate):
    made = []

    def decoder(own):
        made.append(own)
        return BestPath()

    outcomes = at_once(asynchronous, server, gate, 8, decoder=decoder)
    assert [outcome.text for outcome in outcomes] == ["hello"] * 8
    assert gate.asked == ["alphabet", "language_model"] and len(made) == 1


def test_where_the_first_caller_fails_another_one_takes_over(asynchronous, server, gate):
    gate.failure = (grpc.StatusCode.INTERNAL, "disk")
    outcomes = at_once(asynchronous, server, gate, 6)
    failed = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert [type(each) for each in failed] == [ServerFault], "the others were served"
    assert gate.asked == ["alphabet", "alphabet", "language_model"]


def test_whoever_waits_for_another_caller_keeps_to_the_own_deadline(asynchronous, server, gate):
    async def awaited():
        async with AsyncHtrClient(server.address, timeout=SECONDS) as client:
            first = asyncio.create_task(client.transcribe(png("first")))
            await asyncio.to_thread(gate.arrived.wait, SECONDS)
            with pytest.raises(TimedOut):
                await client.transcribe(png("second"), timeout=1.0)
            gate.open.set()
            return (await first).text

    def synchronous():
        with HtrClient(server.address, timeout=SECONDS) as client, ThreadPoolExecutor(1) as thread:
            first = thread.submit(client.transcribe, png("first"))
            gate.arrived.wait(SECONDS)
            with pytest.raises(TimedOut):
                client.transcribe(png("second"), timeout=1.0)
            gate.open.set()
            return first.result().text

    assert (asyncio.run(awaited()) if asynchronous else synchronous()) == "first"
    assert gate.asked.count("alphabet") == 1


def test_a_caller_that_is_cancelled_leaves_its_turn_to_another_one(server, gate):
    async def run():
        async with AsyncHtrClient(server.address, timeout=SECONDS) as client:
            first = asyncio.create_task(client.transcribe(png("first")))
            await asyncio.to_thread(gate.arrived.wait, SECONDS)
            second = asyncio.create_task(client.transcribe(png("second")))
            while len(server.model.batches) < 2:
                await asyncio.sleep(0.01)
            first.cancel()
            (cancelled,) = await asyncio.gather(first, return_exceptions=True)
            assert isinstance(cancelled, asyncio.CancelledError)
            gate.open.set()
            return (await second).text

    assert asyncio.run(run()) == "second"


def test_the_function_that_makes_a_decoder_runs_beside_the_event_loop(server):
    where = []

    def decoder(own):
        where.append(threading.current_thread())
        return BestPath()

    async def run():
        async with AsyncHtrClient(server.address, decoder=decoder) as client:
            await client.transcribe(png("a"))

    asyncio.run(run())
    assert len(where) == 1 and where[0] is not threading.main_thread()


# After a silence.


def test_a_server_that_was_wiped_may_have_another_alphabet_under_the_same_version(kind, server, monkeypatch):
    """Of the same size: nothing in its answers shows it."""
    monkeypatch.setattr(known_versions, "TRUSTED_SECONDS", 0.2)
    with kind(server.address) as client:
        assert client.transcribe(png("abc")).text == "abc"
        server.stop()
        server.model.alphabets = {1: list(reversed(ALPHABET))}
        time.sleep(0.5)
        server.start()
        client.wait_until_ready(SECONDS)
        assert client.transcribe(png("abc")).text == "zyx"
        assert [result.text for result in client.transcribe_many([png("abc")] * 3)] == ["zyx"] * 3


def test_after_a_silence_only_the_alphabet_is_asked_where_nothing_has_changed(kind, server, gate, monkeypatch):
    monkeypatch.setattr(known_versions, "TRUSTED_SECONDS", 0.0)
    gate.open.set()
    made = []
    with kind(server.address, decoder=lambda own: made.append(own) or BestPath()) as client:
        for _ in range(3):
            assert client.transcribe(png("abc")).text == "abc"
    assert gate.asked == ["alphabet", "language_model", "alphabet", "alphabet"] and len(made) == 1


# Whose fault it is.


class Broken:
    def decode(self, log_probs, frames, alphabet):
        raise ValueError("my own mistake")


def test_the_mistakes_of_a_decoder_are_its_own(client, kind, server):
    def factory(own):
        raise LookupError("no such thing")

    for decoder, error in ((Broken(), ValueError), (factory, LookupError)):
        with kind(server.address, decoder=decoder) as own:
            for call in (lambda: own.transcribe(png("a")), lambda: list(own.transcribe_many([png("a")]))):
                with pytest.raises(error, match=r"my own mistake|no such thing") as raised:
                    call()
                assert not isinstance(raised.value, HtrError)
                assert raised.traceback[-1].name in ("decode", "factory")


def test_numbers_that_are_none_are_the_mistake_of_the_server(kind, server):
    answer = server.model.predict

    def predict(request, context):
        response = answer(request, context)
        if request.model_spec.signature_name == "serving_default":
            values = messages.to_array(response.outputs["log_probs"])
            response.outputs["log_probs"].Clear()
            server.model._put(response.outputs["log_probs"], values * np.nan, messages.DT_FLOAT, "float_val")
        return response

    server.model.predict = predict
    with kind(server.address, decoder=Broken()) as client, pytest.raises(UnexpectedAnswer, match="serving_default"):
        client.transcribe(png("a"))


def test_a_language_model_that_cannot_be_compiled_is_the_mistake_of_the_server(kind, server, monkeypatch):
    from tests.client.test_client_language import HELLO

    server.model.language_models = {1: HELLO.to_bytes()}

    def compile(self, alphabet):
        raise ValueError("its states lead nowhere")

    monkeypatch.setattr(LanguageModel, "compile", compile)
    decoder = lambda own: PrefixBeamSearch(language_model=own)  # noqa: E731
    with kind(server.address, decoder=decoder) as client, pytest.raises(UnexpectedAnswer, match="language_model"):
        client.transcribe(png("a"))
