"""What a user is told when there is no connection to a server, and how soon."""

import contextlib
import http.server
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from unittest import mock

import grpc
import pytest

from htr_client import HtrClient, Tls
from htr_client.cli import main
from htr_client.errors import AccessDenied, HtrError, ServerUnavailable, TimedOut, UnexpectedAnswer
from htr_client.network.addresses import hosts_of, read_addresses
from htr_client.testing import FakeServer, png
from tests.conftest import until

pytestmark = pytest.mark.either_stack
SECONDS = 60.0


@pytest.fixture
def closed():
    """The address of a port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"localhost:{probe.getsockname()[1]}"


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png("alpha"))
    return str(path)


def command(*arguments):
    return subprocess.run([sys.executable, "-m", "htr_client.cli", *arguments], capture_output=True, text=True)


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "htr_client.cli", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def refusal(kind, address, **settings):
    with kind(address, **settings) as client, pytest.raises((ServerUnavailable, AccessDenied)) as error:
        client.connect(1.0)
    return str(error.value)


def at_once(*calls):
    """What each of some calls returns, all of which mostly wait; their times add up otherwise."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def test_nobody_answers_is_said_in_one_line_and_soon(closed, image):
    started = time.monotonic()
    schemes = ("", "http://", "grpc://", "dns:///")
    told = f"Nobody answers at {closed}. Start a server with `htr serve`, or name another: --server HOST:PORT, "
    told += 'in Python HtrClient("HOST:PORT").'
    for done in at_once(*(partial(command, image, "--server", scheme + closed) for scheme in schemes)):
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: {told}\n"), done.args
    assert time.monotonic() - started < 20  # 3 s on a quiet machine; it was 64 s


def test_an_explicit_patience_waits_and_says_so(image):
    server = FakeServer()
    server.stop()
    process = start(image, "--server", server.address, "--patience", "60")
    assert process.stderr.readline() == f"Waiting for a server at {server.address} ...\n"
    server.start()
    text, _ = process.communicate(timeout=60)
    server.stop()
    assert process.returncode == 0 and "\talpha\t" in text


def test_a_word_when_answers_take_long(server, image):
    server.model.delay = 3.0
    done = command(image, "--server", server.address)
    assert done.returncode == 0 and done.stderr == f"Waiting for answers from {server.address} ...\n"


def test_a_url_is_an_address(server, image, capsys):
    for url in (f"http://{server.address}", f"GRPC://{server.address}/"):
        assert main([image, "--server", url]) == 0
    assert "error" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("ftp://localhost:8500", "begins with ftp://, but an address is HOST:PORT"),
        ("http://localhost:8501/v1/models/htr", "an address is HOST:PORT"),
        ("http://localhost", "such as localhost:8500"),
        ("localhost", "such as localhost:8500"),
        ("http://a:1,https://b:1", "others do not"),
    ],
)
def test_what_is_no_address_is_refused_at_once(image, capsys, server, expected):
    assert main([image, "--server", server]) == 2
    assert expected in capsys.readouterr().err


def test_urls_choose_the_encryption(certificates):
    assert read_addresses("https://a:1, https://b:2") == (["a:1", "b:2"], True)
    with pytest.raises(ValueError, match="not encrypted"):
        HtrClient("http://a:1", tls=True)
    key, certificate = (certificates / "server.key").read_bytes(), (certificates / "server.pem").read_bytes()
    server = FakeServer(credentials=grpc.ssl_server_credentials([(key, certificate)]))
    tls = Tls(certificates / "ca.pem", server_name="htr.internal")
    with HtrClient(f"https://{server.address}", tls=tls) as client:
        assert client.transcribe(png("secret")).text == "secret"
    server.stop()


@pytest.mark.parametrize(
    ("addresses", "hosts"),
    [
        (["[::1]:8500", "b:1"], [("::1", 8500), ("b", 1)]),
        (["dns:///a:8500"], [("a", 8500)]),
        (["dns://10.0.0.1/a:8500"], [("a", 8500)]),
        (["ipv4:10.0.0.1:8500,10.0.0.2:1"], [("10.0.0.1", 8500), ("10.0.0.2", 1)]),
        (["unix:/run/htr.sock"], []),
        (["dns:///a"], []),
    ],
)
def test_hosts(addresses, hosts):
    assert hosts_of(addresses) == hosts


