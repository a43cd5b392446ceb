"""Where the requests of a client go, and how: addresses, trust, limits of messages, tracing."""

import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import grpc

from htr_client.answers import Headers
from htr_client.errors import HtrError, ServerUnavailable, TimedOut
from htr_client.network import connection
from htr_client.network.addresses import SOON, Servers, hosts_of, read_addresses
from htr_client.network.reach import explain, without_proxy
from htr_client.network.threads import begun
from htr_client.tls import Tls

_REASON_SECONDS = 1.0


class Endpoint:
    """One server, or several between which calls are spread."""

    def __init__(
        self, target: str | Sequence[str], tls: Tls | bool | None, max_message_bytes: int, opentelemetry: bool
    ) -> None:
        """Reads the addresses, certificates and keys; nothing is connected.

        Args:
            target: As for `HtrClient`.
            tls: As for `HtrClient`.
            max_message_bytes: Limit of a request and of an answer.
            opentelemetry: Whether calls are traced.

        Raises:
            ValueError: When settings contradict each other, an address is not one, or a certificate or key is not PEM.
            TypeError: When `target` is neither an address nor several.
            OSError: When a certificate or key cannot be read.
            MissingExtra: When opentelemetry is asked for and not installed.
        """
        addresses, encrypted = read_addresses(target)
        tls = Tls() if tls is True or (encrypted and not tls) else tls or None
        if tls is not None and encrypted is False:
            raise ValueError("http:// and grpc:// mean that the connection is not encrypted: leave that or tls out")
        self.name = ", ".join(addresses)
        if tls is not None and tls.server_name is None and "," in self.name:
            raise ValueError(
                "gRPC checks the certificates of several addresses by one name: give it as Tls(server_name=...) "
                "(--tls-server-name), or one DNS name that stands for all servers"
            )
        self.tls = tls
        self.credentials = tls.credentials() if tls is not None else None
        self.servers = Servers(addresses)
        self.hosts = hosts_of(addresses)
        self.options = connection.channel_options(max_message_bytes)
        self.tracing = connection.tracing() if opentelemetry else None

    def channel(self, api: Any, target: str, options: Sequence[tuple[str, Any]], *more: Any) -> Any:
        """Opens a channel.

        Args:
            api: The module grpc or grpc.aio.
            target: The gRPC target.
            options: Channel arguments besides those about certificates and proxies.
            more: Further arguments of the functions of `api`.
        """
        if self.tls is not None and self.tls.server_name is not None:
            options = [*options, ("grpc.ssl_target_name_override", self.tls.server_name)]
        if without_proxy(self.hosts):
            options = [*options, ("grpc.enable_http_proxy", 0)]
        if self.credentials is None:
            return api.insecure_channel(target, options, *more)
        return api.secure_channel(target, self.credentials, options, *more)

    def failure(self, error: grpc.RpcError, seconds: float, headers: Headers = ()) -> HtrError:
        """What to raise for a failed call, which may show that servers have other addresses by now.

        Args:
            error: What gRPC raised.
            seconds: How long the call was allowed to take.
            headers: Metadata of the call.
        """
        failure = connection.to_error(error, self.name, seconds, self.tls is not None, headers)
        if isinstance(failure, (ServerUnavailable, TimedOut)):
            self.servers.failed(reached=not connection.found_nobody(error))
        return failure

    def no_names(self, seconds: float) -> HtrError:
        """What to raise when the names of the servers have not been looked up in time.

        Args:
            seconds: How long the call was allowed to take.
        """
        return TimedOut(
            f"The names of the servers {self.name} were not looked up within {seconds:.1f} seconds.",
            code=grpc.StatusCode.DEADLINE_EXCEEDED.name,
        )

    def no_connection(self) -> HtrError:
        """What to raise when no connection came about; finds out what answers instead, which takes a moment."""
        self.servers.failed(reached=False)
        return explain(self.hosts, self.tls)

    def look_why(self, failure: HtrError) -> "Future[HtrError]":
        """Begins to find out why a call has no connection, in a thread: names may take long.

        Args:
            failure: The error of the call, which does not tell.

        Returns:
            What to raise: `failure` where a server is there, or may be, and only takes its time.
        """

        def look() -> HtrError:
            reason = explain(self.hosts, self.tls, failure)
            if reason is not failure:
                reason.code = grpc.StatusCode.UNAVAILABLE.name
            return reason

        return begun("htr-reach", look)


class _Opened(NamedTuple):
    channel: Any
    target: str
    owner: object  # the process or event loop that it belongs to


class ChannelHolder:
    """What the transports for threads and for asyncio share: one channel, and another one where the servers moved."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Keeps the endpoint; nothing is connected yet.

        Args:
            endpoint: The servers.
        """
        self.name = endpoint.name
        self.servers = len(endpoint.hosts)
        self._endpoint = endpoint
        self._lock = threading.RLock()
        self._opened: _Opened | None = None

    def _connect(self, target: str) -> Any:
        raise NotImplementedError

    def _failing(
        self, error: grpc.RpcError, seconds: float, headers: Headers, connected: Callable[[], bool]
    ) -> Generator[tuple["Future[HtrError]", float], None, HtrError]:
        """Yields what to wait for and how long; returns what to raise for a failed call.

        The attempts to connect use up a short deadline, and gRPC then tells that it has passed, not why they failed. Of
        a handshake older gRPC, as 1.48, tells only that it failed.
        """
        failure = self._endpoint.failure(error, seconds, headers)
        untold = (error.details() or "").endswith("handshake failed")
        if untold or (isinstance(failure, TimedOut) and not connected()):
            self._endpoint.servers.failed(reached=False)
            looking = self._endpoint.look_why(failure)
            yield looking, min(seconds, _REASON_SECONDS)
            if looking.done():
                return looking.result()
        return failure

    def _of(self, owner: object) -> _Opened | None:
        return opened if (opened := self._opened) is not None and opened.owner == owner else None

    def _opening(self, owner: object, seconds: float, waits: bool) -> Generator[tuple["Future[str]", float], None, Any]:
        """Yields what to wait for and how long, without the lock: nobody is held up whose connection is good."""
        servers, opened = self._endpoint.servers, self._of(owner)
        if opened is not None and not servers.may_have_moved():
            return opened.channel
        looking = servers.look_up()
        yield looking, seconds if opened is None or waits else min(seconds, SOON)
        with self._lock:
            opened = self._of(owner)
            if opened is not None and not waits and not looking.done():
                return opened.channel  # until the resolver has answered
            if not looking.done():
                raise self._endpoint.no_names(seconds)
            target = servers.target(looking, opened.target if opened is not None else None)
            if opened is None or target != opened.target or servers.one_name:
                # Calls in flight hold the channel that they go over, which ends with the last of them.
                self._opened = opened = _Opened(self._connect(target), target, owner)
            return opened.channel
