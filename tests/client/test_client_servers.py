"""Connections: several servers, encryption, status, metadata, threads."""

import asyncio
import itertools
import math
import os
import socket
import sys
import threading

import grpc
import pytest

from htr_client import AsyncHtrClient, HtrClient, Tls
from htr_client.errors import (
    HtrError,
    MissingExtra,
    ModelNotFound,
    ModelUnusable,
    RequestRefused,
    ServerUnavailable,
)
from htr_client.network.addresses import grpc_target
from htr_client.testing import ALPHABET, FakeServer, png
from tests.client.conftest import words

Code = grpc.StatusCode


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


def test_a_version_that_only_some_servers_have_yet(kind):
    """Whatever server has which version, what a version brings is asked of one that has it."""
    servers = [FakeServer() for _ in range(5)]
    model = servers[0].model
    try:
        for count in (2, 5):
            with kind([server.address for server in servers[:count]]) as client:
                for server in servers[:count]:
                    server.model.batches.clear()
                while not all(server.model.batches for server in servers[:count]):  # until all are connected
                    assert client.transcribe(png("old")).version == 1
                model.alphabets[2], model.language_models[2], model.version = list(ALPHABET), b"", 2
                assert {client.transcribe(png("new")).version for _ in range(4 * count)} == {1, 2}
                assert all(result.ok for result in client.transcribe_many([png("many")] * 100))
            model.version = 1
            del model.alphabets[2], model.language_models[2]
    finally:
        for server in servers:
            server.stop()


def test_a_version_that_one_of_three_servers_has_which_take_turns_behind_one_address(kind, server):
    """As many queries after each answer would come to the other two for ever."""
    answer, turns = server.model.predict, itertools.count()

    def predict(request, context):
        if next(turns) % 3 and request.model_spec.signature_name != "serving_default":
            context.abort(Code.NOT_FOUND, "Servable not found for request: Specific(htr, 1)")
        return answer(request, context)

    server.model.predict = predict
    with kind(server.address, timeout=3.0) as client:
        assert client.transcribe(png("a")).text == "a"


def test_a_version_that_no_server_knows_for_a_while_is_waited_for(kind, server):
    """It has answered, so that it is there: on a server that the queries do not come to."""
    answer = server.model.predict
    known = threading.Event()

    def predict(request, context):
        if request.model_spec.signature_name == "alphabet" and not known.is_set():
            context.abort(Code.NOT_FOUND, "Servable not found for request: Specific(htr, 1)")
        return answer(request, context)

    server.model.predict = predict
    with kind(server.address, timeout=2.0) as client:
        with pytest.raises(ModelNotFound, match="only some of them may have it") as error:
            client.transcribe(png("a"))
        assert error.value.retryable
        threading.Timer(1.0, known.set).start()
        assert [result.text for result in client.transcribe_many([png("patient")])] == ["patient"]