def test_connect(kind, server, closed):
    with kind(server.address) as client:
        client.connect(10.0)
        assert client.transcribe(png("up")).text == "up"
    addresses = (closed, "nowhere.invalid:8500", "unix:/nowhere.sock", "a..b:8500")
    nobody, unknown, socketless, impossible = at_once(*(partial(refusal, kind, address) for address in addresses))
    assert nobody.startswith(f"Nobody answers at {closed}.")
    assert "'nowhere.invalid' is not known" in unknown and "'a..b' is not known" in impossible
    assert socketless.startswith("Nobody answers at the address.")


def test_a_rest_port_is_recognised(kind):
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    address = f"localhost:{web.server_port}"
    told = refusal(kind, address)
    web.shutdown()
    assert told.startswith(f"An HTTP server answers at {address}, not a gRPC server.") and "8500" in told


def test_something_else_is_recognised(kind):
    def greet(listener):
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                with listener.accept()[0] as connection:
                    connection.sendall(b"220 mail.example ESMTP\r\n")
                    connection.recv(64)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=greet, args=[listener], daemon=True).start()
        assert "is not a gRPC server" in refusal(kind, f"localhost:{listener.getsockname()[1]}")
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("tls", [None, True])
def test_a_server_that_hangs_may_come_round(kind, tls):
    """Its machine accepts connections for it; whoever waits for a server must not give up."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"localhost:{silent.getsockname()[1]}"
        with kind(address, tls=tls) as client, pytest.raises(ServerUnavailable, match="says nothing") as error:
            client.connect(1.0)
        assert error.value.retryable and "overloaded or hangs" in str(error.value)
        if tls is None:
            with kind(address, timeout=SECONDS) as client, pytest.raises(ServerUnavailable, match="says nothing"):
                client.transcribe(png("a"))


def test_trouble_with_encryption_is_told_apart(kind, server, certificates):
    key, certificate, ca = ((certificates / name).read_bytes() for name in ("server.key", "server.pem", "ca.pem"))
    secret = FakeServer(credentials=grpc.ssl_server_credentials([(key, certificate)], ca, True))
    where = secret.address
    try:
        comments = "# Főtanúsítvány\n".encode(), "# für Tests\n".encode("latin-1"), b""
        commented = (Tls(comment + ca + comment, server_name="htr.internal") for comment in comments)
        untrusted, misnamed = Tls(server_name="htr.internal"), Tls(certificates / "ca.pem")
        told = at_once(
            partial(refusal, kind, server.address, tls=True),
            *(partial(refusal, kind, where, tls=tls) for tls in (None, untrusted, misnamed, *commented)),
        )
        assert "does not encrypt" in told[0]
        assert "wants an encrypted one" in told[1] and "--tls" in told[1]
        assert "is not trusted" in told[2] and "is not trusted: Hostname mismatch" in told[3]
        assert all("another certificate" in words for words in told[4:]) and len(told) == 7
    finally:
        secret.stop()


def test_certificates_that_are_damaged_or_gone_when_there_is_no_connection(kind, closed, certificates, tmp_path):
    ca = tmp_path / "ca.pem"
    for change in (lambda: ca.write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"), ca.unlink):
        ca.write_bytes((certificates / "ca.pem").read_bytes())
        with kind(closed, tls=Tls(ca)) as client:
            change()
            with pytest.raises(AccessDenied, match=r"cannot be read any more .*ca\.pem.*--tls-ca"):
                client.connect(1.0)


def test_calls_tell_trouble_with_encryption_apart_without_connect(kind, certificates):
    """By what gRPC says of its last attempt; waiting helps none of those that a setting causes."""
    key, certificate, ca = ((certificates / name).read_bytes() for name in ("server.key", "server.pem", "ca.pem"))
    secret = FakeServer(credentials=grpc.ssl_server_credentials([(key, certificate)]))
    mutual = FakeServer(credentials=grpc.ssl_server_credentials([(key, certificate)], ca, True))
    plain = FakeServer()

    def told(address, tls=None):
        with kind(address, tls=tls, timeout=60.0) as client, pytest.raises((ServerUnavailable, AccessDenied)) as error:
            client.transcribe(png("a"))
        assert address in str(error.value) and "Nobody answers" not in str(error.value) and error.value.code
        return type(error.value), str(error.value), error.value.retryable

    try:
        untrusted, misnamed, unencrypted, encrypted, anonymous = at_once(
            partial(told, secret.address, Tls(server_name="htr.internal")),
            partial(told, secret.address, Tls(ca)),
            partial(told, plain.address, Tls(ca)),
            partial(told, secret.address),
            partial(told, mutual.address, Tls(ca, server_name="htr.internal")),
        )
        denied, words, again = untrusted
        assert (denied, again) == (AccessDenied, False) and "is not trusted: " in words and "--tls-ca PEM" in words
        denied, words, again = misnamed
        assert (denied, again) == (AccessDenied, False) and "another name" in words and "--tls-server-name" in words
        _, words, again = unencrypted
        assert "does not encrypt" in words and not again
        _, words, again = encrypted
        assert "closes the connection: perhaps it wants an encrypted one" in words and again
        _, words, again = anonymous
        assert "perhaps it wants another certificate" in words and again
    finally:
        for server in (secret, mutual, plain):
            server.stop()


class _Failed(grpc.RpcError):
    """What gRPC 1.48 tells of a handshake, whatever the reason."""

    def code(self):
        return grpc.StatusCode.UNAVAILABLE

    def details(self):
        return "connections to all backends failing; last error: UNKNOWN: Ssl handshake failed"


def test_a_handshake_of_which_older_grpc_tells_no_reason(server, certificates, monkeypatch):
    """Waiting does not help, so that what tries again while an error is retryable would never end."""
    key, certificate = ((certificates / name).read_bytes() for name in ("server.key", "server.pem"))
    failing = mock.Mock(**{"unary_unary.return_value.side_effect": _Failed()})
    monkeypatch.setattr(grpc, "secure_channel", lambda *arguments: failing)

    def told(address, tls):
        with HtrClient(address, tls=tls, timeout=60.0) as client, pytest.raises(HtrError) as error:
            client.transcribe(png("a"))
        assert error.value.code == "UNAVAILABLE"
        return error.value

    untrusted = Tls(server_name="htr.internal")
    with FakeServer(credentials=grpc.ssl_server_credentials([(key, certificate)])) as secret:
        denied = told(secret.address, untrusted)
        assert isinstance(denied, AccessDenied) and "is not trusted" in str(denied)
        trusted = Tls(certificates / "ca.pem", server_name="htr.internal")
        assert told(secret.address, trusted).retryable  # it may have been cut off
    plain = told(server.address, untrusted)
    assert "does not encrypt" in str(plain) and not plain.retryable


def test_calls_to_another_kind_of_server_say_so_without_connect(kind):
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    with kind(f"127.0.0.1:{web.server_port}") as client, pytest.raises(ServerUnavailable) as error:
        list(client.transcribe_many([png("a")]))
    web.shutdown()
    web.server_close()
    assert "is not a gRPC server" in str(error.value) and "8500" in str(error.value) and not error.value.retryable


def test_calls_without_a_connection_speak_for_themselves(kind, server, closed):
    """In this package's words, and without what gRPC says to its developers."""
    with kind(closed, timeout=60.0) as client, pytest.raises(ServerUnavailable) as error:
        client.transcribe(png("a"))
    assert str(error.value).startswith(f"Nobody answers at {closed}. Start a server") and error.value.code
    server.model.delay = 1.0
    with kind(server.address, timeout=0.3) as client, pytest.raises(TimedOut) as late:
        client.transcribe(png("a"))
    assert late.value.what == f"No answer from {server.address} within 0.3 seconds."


