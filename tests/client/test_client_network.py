"""The clients, image by image, against a server whose answers are known and that misbehaves on demand."""

import collections
import contextlib
import socket
import threading
import time

import grpc
import numpy as np
import pytest

from htr_client import ImageError, messages
from htr_client.beam import PrefixBeamSearch
from htr_client.errors import (
    ModelNotFound,
    ModelUnusable,
    OutOfMemory,
    RequestRefused,
    RequestTooLarge,
    ServerBusy,
    ServerFault,
    ServerUnavailable,
    TimedOut,
    UnexpectedAnswer,
)
from htr_client.lexicon import Lexicon
from htr_client.spans import pixel_spans
from htr_client.testing import ALPHABET, draw, png
from tests.client.conftest import refuse

Code = grpc.StatusCode


def test_transcribe(client, server, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png("hello"))
    for image in (path, str(path), path.read_bytes(), draw("hello")):
        result = client.transcribe(image)
        assert (result.text, result.version, result.model, result.ok) == ("hello", 1, "htr", True)
        assert [c.text for c in result.characters] == list("hello")
        spans = [c.span for c in result.characters]
        assert spans == pixel_spans([(2 * i, 2 * i + 1) for i in range(5)], 10, 40.0, (0.0, 36.0))
        assert all(c.confidence == pytest.approx(0.9) for c in result.characters)
        assert result.confidence == pytest.approx(0.9**10, rel=0.2)
        assert min(result.timings) > 0
        assert result.source == (str(path) if isinstance(image, (str, type(path))) else None)


def test_spans_are_in_pixels_of_the_image_as_given(client):
    # Shrunk to a quarter before it is sent; four columns of that are one frame of this server.
    large = np.repeat(np.repeat(draw("ab"), 64, axis=0), 4, axis=1)
    result = client.transcribe(large)
    assert (result.text, large.shape) == ("ab", (1024, 64))
    small = client.transcribe(draw("ab")).characters
    assert [c.span for c in result.characters] == [pytest.approx((4 * a, 4 * b)) for _, _, (a, b) in small]


def test_answers_as_tensor_content(client, server):
    server.model.as_content = True
    assert client.transcribe(png("content")).text == "content"


def test_a_bad_image_is_not_sent(client, server):
    with pytest.raises(ImageError) as error:
        client.transcribe(b"text")
    assert error.value.reason == "not_an_image" and not error.value.retryable
    assert server.model.metadata == []


def test_an_image_that_the_graph_refuses(client):
    with pytest.raises(ImageError, match="graph") as error:
        client.transcribe(np.full((16, 16), 77, np.uint8))
    assert error.value.reason == "refused"


def test_version_and_label(kind, server):
    server.model.alphabets[2] = list(ALPHABET)
    with kind(server.address, version=2) as client:
        assert client.transcribe(png("a")).version == 2
    with kind(server.address, label="stable") as client:
        assert client.transcribe(png("a")).version == 1
    with kind(server.address, label="canary") as client, pytest.raises(ModelNotFound, match="canary"):
        client.transcribe(png("a"))
    with kind(server.address, version=7) as client, pytest.raises(ModelNotFound, match=r"Specific\(htr, 7\)"):
        client.transcribe(png("a"))
    with kind(server.address, "nope") as client, pytest.raises(ModelNotFound, match="model_status"):
        client.transcribe(png("a"))
    for settings in ({"version": 1, "label": "stable"}, {"version": -1}, {"version": 2**63}):
        with pytest.raises(ValueError, match="version"):
            kind(server.address, **settings)
    with pytest.raises(TypeError, match=r"BestPath\(\).* not 'best-path'"):
        kind(server.address, decoder="best-path")


def test_a_new_version_brings_its_own_alphabet(client, server):
    assert client.transcribe(png("abc")).text == "abc"
    server.model.alphabets = {2: [c.upper() for c in ALPHABET]}
    server.model.version = 2
    result = client.transcribe(png("abc"))
    assert (result.text, result.version) == ("ABC", 2)


def test_a_version_that_goes_away_before_its_alphabet_is_asked(client, server):
    """The image is then answered again, by the version that came."""
    server.model.alphabets = {2: [c.upper() for c in ALPHABET]}
    original = server.model.predict

    def predict(request, context):
        if request.model_spec.signature_name == "serving_default" and server.model.version == 1:
            server.model.alphabets[1] = list(ALPHABET)
            response = original(request, context)
            del server.model.alphabets[1]
            server.model.version = 2
            return response
        return original(request, context)

    server.model.predict = predict
    assert client.transcribe(png("abc")).text == "ABC"


def test_what_a_version_brings_is_asked_once(client, server):
    for _ in range(3):
        client.transcribe(png("a"))
    assert server.model.batches == [1, 1, 1]
    assert len(server.model.metadata) == 5  # alphabet and language model, once each


def test_decoder_and_alternatives(kind, server):
    decoder = PrefixBeamSearch(candidates=26, lexicon=Lexicon(["hallo", "hello"]), alternatives=1)
    with kind(server.address, decoder=decoder) as client:
        result = client.transcribe(png("hellp"))
    assert result.text == "hello"
    assert [alternative.text for alternative in result.alternatives] == ["hallo"]


# When calls fail.


def test_unavailable_is_retried_in_the_channel(client, server):
    server.model.failures = [(Code.UNAVAILABLE, "queue full")] * 3
    assert client.transcribe(png("again")).text == "again"


