"""The clients against a server whose answers are known and that misbehaves on demand."""

import random
import sys
import threading
import time

import cv2
import grpc
import numpy as np
import pytest

from htr_client import HtrClient, ImageError, Tls
from htr_client.beam import PrefixBeamSearch
from htr_client.connection import grpc_target
from htr_client.errors import (
    HtrError,
    MissingExtra,
    ModelNotFound,
    ModelUnusable,
    RequestRefused,
    ServerBusy,
    ServerFault,
    ServerUnavailable,
    TimedOut,
    UnexpectedAnswer,
)
from htr_client.language import Lexicon
from htr_client.spans import pixel_spans
from htr_client.testing import ALPHABET, FakeServer, draw, png

Code = grpc.StatusCode


def words(count, seed=0):
    rng = random.Random(seed)
    return ["".join(rng.choices(ALPHABET, k=rng.randint(1, 12))) for _ in range(count)]


def poisoned(text):
    """A good image for the client that this server chokes on."""
    data = png(text)
    import struct
    import zlib

    body = b"tEXtComment\0" + b"poison"
    return data[:33] + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) + data[33:]


@pytest.fixture
def client(kind, server):
    with kind(server.address, patience=5.0) as made:
        yield made


# One image.


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


def test_spans_are_in_pixels_of_the_picture_as_given(client):
    # Shrunk to a quarter before it is sent; four columns of that are one frame of this server.
    large = np.repeat(np.repeat(draw("ab"), 64, axis=0), 4, axis=1)
    result = client.transcribe(large)
    assert (result.text, large.shape) == ("ab", (1024, 64))
    small = client.transcribe(draw("ab")).characters
    assert [c.span for c in result.characters] == [pytest.approx((4 * a, 4 * b)) for _, _, (a, b) in small]


def test_answers_as_tensor_content(client, server):
    server.model.as_content = True
    assert client.transcribe(png("content")).text == "content"


def test_a_bad_picture_is_not_sent(client, server):
    with pytest.raises(ImageError) as error:
        client.transcribe(b"text")
    assert error.value.reason == "not_a_picture" and not error.value.retryable
    assert server.model.metadata == []


def test_a_picture_that_the_graph_refuses(client):
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
    assert len(server.model.metadata) == 5 and server.model.batches == [
        1,
        1,
        1,
    ]  # alphabet and language model, once each


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


def test_calls_cut_off_by_a_stopping_server_are_retried(client, server):
    server.model.failures = [(Code.CANCELLED, "Cancelling all calls")]
    assert client.transcribe(png("again")).text == "again"


