"""Many images at once: batches, order, and what spoils a batch or interrupts the service."""

import asyncio
import random
import re
import threading
import time
from concurrent.futures import Future

import cv2
import grpc
import numpy as np
import pytest

from htr_client import AsyncHtrClient, ImageError
from htr_client.errors import (
    HtrError,
    ModelNotFound,
    OutOfMemory,
    RequestTooLarge,
    ServerBusy,
    ServerUnavailable,
    TimedOut,
)
from htr_client.image_files import ImageFile, PackedImage
from htr_client.network.retries import Outage, pause
from htr_client.results import Timings, Transcription
from htr_client.suspicion import look
from htr_client.testing import FakeServer, draw, png
from htr_client.windows import Sent, Windows
from tests.client.conftest import refuse, words
from tests.conftest import until

Code = grpc.StatusCode


def poisoned(text):
    """A good image for the client that this server chokes on."""
    data = png(text)
    import struct
    import zlib

    body = b"tEXtComment\0" + b"poison"
    return data[:33] + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) + data[33:]


def test_order_and_batches(client, server):
    texts = words(700)
    results = list(client.transcribe_many(png(text) for text in texts))
    assert [result.text for result in results] == texts
    assert max(server.model.batches) == 32 and len(server.model.batches) < 40


def test_images_of_similar_shape_go_together(kind, server):
    texts = [word for pair in zip(["a"] * 16, ["abcdefghijkl"] * 16, strict=True) for word in pair]
    with kind(server.address, batch_size=16, in_flight=2) as client:
        assert [result.text for result in client.transcribe_many(map(png, texts))] == texts
    shapes = [cv2.imdecode(np.frombuffer(image, np.uint8), 0).shape[1] for image in server.model.seen]
    assert sorted(shapes[:16]) == sorted(set(shapes[:16])) * 16


def test_no_images(client):
    assert list(client.transcribe_many([])) == []


def test_only_bad_images(client, server):
    results = list(client.transcribe_many([b"", b"x"]))
    assert [result.error.reason for result in results] == ["empty", "not_an_image"]
    assert [(result.text, result.confidence, result.ok) for result in results] == [("", 0.0, False)] * 2
    assert server.model.metadata == []


def test_bytes_may_have_a_name(client):
    results = list(client.transcribe_many([ImageFile(png("a"), "form 12"), ImageFile(b"x", "form 13"), png("b")]))
    assert [(result.source, result.text) for result in results] == [("form 12", "a"), ("form 13", ""), (None, "b")]


def test_one_poisoned_image_spoils_nothing(client, server):
    texts = words(100)
    images = [png(text) for text in texts]
    images[17], images[63] = poisoned("bad"), poisoned("worse")
    images[40] = np.full((16, 16), 77, np.uint8)
    results = list(client.transcribe_many(images))
    bad = {i: result.error.reason for i, result in enumerate(results) if not result.ok}
    assert bad == {17: "refused", 40: "refused", 63: "refused"}
    assert all(result.text == text for result, text in zip(results, texts, strict=True) if result.ok)


def test_a_server_that_takes_smaller_batches(client, server):
    server.model.max_batch = 8
    texts = words(300)
    assert [result.text for result in client.transcribe_many(map(png, texts))] == texts
    server.model.batches.clear()
    assert [result.text for result in client.transcribe_many(map(png, texts))] == texts
    assert max(server.model.batches) == 8


def test_of_two_servers_the_smaller_limit_of_a_batch_counts(kind, server):
    """Here the one with the larger limit refuses its batch when the other limit has been learnt."""
    answer, both, learnt = server.model.predict, threading.Barrier(2), threading.Event()
    limits = iter([4, 8])

    def predict(request, context):
        count = len(request.inputs["image_bytes"].string_val)
        if count == 16:
            both.wait(60)
            limit = next(limits)
            assert limit == 4 or learnt.wait(60)
            context.abort(Code.INVALID_ARGUMENT, f"Task size 16 is larger than maximum input batch size {limit}")
        if count == 4:
            learnt.set()
        return answer(request, context)

    server.model.predict = predict
    with kind(server.address, batch_size=16, in_flight=2) as client:
        for _ in range(2):
            assert [result.text for result in client.transcribe_many([png("a")] * 32)] == ["a"] * 32
    assert set(server.model.batches) == {4}