class Silent:
    """A way to a server on which nothing is said for some seconds after a connection was accepted."""

    def __init__(self, server, seconds):
        self._server, self._seconds = server, seconds
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._spawn(self._accept)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _spawn(self, work, *arguments):
        threading.Thread(target=work, args=arguments, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                self._spawn(self._serve, self._listener.accept()[0])

    def _serve(self, near):
        time.sleep(self._seconds)
        with contextlib.suppress(OSError), near, socket.create_connection(("127.0.0.1", self._server.port)) as far:
            self._spawn(self._carry, far, near)
            self._carry(near, far)

    def _carry(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)


def test_a_server_that_is_slow_to_connect_takes_no_attempts(kind, server):
    """As one far away, behind a busy proxy, or on a machine that has no time for it just then."""
    with Silent(server, 1.0) as slow:
        with kind(slow.address) as client:
            client.connect(5.0)
        with kind(slow.address) as client:
            server.model.failures = [(Code.UNAVAILABLE, "queue full")] * 3
            assert client.transcribe(png("again")).text == "again"


def test_calls_cut_off_by_a_stopping_server_are_retried(client, server):
    server.model.failures = [(Code.CANCELLED, "Cancelling all calls")]
    assert client.transcribe(png("again")).text == "again"


def test_a_full_server_is_retried(kind, server):
    """Whatever is asked."""
    asked = collections.Counter()

    def fill(method):
        def answer(request, context):
            what = request.model_spec.signature_name
            asked[what] += 1
            if asked[what] < 3:
                context.abort(Code.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
            return method(request, context)

        return answer

    server.model.predict, server.model.status = fill(server.model.predict), fill(server.model.status)
    with kind(server.address, timeout=60.0) as client:
        assert client.transcribe(png("again")).text == "again"
        assert client.model_status()[0].state == "AVAILABLE"
    assert asked == {"serving_default": 3, "alphabet": 3, "language_model": 3, "": 3}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("SERVER: Received message larger than max (5829193 vs. 4194304)", RequestTooLarge),
        ("OOM when allocating tensor with shape[1,64]", OutOfMemory),
    ],
)
def test_what_is_too_large_for_a_server_is_sent_once(client, server, words, error):
    refused = refuse(server.model, lambda request: words)
    with pytest.raises(error):
        client.transcribe(png("a"))
    assert refused == [1]


@pytest.mark.parametrize(
    ("code", "details", "expected", "retryable"),
    [
        (Code.UNAVAILABLE, "shutting down", ServerUnavailable, True),
        (Code.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted", ServerBusy, True),
        (Code.FAILED_PRECONDITION, "Could not find variable logits/kernel", ModelUnusable, False),
        (Code.INTERNAL, "", ServerFault, False),
        (Code.INVALID_ARGUMENT, "Expects arg[0] to be string but float is provided", RequestRefused, False),
    ],
)
def test_errors_say_what_and_what_to_do(client, server, code, details, expected, retryable):
    server.model.failures = [(code, details)] * 9
    with pytest.raises(expected) as error:
        client.transcribe(png("a"))
    assert error.value.retryable is retryable and error.value.code == code.name
    assert details in str(error.value) and error.value.advice in str(error.value)
    if not retryable:
        assert len(server.model.metadata) == 1, "bad requests are never repeated"


def test_nobody_there(kind):
    with kind("localhost:1", timeout=2.0) as client:
        started = time.monotonic()
        with pytest.raises(ServerUnavailable):
            client.transcribe(png("a"))
        assert time.monotonic() - started < 10


def test_deadline(kind, server):
    server.model.delay = 3.0
    with kind(server.address, timeout=0.3) as client:
        started = time.monotonic()
        with pytest.raises(TimedOut):
            client.transcribe(png("slow"))
        assert time.monotonic() - started < 2.9
        with pytest.raises(TimedOut):
            client.transcribe(png("slow"), timeout=0.1)
    server.model.delay = 0.0


def test_answers_that_make_no_sense(client, server):
    server.model.alphabets = {1: ["x"] * 26}
    with pytest.raises(UnexpectedAnswer, match="alphabet"):
        client.transcribe(png("a"))
    original = server.model.predict

    def predict(request, context):
        response = original(request, context)
        response.outputs.clear()
        return response

    server.model.predict = predict
    with pytest.raises(UnexpectedAnswer, match="serving_default"):
        client.transcribe(png("a"))


@pytest.mark.parametrize(
    ("wrong", "change"),
    [
        (("maps", messages.DT_UINT8, "int_val"), lambda maps: maps[..., :2]),
        (("maps", messages.DT_INT32, "int_val"), lambda maps: maps.astype(np.int32)),
        (("scale", messages.DT_FLOAT, "float_val"), lambda scale: scale * np.inf),
    ],
    ids=["channels", "type", "scale"],
)
def test_an_answer_of_another_line_finder_is_told(client, server, wrong, change):
    """Such as of one with two maps, which a server has under the same name."""
    page = np.full((300, 300), 255, np.uint8)
    page[100:130, 30:270] = 0
    original = server.model.predict

    def predict(request, context):
        response = original(request, context)
        name, kind, field = wrong
        values = messages.to_array(response.outputs[name])
        response.outputs[name].Clear()
        server.model._put(response.outputs[name], change(values), kind, field)
        return response

    assert client.find_page(page).lines
    server.model.predict = predict
    with pytest.raises(UnexpectedAnswer, match=r"page was sent|Maps of"):
        client.find_page(page)


def test_second_chance_when_a_neighbour_spoilt_the_batch(client, server):
    server.model.failures = [(Code.INVALID_ARGUMENT, "Invalid PNG data, size 200\n\t [[{{node}}]]")]
    assert client.transcribe(png("good")).text == "good"
    server.model.failures = [(Code.INVALID_ARGUMENT, "Invalid PNG data, size 200\n\t [[{{node}}]]")] * 2
    with pytest.raises(ImageError) as error:
        client.transcribe(png("good"))
    assert error.value.reason == "refused"