def test_a_full_server_is_retried(client, server):
    server.model.failures = [(Code.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")] * 2
    assert client.transcribe(png("again")).text == "again"


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
        with pytest.raises((ServerUnavailable, TimedOut)):
            client.transcribe(png("a"))
        assert time.monotonic() - started < 4


def test_deadline(kind, server):
    server.model.delay = 3.0
    with kind(server.address, timeout=0.3) as client:
        started = time.monotonic()
        with pytest.raises(TimedOut):
            client.transcribe(png("slow"))
        assert time.monotonic() - started < 2
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


def test_second_chance_when_a_neighbour_spoilt_the_batch(client, server):
    server.model.failures = [(Code.INVALID_ARGUMENT, "Invalid PNG data, size 200\n\t [[{{node}}]]")]
    assert client.transcribe(png("good")).text == "good"
    server.model.failures = [(Code.INVALID_ARGUMENT, "Invalid PNG data, size 200\n\t [[{{node}}]]")] * 2
    with pytest.raises(ImageError) as error:
        client.transcribe(png("good"))
    assert error.value.reason == "refused"


# Many images.


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
    assert [result.error.reason for result in results] == ["empty", "not_a_picture"]
    assert [(result.text, result.confidence, result.ok) for result in results] == [("", 0.0, False)] * 2
    assert server.model.metadata == []


def test_one_poisoned_picture_spoils_nothing(client, server):
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


def test_requests_overlap(kind, server):
    server.model.delay = 0.2
    with kind(server.address, batch_size=4, in_flight=4) as client:
        client.wait_until_ready(5)
        started = time.monotonic()
        assert len(list(client.transcribe_many([png("a")] * 64))) == 64  # 16 requests of 0.2 s, 4 at a time
        assert time.monotonic() - started < 2.5
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


def test_wrong_model_raises_at_once(kind, server):
    with kind(server.address, "nope") as client, pytest.raises(ModelNotFound):
        list(client.transcribe_many([png("a")] * 5))


def test_patience_ends(kind):
    with kind("localhost:1", patience=1.0, timeout=2.0) as client:
        started = time.monotonic()
        with pytest.raises(HtrError) as error:
            list(client.transcribe_many([png("a")] * 500))
        assert error.value.retryable
        assert time.monotonic() - started < 15


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


# Several servers, TLS, status, metadata.


def test_calls_are_spread_over_servers_and_survive_the_loss_of_one(kind):
    servers = [FakeServer(), FakeServer(), FakeServer()]
    with kind([server.address for server in servers], batch_size=4) as client:
        texts = words(200)
        for server in servers:
            server.model.delay = 0.01
        assert [result.text for result in client.transcribe_many(map(png, texts))] == texts
        assert all(len(server.model.batches) >= 10 for server in servers)
        servers[1].stop(0)
        assert [result.text for result in client.transcribe_many(map(png, texts))] == texts
    for server in servers:
        server.stop()


@pytest.mark.parametrize(
    ("addresses", "target"),
    [
        ("localhost:8500", "dns:///localhost:8500"),
        ("htr.example.org:443", "dns:///htr.example.org:443"),
        ("unix:/run/htr.sock", "unix:/run/htr.sock"),
        ("dns:///htr:8500", "dns:///htr:8500"),
        (["10.0.0.1:8500", "10.0.0.2:8501"], "ipv4:10.0.0.1:8500,10.0.0.2:8501"),
        ("10.0.0.1:8500, 10.0.0.2:8501", "ipv4:10.0.0.1:8500,10.0.0.2:8501"),
        (["[::1]:8500", "[fe80::2]:8500"], "ipv6:[::1]:8500,[fe80::2]:8500"),
        ("[::1]:8500", "dns:///[::1]:8500"),
    ],
)
def test_targets(addresses, target):
    assert grpc_target(addresses) == target


@pytest.mark.parametrize("address", ["localhost", "", ":8500", "localhost:port", "localhost:99999", [], ["a", "b"]])
def test_what_is_no_address(address):
    with pytest.raises(ValueError):
        HtrClient(address)


def test_several_addresses_share_the_name_in_their_certificates(kind):
    addresses = ["10.0.0.1:8500", "10.0.0.2:8500"]
    with pytest.raises(ValueError, match="server_name"):
        kind(addresses, tls=True)
    kind(addresses, tls=Tls(server_name="htr.internal"))
    kind(addresses[:1], tls=True)


def test_names_among_several_that_cannot_be_resolved():
    with pytest.raises(ServerUnavailable, match=r"nowhere\.invalid"):
        HtrClient(["localhost:8500", "nowhere.invalid:8500"])


def test_model_status(client, kind, server):
    found = [(status.version, status.state, status.error) for status in client.model_status()]
    assert found == [(1, "AVAILABLE", ""), (99, "END", "Read less bytes than requested")]
    with kind(server.address, "nope") as other, pytest.raises(ModelNotFound):
        other.model_status()


def test_wait_until_ready(kind):
    server = FakeServer()
    address = server.address
    server.stop(0)
    later = threading.Timer(1.0, server.start)
    later.start()
    with kind(address) as client:
        client.wait_until_ready(20)
        assert client.transcribe(png("up")).text == "up"
    server.stop()
    with kind(address) as client, pytest.raises(HtrError):
        client.wait_until_ready(0.5)


def test_wait_until_ready_waits_for_the_model_too(client, server):
    server.model.name = "loading"
    threading.Timer(0.5, lambda: setattr(server.model, "name", "htr")).start()
    client.wait_until_ready(10)
    server.model.failures = [(Code.FAILED_PRECONDITION, "Could not find variable x")]
    with pytest.raises(ModelUnusable):
        client.wait_until_ready(10)


def test_metadata(kind, server):
    ids = iter(range(100))
    with kind(server.address, metadata=lambda: [("x-request-id", str(next(ids)))]) as client:
        client.transcribe(png("a"))
    assert [sent["x-request-id"] for sent in server.model.metadata] == ["0", "1", "2"]


@pytest.mark.parametrize("mutual", [False, True])
def test_tls(kind, certificates, mutual):
    key, certificate, ca = ((certificates / name).read_bytes() for name in ("server.key", "server.pem", "ca.pem"))
    server = FakeServer(credentials=grpc.ssl_server_credentials([(key, certificate)], ca if mutual else None, mutual))
    folder = certificates
    with kind(
        server.address,
        tls=Tls(folder / "ca.pem", str(folder / "client.pem"), (folder / "client.key").read_bytes(), "htr.internal"),
    ) as client:
        assert client.transcribe(png("secret")).text == "secret"
    short = {"timeout": 1.5}
    with kind(server.address, tls=Tls(ca=ca), **short) as client, pytest.raises(HtrError):
        client.transcribe(png("a"))  # the certificate is for another name
    with kind(server.address, tls=Tls(server_name="htr.internal"), **short) as client, pytest.raises(HtrError):
        client.transcribe(png("a"))  # signed by nobody known
    with kind(server.address, **short) as client, pytest.raises(HtrError):
        client.transcribe(png("a"))  # not encrypted
    if mutual:
        anonymous = Tls(ca=ca, server_name="htr.internal")
        with kind(server.address, tls=anonymous, **short) as client, pytest.raises(HtrError):
            client.transcribe(png("a"))
    server.stop()


def test_a_message_when_opentelemetry_is_missing(kind, server, monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.grpc", None)
    with pytest.raises(MissingExtra, match="pip install"):
        kind(server.address, opentelemetry=True)


def test_opentelemetry(kind, server):
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider())
    trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
    with kind(server.address, opentelemetry=True) as client:
        assert client.transcribe(png("traced")).text == "traced"
    assert {span.name for span in exporter.get_finished_spans()} == {"/tensorflow.serving.PredictionService/Predict"}
    assert "traceparent" in server.model.metadata[0]


def test_threads_share_a_client(server):
    with HtrClient(server.address) as client:
        texts = words(64)
        found = [None] * 64

        def work(start):
            for i in range(start, 64, 8):
                found[i] = client.transcribe(png(texts[i])).text

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == texts


def test_a_model_of_another_size_under_the_same_version(client, server):
    """A server that was wiped and started anew counts from 1 again."""
    assert client.transcribe(png("abc")).text == "abc"
    server.model.alphabets = {1: [*ALPHABET.upper(), "-"]}
    assert client.transcribe(png("abc")).text == "ABC"


def test_fake_server_is_the_official_protocol(server):
    predict_pb2 = pytest.importorskip("tensorflow_serving.apis.predict_pb2")
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "htr", "serving_default"
    request.inputs["image_bytes"].dtype = 7
    request.inputs["image_bytes"].string_val.append(png("abc"))
    request.inputs["image_bytes"].tensor_shape.dim.add().size = 1
    with grpc.insecure_channel(server.address) as channel:
        answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request)
    assert answer.model_spec.version.value == 1 and list(answer.outputs["frames"].int_val) == [6]
    assert [dim.size for dim in answer.outputs["log_probs"].tensor_shape.dim] == [1, 6, 27]
