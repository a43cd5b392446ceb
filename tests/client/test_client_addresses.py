"""Addresses: what is one, and names whose servers move."""

import asyncio
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from htr_client import AsyncHtrClient, HtrClient
from htr_client.errors import ServerUnavailable, TimedOut
from htr_client.testing import FakeServer, png

Code = grpc.StatusCode
SECONDS = 60.0


@pytest.mark.parametrize(
    ("address", "advice"),
    [
        ("::1", r"in brackets.* \[::1\]:8500"),
        ("fe80::2:8500", r"in brackets.*"),
        ("host:8500:9", "HOST:PORT"),
        ("a b:80", "HOST:PORT"),
        ("[host]:80", "HOST:PORT"),
        ("[::1]", "HOST:PORT"),
        ("host:٨٥", "HOST:PORT"),
        ("user:s3cret@host:80", r"without a user.*metadata"),
        ("https://user:s3cret@host:80", r"without a user.*metadata"),
        ("ftp://user:s3cret@host:80", r"begins with ftp://"),
    ],
)
def test_what_is_no_address_is_refused_with_what_to_write(kind, address, advice):
    for target in (address, ["localhost:8500", address]):
        with pytest.raises(ValueError, match=advice) as error:
            kind(target)
        assert "s3cret" not in str(error.value)


class ServerAt(FakeServer):
    """A fake server at another address of this machine, on a certain port."""

    def __init__(self, host, port=0):
        self._host, self._wanted = host, port
        super().__init__()

    @property
    def address(self):
        return f"{self._host}:{self.port}"

    def start(self):
        self.port = self.port or self._wanted
        super().start()


@pytest.fixture
def names(monkeypatch):
    """What names stand for, and the threads in which they were looked up."""
    known, original = {}, socket.getaddrinfo
    known["threads"] = []

    def look_up(host, port, *rest, **settings):
        if not str(host).startswith("pod-"):
            return original(host, port, *rest, **settings)
        known["threads"].append(threading.current_thread())
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return original(known[host], port, *rest, **settings)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


def test_servers_that_have_moved_are_found_again(kind, names):
    old = [ServerAt("127.0.0.1"), ServerAt("127.0.0.2")]
    names.update({"pod-0": "127.0.0.1", "pod-1": "127.0.0.2"})
    new = []
    with kind([f"pod-{i}:{server.port}" for i, server in enumerate(old)], timeout=10.0) as client:
        assert client.transcribe(png("a")).text == "a"
        try:
            for i, server in enumerate(old):
                server.stop()
                new.append(ServerAt(f"127.0.0.{i + 3}", server.port))
                names[f"pod-{i}"] = f"127.0.0.{i + 3}"
            client.wait_until_ready(SECONDS)
            assert [result.text for result in client.transcribe_many([png("b")] * 4)] == ["b"] * 4
        finally:
            for server in new:
                server.stop()


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_calls_in_flight_go_on_while_another_connection_is_opened(asynchronous, names, monkeypatch):
    monkeypatch.setattr("htr_client.network.addresses._LOOKUP_SECONDS", 0.0)
    old = ServerAt("127.0.0.1")
    new = ServerAt("127.0.0.2", old.port)
    arrived, go_on = threading.Event(), threading.Event()
    answer = old.model.predict
    names.update({"pod-0": "127.0.0.1", "pod-1": "127.0.0.1"})
    addresses = [f"pod-{i}:{old.port}" for i in range(2)]

    def hold(request, context):
        if not arrived.is_set():
            arrived.set()
            assert go_on.wait(SECONDS)
        return answer(request, context)

    def move():
        assert arrived.wait(SECONDS)
        old.model.failures = [(Code.UNAVAILABLE, "gone")] * 5
        names.update({"pod-0": "127.0.0.2", "pod-1": "127.0.0.2"})

    def synchronous():
        with HtrClient(addresses, timeout=SECONDS) as client, ThreadPoolExecutor(1) as thread:
            assert client.transcribe(png("a")).text == "a"
            old.model.predict = hold
            held = thread.submit(client.transcribe, png("held"))
            move()
            with pytest.raises(ServerUnavailable):
                client.transcribe(png("b"))
            assert client.transcribe(png("c")).text == "c" and len(new.model.batches) == 1
            go_on.set()
            return held.result().text

    async def awaited():
        async with AsyncHtrClient(addresses, timeout=SECONDS) as client:
            assert (await client.transcribe(png("a"))).text == "a"
            old.model.predict = hold
            held = asyncio.create_task(client.transcribe(png("held")))
            await asyncio.to_thread(move)
            with pytest.raises(ServerUnavailable):
                await client.transcribe(png("b"))
            assert (await client.transcribe(png("c"))).text == "c" and len(new.model.batches) == 1
            go_on.set()
            return (await held).text

    try:
        assert (asyncio.run(awaited()) if asynchronous else synchronous()) == "held"
    finally:
        go_on.set()
        old.stop()
        new.stop()