def test_a_version_that_no_server_knows_is_named_also_where_another_attempt_times_out(kind, server):
    answer = server.model.predict
    attempts = itertools.count()

    def predict(request, context):
        if request.model_spec.signature_name == "alphabet":
            context.abort(Code.NOT_FOUND, "Servable not found for request: Specific(htr, 1)")
        if next(attempts):
            context.abort(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")
        return answer(request, context)

    server.model.predict = predict
    with kind(server.address) as client, pytest.raises(ModelNotFound, match="only some of them may have it"):
        client.transcribe(png("a"))


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


def test_the_kind_of_address_that_every_server_has(monkeypatch):
    """A server that only has the other kind would be left out, in silence."""
    known = {"both": ["10.0.0.1", "fd00::1"], "old": ["10.0.0.2"], "new": ["fd00::3"]}

    def look_up(host, port, **_):
        return [
            (socket.AF_INET6, 0, 0, "", (place, port, 0, 0))
            if ":" in place
            else (socket.AF_INET, 0, 0, "", (place, port))
            for place in known[host]
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert grpc_target("both:1,old:2,both:1") == "ipv4:10.0.0.1:1,10.0.0.2:2"
    assert grpc_target("both:1,both:2") == "ipv4:10.0.0.1:1,10.0.0.1:2"
    assert grpc_target("both:1,new:2") == "ipv6:[fd00::1]:1,[fd00::3]:2"
    with pytest.raises(ValueError, match=r"new:3 has no IPv4 address and old:2 no IPv6 address, .* one DNS name"):
        grpc_target("both:1,old:2,new:3")


def test_servers_without_a_common_kind_of_address_are_refused(kind):
    with pytest.raises(ValueError, match=r"\[::1\]:8501 has no IPv4 address and 127\.0\.0\.1:8500 no IPv6 address"):
        kind(["127.0.0.1:8500", "[::1]:8501"])


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


def test_metadata_that_grpc_does_not_take(kind, server):
    pairs = iter([("X-Request-Id", "1"), ("x-request-id", "über")])
    with kind(server.address, metadata=lambda: [next(pairs)]) as client:
        for name in ("X-Request-Id", "x-request-id"):
            with pytest.raises(RequestRefused, match=name):
                client.transcribe(png("a"))


def test_an_asynchronous_client_in_another_event_loop(server):
    client = AsyncHtrClient(server.address)
    assert asyncio.run(client.transcribe(png("a"))).text == "a"
    with pytest.raises(RuntimeError, match="belongs to the event loop of its first call"):
        asyncio.run(client.transcribe(png("a")))
    page = client.metrics.page()
    assert 'signature="serving_default",code="UNKNOWN"} 1' in page and "CANCELLED" not in page, "nobody gave it up"


def test_a_connection_that_is_closed_during_a_call(server):
    client = HtrClient(server.address)
    answer = server.model.predict
    server.model.predict = lambda *call: client.close() or answer(*call)
    with pytest.raises(ServerUnavailable, match="was closed during the call"):
        client.transcribe(png("a"))
    server.model.predict = answer
    assert client.transcribe(png("a")).text == "a"
    client.close()


def test_an_asynchronous_connection_that_is_closed_during_a_call(server):
    arrived, go_on = threading.Event(), threading.Event()
    answer = server.model.predict
    server.model.predict = lambda *call: arrived.set() or (go_on.wait(10), answer(*call))[1]

    async def one(client):
        return (await client.transcribe(png("a"))).text

    async def many(client):
        return [result.text async for result in client.transcribe_many([png("a"), png("b")])]

    async def close(client, _):
        await client.close()

    async def cancel(_, task):
        task.cancel()

    async def cancel_and_close(client, task):
        task.cancel()
        await client.close()

    async def outcome(call, end):
        arrived.clear()
        go_on.clear()
        async with AsyncHtrClient(server.address) as client:
            task = asyncio.create_task(call(client))
            await asyncio.to_thread(arrived.wait, 10)
            await end(client, task)
            await asyncio.wait([task], timeout=0.2)  # until it has noticed
            go_on.set()
            (result,) = await asyncio.gather(task, return_exceptions=True)
            assert await one(client) == "a", "by a new connection"
            return result

    for call in (one, many):
        closed = asyncio.run(outcome(call, close))
        assert isinstance(closed, ServerUnavailable) and "was closed during the call" in str(closed)
        assert closed.code == "CANCELLED", "metrics count it as that"
        for end in (cancel, cancel_and_close):
            assert isinstance(asyncio.run(outcome(call, end)), asyncio.CancelledError)


@pytest.mark.parametrize("settings", [{"max_message_bytes": -1}, {"max_message_bytes": 2**31}, {"timeout": math.nan}])
def test_impossible_settings(kind, server, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        kind(server.address, **settings)


@pytest.mark.parametrize("seconds", [1e10, math.inf])
def test_a_timeout_without_end(kind, server, seconds):
    with kind(server.address, timeout=seconds) as client:
        client.connect(seconds)
        client.wait_until_ready(seconds)
        assert client.transcribe(png("a")).text == "a"
    with kind(server.address) as client:
        assert client.transcribe(png("a"), timeout=seconds).text == "a"
        assert [result.text for result in client.transcribe_many([png("a")], timeout=seconds)] == ["a"]
        with pytest.raises(ValueError, match="timeout is a number of seconds, not nan"):
            client.transcribe(png("a"), timeout=math.nan)


@pytest.mark.either_stack
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


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ({"certificate": "client.pem"}, "belong together"),  # gRPC would end the process
        ({"key": "client.key"}, "belong together"),
        ({"ca": "client.key"}, "client.key holds no certificate in PEM"),
        ({"ca": b"\x30\x82\xff"}, "what was given holds no certificate in PEM"),
        ({"certificate": "client.key", "key": "client.pem"}, "client.key holds no certificate in PEM"),
        ({"certificate": "client.pem", "key": "client.pem"}, "client.pem holds no private key in PEM"),
    ],
)
def test_certificates_that_cannot_be(kind, certificates, parts, problem):
    paths = {name: part if isinstance(part, bytes) else certificates / part for name, part in parts.items()}
    with pytest.raises(ValueError, match=problem):
        kind("localhost:1", tls=Tls(**paths))


@pytest.mark.parametrize("part", ["ca", "certificate"])
def test_damaged_certificates_are_told_with_their_file_and_setting(kind, certificates, tmp_path, part):
    """gRPC takes them for a server that is away, and those after a damaged one for none."""
    whole = (certificates / "client.pem").read_text().splitlines()
    damaged = "\n".join([*whole[:3], *whole[5:]])
    key = {"key": certificates / "client.key"} if part == "certificate" else {}
    for content in (damaged, "\n".join([*whole, damaged])):
        (tmp_path / "bad.pem").write_text(content)
        with pytest.raises(ValueError, match=rf"bad\.pem holds a damaged certificate .*--tls-{part}\b"):
            kind("localhost:1", tls=Tls(**{part: tmp_path / "bad.pem"}, **key))
        with pytest.raises(ValueError, match=rf"what was given holds a damaged certificate \(Tls\({part}="):
            kind("localhost:1", tls=Tls(**{part: content.encode()}, **key))


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="keys are checked where files can be in memory: Linux")
def test_keys_that_cannot_be_are_told_with_their_file_and_setting(kind, certificates, tmp_path):
    """gRPC takes them for a server that is away."""
    lines = (certificates / "client.key").read_text().splitlines(keepends=True)
    bad, whole = tmp_path / "bad.key", certificates / "client.pem"
    legacy = "".join([lines[0], "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n", *lines[1:]])
    for content, problem in (
        ((certificates / "server.key").read_text(), "is the key of another certificate"),
        ("".join([lines[0], lines[1][4:], *lines[2:]]), "holds a damaged key"),
        (legacy, "holds no private key in PEM"),
    ):
        bad.write_text(content)
        with pytest.raises(ValueError, match=rf"bad\.key {problem}"):
            kind("localhost:1", tls=Tls(certificate=whole, key=bad))
        with pytest.raises(ValueError, match=rf"what was given {problem}"):
            kind("localhost:1", tls=Tls(certificate=whole.read_bytes(), key=content.encode()))


def test_a_message_when_opentelemetry_is_missing(kind, server, monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.grpc", None)
    with pytest.raises(MissingExtra, match=r"pip install opentelemetry-instrumentation-grpc$"):
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