def test_a_deadline_shorter_than_the_attempts_to_connect(kind, closed):
    """They use it up; what is told is what a longer one would have told, unless a server may be there."""
    word = png("a")

    def told(address, seconds, expected, method="transcribe", given=word):
        with kind(address, timeout=seconds) as client, pytest.raises((ServerUnavailable, TimedOut)) as error:
            getattr(client, method)(given)
        assert type(error.value) is expected and error.value.retryable
        assert error.value.code == ("DEADLINE_EXCEEDED" if expected is TimedOut else "UNAVAILABLE")
        return error.value.what

    gone = FakeServer()

    def went():
        with kind(gone.address, timeout=SECONDS) as client:
            client.transcribe(png("a"))
            gone.stop()
            with pytest.raises(ServerUnavailable, match="Nobody answers"):
                client.transcribe(png("a"), timeout=0.7)

    with socket.create_server(("127.0.0.1", 0)) as held_up:  # takes connections, and has no time for them
        slow = f"127.0.0.1:{held_up.getsockname()[1]}"
        *nobody, late, _ = at_once(
            partial(told, closed, 0.7, ServerUnavailable),
            partial(told, closed, SECONDS, ServerUnavailable, "wait_until_ready", 0.7),
            partial(told, slow, 0.7, TimedOut),
            went,
        )
    assert nobody == [f"Nobody answers at {closed}."] * 2
    assert late == f"No answer from {slow} within 0.7 seconds."