def test_batches_stay_below_the_message_limit(kind, server):
    rng = np.random.default_rng(0)
    noise = [rng.integers(100, 200, (40, 400), np.uint8) for _ in range(40)]  # 16 KB each
    for array in noise:
        array[20] = draw("abcdefghijklmnopqrstuvwxyz" * 2)[0, :400]
    with kind(server.address, max_message_bytes=256 * 1024, batch_size=64) as client:
        results = list(client.transcribe_many(noise))
        assert all(result.text.startswith("abc") for result in results)
        assert max(server.model.batches) <= 4
        [result] = client.transcribe_many([rng.integers(0, 255, (500, 2000), np.uint8)])
        assert result.error.reason == "too_large"
        with pytest.raises(ImageError, match="a message"):
            client.transcribe(rng.integers(0, 255, (500, 2000), np.uint8))


def test_an_answer_larger_than_the_limit_is_asked_for_in_parts(kind, server):
    texts = ["abcdefghijkl"] * 32  # 24 frames x 27 classes x 4 bytes x 32 rows = 83 KB
    with kind(server.address, max_message_bytes=40 * 1024) as client:
        assert [result.text for result in client.transcribe_many(map(png, texts))] == texts
    with kind(server.address, max_message_bytes=10 * 1024) as client, pytest.raises(RequestTooLarge) as error:
        client.transcribe(png("abcdefghijklmnopqrstuvwxyz" * 3))
    assert re.match(r"The answer of \d+ bytes is larger than max_message_bytes \(10240\)\.", str(error.value))


def test_a_smaller_limit_of_messages_is_learnt(kind, server):
    """Such as that of a proxy."""
    limit = 4 * 10**4

    def why(request):
        size = request.ByteSize()
        return f"Received message larger than max ({size} vs. {limit})" if size > limit else ""

    refused = refuse(server.model, why)
    noise = np.random.default_rng(0).integers(100, 200, (40, 400), np.uint8)  # 16 KB
    noise[20] = draw("abcdefghijklmnopqrstuvwxyz" * 2)[0, :400]
    with kind(server.address, batch_size=8, in_flight=1) as client:
        for _ in range(2):
            results = list(client.transcribe_many([noise] * 24))
            assert len(results) == 24 and all(result.text.startswith("abc") for result in results)
    assert refused == [8], "also of the batches that were made before"
    assert set(server.model.batches) == {2}


def test_batches_that_a_server_lacks_the_memory_for_are_halved(kind, server):
    def why(request):
        return (
            "OOM when allocating tensor with shape[32,64]" if len(request.inputs["image_bytes"].string_val) > 8 else ""
        )

    refused = refuse(server.model, why)
    texts = words(96)
    with kind(server.address, in_flight=1, patience=0.1) as client:
        for _ in range(2):
            assert [result.text for result in client.transcribe_many(map(png, texts))] == texts
    assert refused == [32, 16] * 2, "once in a run: the next one may find more memory"


def test_batches_that_a_server_has_no_time_for_are_halved(kind, server):
    answer, late = server.model.predict, []

    def predict(request, context):
        count = len(request.inputs["image_bytes"].string_val)
        if count > 8:
            late.append(count)
            given_up = threading.Event()
            assert context.add_callback(given_up.set) and given_up.wait(60)
        return answer(request, context)

    server.model.predict = predict
    texts = words(96)
    with kind(server.address, in_flight=1, timeout=1.0, patience=30.0) as client:
        assert [result.text for result in client.transcribe_many(map(png, texts))] == texts
    assert late == [32, 32, 16, 16], "the other batches are made no larger than has been learnt"


def test_a_server_that_never_has_time_is_given_up_when_patience_is_over(kind, server):
    server.model.delay = 1.0
    with kind(server.address, in_flight=1, timeout=0.2, patience=1.5) as client:
        started = time.monotonic()
        with pytest.raises(TimedOut):
            list(client.transcribe_many([png("a")] * 32))
        assert time.monotonic() - started < 10