class Resolver:
    """A DNS server that knows one address, or none, for every name."""

    def __init__(self):
        self.known = None
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._answer, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._socket.sendto(b"", ("127.0.0.1", self.port))

    def _answer(self):
        with self._socket:
            while (received := self._socket.recvfrom(2048))[0]:
                query, asker = received
                end = query.index(b"\0", 12) + 5
                known, answer = self.known, b""
                if known is not None and query[end - 4 : end - 2] == b"\0\x01":  # an IPv4 address is asked for
                    answer = struct.pack(">HHHIH4s", 0xC00C, 1, 1, 1, 4, socket.inet_aton(known))
                counts = struct.pack(">HHHHH", 0x8180 if known else 0x8183, 1, bool(answer), 0, 0)
                self._socket.sendto(query[:2] + counts + query[12:end] + answer, asker)


def test_one_name_whose_server_has_moved(kind):
    """No call fails: the name is looked up again within a second."""
    old = ServerAt("127.0.0.1")
    new = ServerAt("127.0.0.2", old.port)
    with Resolver() as dns, new, kind(f"dns://127.0.0.1:{dns.port}/htr.example:{old.port}") as client:
        dns.known = "127.0.0.1"
        assert client.transcribe(png("a")).text == "a"
        dns.known = "127.0.0.2"
        old.stop()
        assert client.transcribe(png("b")).text == "b" and new.model.batches == [1]


def test_one_name_that_is_not_known_for_a_while(kind, monkeypatch):
    """As that of a headless service none of whose servers is ready; gRPC would ask again after longer and longer."""
    monkeypatch.setattr("htr_client.network.addresses._LOOKUP_SECONDS", 0.0)
    old = ServerAt("127.0.0.1")
    new = ServerAt("127.0.0.2", old.port)
    with Resolver() as dns, new, kind(f"dns://127.0.0.1:{dns.port}/htr.example:{old.port}") as client:
        for _ in range(3):
            with pytest.raises(ServerUnavailable, match=r"is not known\. Check the address of the server"):
                client.transcribe(png("a"))
        dns.known = "127.0.0.1"
        assert client.transcribe(png("b")).text == "b"
        dns.known = None
        old.stop()
        with pytest.raises(ServerUnavailable):
            client.transcribe(png("c"))
        dns.known = "127.0.0.2"
        assert client.transcribe(png("d")).text == "d" and new.model.batches == [1]


def test_a_name_that_is_not_known_is_left_out_while_another_one_is(kind, server, names):
    with kind([f"pod-9:{server.port}", server.address]) as client:
        assert client.transcribe(png("a")).text == "a"
    with kind([f"pod-8:{server.port}", "pod-9:1"]) as client:
        with pytest.raises(ServerUnavailable, match=r"None of the servers' names .* pod-8 .*, pod-9 ") as error:
            client.transcribe(png("a"))
        assert error.value.retryable
        names["pod-8"] = "127.0.0.1"
        assert client.transcribe(png("a")).text == "a", "they are looked up again"


def test_the_event_loop_goes_on_while_names_are_looked_up(server, names):
    names["pod-0"] = names["pod-1"] = "127.0.0.1"

    async def run():
        async with AsyncHtrClient([f"pod-0:{server.port}", f"pod-1:{server.port}"]) as client:
            return (await client.transcribe(png("a"))).text

    assert asyncio.run(run()) == "a"
    assert names["threads"] and threading.main_thread() not in names["threads"]


@pytest.fixture
def slow_names(names, monkeypatch):
    """Names that are known, by a resolver that takes its time while an event is not set."""
    answers, quick = threading.Event(), socket.getaddrinfo
    names["pod-0"] = names["pod-1"] = "127.0.0.1"

    def look_up(host, *rest, **settings):
        if str(host).startswith("pod-"):
            assert answers.wait(SECONDS)
        return quick(host, *rest, **settings)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield answers
    answers.set()


def test_a_slow_resolver_takes_no_longer_than_the_call_may(kind, server, slow_names):
    with kind([f"pod-0:{server.port}", f"pod-1:{server.port}"], timeout=0.3) as client:
        started = time.monotonic()
        with pytest.raises(TimedOut, match=r"names of the servers .* within 0\.3 seconds"):
            client.transcribe(png("a"))
        assert time.monotonic() - started < 5
        slow_names.set()
        assert client.transcribe(png("a"), timeout=SECONDS).text == "a"


def test_an_open_connection_serves_while_the_resolver_is_slow(kind, server, slow_names, monkeypatch):
    monkeypatch.setattr("htr_client.network.addresses._LOOKUP_SECONDS", 0.0)
    slow_names.set()
    with kind([f"pod-0:{server.port}", f"pod-1:{server.port}"], timeout=SECONDS) as client:
        assert client.transcribe(png("a")).text == "a"
        slow_names.clear()
        server.model.failures = [(Code.UNAVAILABLE, "gone")] * 5
        with pytest.raises(ServerUnavailable):
            client.transcribe(png("b"))
        started = time.monotonic()
        assert [client.transcribe(png("c")).text for _ in range(3)] == ["c"] * 3
        assert time.monotonic() - started < 5 and not slow_names.is_set()
