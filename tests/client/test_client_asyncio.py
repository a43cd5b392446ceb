"""The client for asyncio: neither the event loop, nor one caller, nor what he gives holds up the others."""

import asyncio
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from htr_client import AsyncHtrClient, BestPath, HtrClient, aio
from htr_client.aio_transport import AsyncGrpcTransport
from htr_client.errors import ServerUnavailable, TimedOut
from htr_client.network.endpoint import Endpoint
from htr_client.network.retries import Outage
from htr_client.testing import png


def test_images_of_many_that_take_their_time_do_not_hold_up_single_ones(server, tmp_path):
    go_on = threading.Event()

    class Slow:
        def __fspath__(self):
            go_on.wait(30)
            return str(tmp_path / "a.png")

    (tmp_path / "a.png").write_bytes(png("a"))

    async def beside_many():
        async with AsyncHtrClient(server.address) as client:

            async def many():
                return [result.text async for result in client.transcribe_many([Slow()] * 128)]

            running = asyncio.create_task(many())
            await asyncio.sleep(0.05)
            try:
                single = await asyncio.wait_for(client.transcribe(png("single"), timeout=10), 10)
            finally:
                go_on.set()
            return single.text, await running

    assert asyncio.run(beside_many()) == ("single", ["a"] * 128)


def test_the_timeout_holds_where_others_have_all_threads(server):
    go_on = threading.Event()

    async def wait():
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        async with AsyncHtrClient(server.address) as client:
            assert (await client.transcribe(png("a"))).text == "a"
            other = asyncio.create_task(asyncio.to_thread(go_on.wait, 30))
            await asyncio.sleep(0)
            try:
                with pytest.raises(TimedOut, match="No thread was free"):
                    await asyncio.wait_for(client.transcribe(png("a"), timeout=0.1), 10)
            finally:
                go_on.set()
            await other
            return (await client.transcribe(png("b"))).text

    assert asyncio.run(wait()) == "b"


def test_decoding_that_has_begun_is_waited_for(server):
    class Slow:
        seconds = 0.0

        def decode(self, *answer):
            time.sleep(self.seconds)
            return BestPath().decode(*answer)

    async def text():
        async with AsyncHtrClient(server.address, decoder=Slow()) as client:
            assert (await client.transcribe(png("a"))).text == "a"
            Slow.seconds = 0.6
            return (await client.transcribe(png("b"), timeout=0.5)).text

    assert asyncio.run(text()) == "b"


def test_a_decoder_that_raises_stop_iteration_holds_up_nobody(server):
    class OnceWrong:
        asked = 0

        def decode(self, *answer):
            self.asked += 1
            return next(iter([])) if self.asked == 1 else BestPath().decode(*answer)

    async def both():
        async with AsyncHtrClient(server.address, decoder=OnceWrong()) as client:
            with pytest.raises(RuntimeError, match="StopIteration"):
                await asyncio.wait_for(client.transcribe(png("a")), 10)
            return (await client.transcribe(png("b"))).text

    assert asyncio.run(both()) == "b"
    with HtrClient(server.address, decoder=OnceWrong()) as client, pytest.raises(RuntimeError, match="StopIteration"):
        client.transcribe(png("a"))


@pytest.mark.parametrize("wrapped", [False, True], ids=["generator", "iterator over a generator"])
def test_a_source_ends_in_the_thread_in_which_it_began(server, wrapped):
    where = []

    def rows():
        where.append(threading.current_thread().name)
        database = sqlite3.connect(":memory:")
        try:
            for letter in "abcdefgh" * 20:
                yield database.execute("select ?", (png(letter),)).fetchone()[0]
        finally:
            database.close()  # raises an error in another thread
            where.append(threading.current_thread().name)

    async def first(source):
        async with AsyncHtrClient(server.address, batch_size=2, in_flight=2) as client:
            results = client.transcribe_many(map(bytes, source()) if wrapped else source())
            async for _ in results:
                break
            await results.aclose()
            return list(where)

    assert asyncio.run(first(rows)) == ["htr-source_0"] * 2