def test_a_proxy_is_named_and_not_asked_for_this_machine(kind, server, closed, monkeypatch):
    for variable in ("grpc_proxy", "https_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("http_proxy", f"http://{closed}")
    for address in (server.address, server.address.replace("localhost", "127.0.0.1")):
        with kind(address) as client:
            client.connect(10.0)
            assert client.transcribe(png("here")).text == "here"
    away = "192.0.2.1:8500"  # an address of documentation, where nobody is
    advice = "environment variable http_proxy: where the server is to be reached without it, add 192.0.2.1 to no_proxy."

    def called():
        with kind(away, timeout=60.0) as client, pytest.raises(ServerUnavailable) as error:
            client.transcribe(png("a"))
        return str(error.value)

    here, connecting, calling = at_once(partial(refusal, kind, closed), partial(refusal, kind, away), called)
    assert "proxy" not in here and connecting.endswith(advice)
    assert calling.startswith(f"Nobody answers at {away}.") and calling.endswith(advice)
    monkeypatch.setenv("no_proxy", "example.org, 192.0.2.1")
    assert "proxy" not in refusal(kind, away)


def test_several_servers_are_reached_without_a_proxy(kind, server, closed, monkeypatch):
    """gRPC would ask the proxy for one host of the name "A,B", which no_proxy cannot name."""
    monkeypatch.setenv("http_proxy", f"http://{closed}")
    for variable in ("no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    with kind([server.address, "192.0.2.1:8500"]) as client:
        assert client.transcribe(png("here")).text == "here"
    with kind(["192.0.2.1:8500", "192.0.2.2:8500"], timeout=60.0) as client, pytest.raises(ServerUnavailable) as error:
        client.connect(1.0)
    assert "proxy" not in str(error.value)


def test_a_grpc_server_of_another_kind(kind):
    from concurrent import futures

    other = grpc.server(futures.ThreadPoolExecutor(1))
    port = other.add_insecure_port("localhost:0")
    other.start()
    with kind(f"localhost:{port}") as client, pytest.raises(UnexpectedAnswer, match="TensorFlow Serving"):
        client.transcribe(png("a"))
    other.stop(None)


class WebPage:
    """A proxy of the web, whose server is away: it answers every gRPC call with an HTTP status."""

    def __init__(self, status):
        self.status, self.calls = status, 0
        self._connections = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        def send(kind, flags, stream, payload=b""):
            head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
            connection.sendall(head + payload)

        with connection, connection.makefile("rb") as incoming:
            incoming.read(24)  # the preface of HTTP/2
            send(4, 0, 0)
            while len(head := incoming.read(9)) == 9:
                kind, flags, payload = head[3], head[4], incoming.read(int.from_bytes(head[:3], "big"))
                if kind in (4, 6) and not flags & 1:  # SETTINGS and PING are acknowledged
                    send(kind, 1, 0, payload if kind == 6 else b"")
                if kind == 1:
                    self.calls += 1
                    # It ends with :status and content-type, the ninth and 31st of HPACK's names
                    fields = b"\x08\x03%d\x0f\x10\x09text/html" % self.status
                    send(1, 5, int.from_bytes(head[5:], "big") & 0x7FFFFFFF, fields)

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("status", "error", "retryable"),
    [
        (503, ServerUnavailable, True), (429, ServerUnavailable, True), (401, AccessDenied, False),
        (403, AccessDenied, False), (404, UnexpectedAnswer, False), (400, UnexpectedAnswer, False),
    ],
)  # fmt: skip
def test_what_a_proxy_answers_for_its_server(status, error, retryable):
    page = WebPage(status)
    with HtrClient(page.address, timeout=SECONDS) as client, pytest.raises(error) as raised:
        client.transcribe(png("a"))
    page.close()
    assert raised.value.retryable is retryable
    if error is ServerUnavailable:
        assert raised.value.what == f"What stands before {page.address} answers with HTTP {status}."


def test_a_server_behind_a_proxy_is_waited_for(server):
    page = WebPage(503)
    server.stop()

    def later():
        until(lambda: page.calls >= 7)  # the channel itself tries five times
        page.close()
        server.port = int(page.address.rpartition(":")[2])
        server.start()

    thread = threading.Thread(target=later)
    thread.start()
    with HtrClient(page.address, patience=SECONDS) as client:
        assert [result.text for result in client.transcribe_many([png("a")])] == ["a"]
    thread.join()