def test_a_single_image_waits_for_the_memory_of_a_server(client, server):
    words_of_tensorflow = iter(["failed to allocate memory", "", "", "", "OOM when allocating tensor"])
    refuse(server.model, lambda request: next(words_of_tensorflow))
    assert [result.text for result in client.transcribe_many([png("patient")])] == ["patient"]
    with pytest.raises(OutOfMemory, match="Send smaller batches") as error:
        client.transcribe(png("a"))
    assert error.value.retryable and isinstance(error.value, ServerBusy)


def test_patience_begins_anew_when_a_server_has_refused_an_image(kind, server):
    """It is there, whatever went before."""
    busy = (Code.RESOURCE_EXHAUSTED, "OOM when allocating tensor")
    server.model.failures += [busy, (Code.INVALID_ARGUMENT, "Invalid PNG data"), busy]
    with kind(server.address, patience=0.05) as client:  # less than the pause after a failure
        assert [result.text for result in client.transcribe_many([png("a")])] == ["a"]


def test_requests_overlap(kind, server):
    server.model.delay = 0.5
    with kind(server.address, batch_size=4, in_flight=4) as client:
        client.wait_until_ready(5)
        started = time.monotonic()
        assert len(list(client.transcribe_many([png("a")] * 64))) == 64  # 16 requests of 0.5 s, 4 at a time
        assert time.monotonic() - started < 6
    server.model.delay = 0.0


def test_stopping_early_stops_everything(client, server):
    threads = threading.active_count()
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield png("a")

    results = client.transcribe_many(endless())
    assert next(results).text == "a"
    results.close()
    stopped_at = read
    assert stopped_at <= 3 * 32 * 4
    time.sleep(0.3)
    assert read == stopped_at
    assert threading.active_count() <= threads + 20


def test_closing_the_client_ends_what_is_under_way(kind, server):
    answer = server.model.predict
    results = []
    with kind(server.address, batch_size=1, in_flight=2) as client:
        assert client.transcribe(png("a")).text == "a"

        def predict(request, context):
            if png("b") in request.inputs["image_bytes"].string_val:
                until(lambda: 'outcome="ok"} 1\n' not in client.metrics.page())  # "a" is there, too
                client.close()
            return answer(request, context)

        server.model.predict = predict
        with pytest.raises(ServerUnavailable, match="was closed during the call"):
            for result in client.transcribe_many(map(png, "abcdefgh")):
                results.append(result.text)
        assert results == ["a"], "what is finished comes first"
        assert not {*map(png, "efgh")} & {*server.model.seen}
        server.model.predict = answer
        assert client.transcribe(png("on")).text == "on"


def test_a_batch_size_that_is_lowered_while_images_are_read_ahead_still_bounds_them(server):
    server.model.max_batch = 1
    read = 0

    async def source():
        nonlocal read
        while read < 500:
            if read == 14:  # six of the second window are read when the server tells its limit
                while not server.model.batches:
                    await asyncio.sleep(0.01)
            read += 1
            yield png("a")

    async def first():
        async with AsyncHtrClient(server.address, batch_size=4, in_flight=2) as client:
            results = client.transcribe_many(source())
            assert (await anext(results)).text == "a"
            await results.aclose()

    asyncio.run(first())
    assert read <= 3 * 4 * 2


@pytest.mark.parametrize("failing", ["source", "image"])
def test_what_fails_on_the_way_in_takes_no_results_with_it(kind, server, failing):
    texts = words(20)

    def source():
        yield from map(png, texts)
        if failing == "source":
            raise TypeError("the rows of this database are no images")
        yield from [None, png("never")]

    results = []
    with kind(server.address, batch_size=4, in_flight=2) as client:
        with pytest.raises(TypeError, match=r"are no images|not NoneType"):
            for result in client.transcribe_many(source()):
                results.append(result.text)
        assert client.transcribe(png("on")).text == "on"
    assert results == texts
    assert png("never") not in server.model.seen


def window_of(widths):
    """A window of images with these widths, in batches of two, and the request of each batch."""
    calls = []

    def send(batch):
        calls.append(([int(sent.source) for sent in batch], Future()))
        return calls[-1][1]

    windows = Windows(send, 10**6)
    seen = look(draw("a"))
    windows.add([Sent(PackedImage(b"", width, 10), seen, str(i), 0.0) for i, width in enumerate(widths)], 2)
    return windows, calls