def test_an_asynchronous_source_ends_with_the_results(server):
    ended = []

    async def source():
        try:
            while True:
                yield png("a")
        finally:
            ended.append(True)

    async def first():
        images = source()
        async with AsyncHtrClient(server.address, batch_size=2, in_flight=2) as client:
            results = client.transcribe_many(images)
            assert (await anext(results)).text == "a"
            await results.aclose()
            return list(ended)

    assert asyncio.run(first()) == [True]


def test_who_leaves_does_not_wait_for_a_source_that_is_stuck(server):
    go_on, stuck = threading.Event(), threading.Event()

    def source():
        yield png("a")
        stuck.set()
        go_on.wait(30)

    async def leave():
        async with AsyncHtrClient(server.address, batch_size=1, in_flight=1) as client:
            running = asyncio.ensure_future(anext(client.transcribe_many(source())))
            await asyncio.to_thread(stuck.wait, 10)
            running.cancel()
            try:
                await asyncio.wait([running], timeout=10)
                return running.cancelled()
            finally:
                go_on.set()

    assert asyncio.run(leave())


def test_the_answer_to_a_batch_is_read_in_a_thread(server):
    threads = []

    class Read:
        def __init__(self, response):
            self.model_spec, self._response = response.model_spec, response

        @property
        def outputs(self):
            threads.append(threading.current_thread())
            return self._response.outputs

    class Transport(AsyncGrpcTransport):
        async def call(self, ask, seconds):
            response = await super().call(ask, seconds)
            signature = ask.request.model_spec.signature_name
            return Read(response) if signature == "serving_default" else response

    async def texts():
        transport = Transport(Endpoint(server.address, None, 2**25, False))
        async with AsyncHtrClient(transport=transport) as client:
            return [result.text async for result in client.transcribe_many([png("a")] * 3)]

    assert asyncio.run(texts()) == ["a"] * 3
    assert threads and threading.main_thread() not in threads


@pytest.mark.parametrize("closing", [False, True])
def test_pages_of_one_event_loop_are_decoded_a_few_at_a_time(server, tmp_path, closing):
    """Others wait without a thread; they are under way all the same, so that closing the client ends them."""
    page = np.full((700, 900), 240, np.uint8)
    page[120:150, 100:500] = 30
    cv2.imwrite(str(tmp_path / "a.png"), page)
    begun, go_on = threading.Semaphore(0), threading.Event()

    class Slow:
        def __fspath__(self):
            begun.release()
            go_on.wait(30)
            return str(tmp_path / "a.png")

    async def read():
        async with AsyncHtrClient(server.address, in_flight=2) as client:
            pages = asyncio.gather(*(client.transcribe_page(Slow()) for _ in range(5)), return_exceptions=True)
            await asyncio.to_thread(lambda: [begun.acquire(timeout=10) for _ in range(2)])
            threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("htr-page")]
            if closing:
                await client.close()
            go_on.set()
            return len(threads), await asyncio.wait_for(pages, 30)

    threads, found = asyncio.run(read())
    assert threads == 2
    if closing:
        assert [type(error) for error in found[2:]] == [ServerUnavailable] * 3
    else:
        assert [len(page.lines) for page in found] == [1] * 5


def test_pages_that_wait_for_their_turn_share_the_patience_with_a_server_that_is_away(monkeypatch):
    made = []
    monkeypatch.setattr(aio, "Outage", lambda patience: made.append(Outage(patience)) or made[-1])

    async def read():
        async with AsyncHtrClient("localhost:1", in_flight=2, patience=0.1, timeout=1) as client:
            for _ in range(2):
                pages = (client.transcribe_page(np.full((700, 900), 240, np.uint8)) for _ in range(5))
                found = await asyncio.gather(*pages, return_exceptions=True)
                assert [type(error) for error in found] == [ServerUnavailable] * 5

    asyncio.run(read())
    assert len(made) == 2, "one for all that are under way, another one for those that come later"


def test_a_closed_client_transcribes_pages_in_another_event_loop(server):
    client = AsyncHtrClient(server.address, in_flight=2)

    async def read():
        async with client:
            pages = [client.transcribe_page(np.full((700, 900), 240, np.uint8)) for _ in range(5)]
            return await asyncio.gather(*pages)

    assert [len(page.lines) for _ in range(2) for page in asyncio.run(read())] == [0] * 10