def transcribed(places):
    return [Transcription(str(i), 1.0, (), (), "htr", 1, None, Timings(0, 0, 0)) for i in places]


def test_a_window_gives_its_results_in_the_order_of_its_images():
    windows, calls = window_of([1, 3, 2, 1, 3])
    assert [places for places, _ in calls] == [[0, 3], [2, 1], [4]] and not windows.full
    windows.add([], 2)
    assert windows.full
    for places, call in calls:
        call.set_result(transcribed(places))
    assert [result.text for result in windows.results()] == list("01234")
    assert list(windows.results()) == [] and not windows


@pytest.mark.parametrize(("finished", "before"), [([0, 2], "0123"), ([0], "01"), ([2], ""), ([], "")])
def test_what_is_finished_of_a_window_comes_before_the_failure_of_a_request(finished, before):
    windows, calls = window_of([1, 1, 3, 3, 2, 2])
    assert [places for places, _ in calls] == [[0, 1], [4, 5], [2, 3]]
    calls[1][1].set_exception(ServerUnavailable("away"))
    for i in finished:
        calls[i][1].set_result(transcribed(calls[i][0]))
    results = []
    with pytest.raises(ServerUnavailable):
        for result in windows.results():
            results.append(result.text)
    assert "".join(results) == before
    assert windows.unfinished() == windows.awaited() == [call for _, call in calls]  # to be ended by the client


def test_a_slow_source_does_not_hold_up_the_event_loop(server):
    moved, threads = threading.Event(), set()

    def source():
        for _ in range(20):
            threads.add(threading.get_ident())
            yield png("a") if moved.wait(2.0) else b""

    async def texts():
        asyncio.get_running_loop().call_later(0.05, moved.set)
        async with AsyncHtrClient(server.address, batch_size=4, in_flight=2) as client:
            return [result.text async for result in client.transcribe_many(source())]

    assert asyncio.run(texts()) == ["a"] * 20
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_wrong_model_raises_at_once(kind, server):
    with kind(server.address, "nope") as client, pytest.raises(ModelNotFound):
        list(client.transcribe_many([png("a")] * 5))


@pytest.mark.either_stack
def test_patience_ends(kind):
    with kind("localhost:1", patience=1.0, timeout=2.0) as client:
        started = time.monotonic()
        with pytest.raises(HtrError) as error:
            list(client.transcribe_many([png("a")] * 500))
        assert error.value.retryable
        assert time.monotonic() - started < 15


def test_pauses_stay_short_however_long_the_patience():
    assert pause(0) <= 0.1 and all(1.0 <= pause(attempt) <= 2.0 for attempt in (10, 1024, 10**6))


def test_an_outage_may_end_for_one_thread_while_another_one_asks(monkeypatch):
    outage = Outage(60.0)
    clock = time.monotonic

    def monotonic():
        outage.over()  # as the call of another thread that gets through at any moment
        return clock()

    monkeypatch.setattr(time, "monotonic", monotonic)
    assert outage.bearable(ServerUnavailable("away"))
    assert not outage.bearable(ModelNotFound("none"))


@pytest.mark.either_stack
def test_restart_in_the_middle_of_two_thousand_images(kind):
    """All results arrive, in order, exactly once; 5 % corrupt ones are exactly the errors."""
    server = FakeServer()
    rng = random.Random(1)
    texts = words(2000)
    bad = set(rng.sample(range(2000), 100))

    def corrupt(text):
        data = png(text)
        how = [data[: len(data) // 2], b"", b"a text file", data[:-20] + bytes(20), poisoned(text)]
        return rng.choice(how)

    images = [corrupt(text) if i in bad else png(text) for i, text in enumerate(texts)]
    server.model.delay = 0.02

    def restart():
        server.stop(0)
        time.sleep(1.5)
        server.start()

    results = []
    restarting = threading.Thread(target=restart)
    with kind(server.address) as client:
        for result in client.transcribe_many(images):
            results.append(result)
            if len(results) == 400:
                restarting.start()
    restarting.join()
    server.stop()
    assert len(results) == 2000
    assert {i for i, result in enumerate(results) if not result.ok} == bad
    assert all(result.text == text for result, text in zip(results, texts, strict=True) if result.ok)
    assert len(server.model.seen) >= 1900
