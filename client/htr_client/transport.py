"""What carries the requests of `HtrClient`: gRPC, unless a client is given something else."""

import os
import time
from collections.abc import Generator
from concurrent.futures import Future, wait
from typing import Any, Protocol

import grpc

from htr_client.ending import Ending
from htr_client.network.connection import was_closed
from htr_client.network.endpoint import ChannelHolder
from htr_client.network.retries import bounded
from htr_client.steps import Ask, T

_STATE_SECONDS = 1.0


class Transport(Protocol):
    """Carries requests to a model and brings its answers, for any number of threads."""

    name: str
    """What answers, for messages."""
    servers: int
    """How many servers a request may reach."""

    def connect(self, timeout: float) -> None:
        """Makes sure within so many seconds that somebody is there.

        Raises:
            HtrError: When nobody is.
        """

    def call(self, ask: Ask, seconds: float, ending: Ending | None = None) -> Any:
        """Carries one request.

        Args:
            ask: The request.
            seconds: How long it may take.
            ending: The end of what it belongs to, which ends the call too.

        Returns:
            The answer, of the class that the request names.

        Raises:
            HtrError: When it fails.
        """

    def close(self) -> None:
        """Frees what calls have opened; a later call opens it again."""


class GrpcTransport(ChannelHolder):
    """A gRPC channel, opened by the first call, and anew after a fork and where the servers have other addresses."""

    def connect(self, timeout: float) -> None:
        """Opens the connection; see `HtrClient.connect`."""
        deadline = time.monotonic() + bounded(timeout)
        ready = grpc.channel_ready_future(self._open(bounded(timeout), waits=True))
        try:
            ready.result(max(0.0, deadline - time.monotonic()))
        except grpc.FutureTimeoutError:
            ready.cancel()
            raise self._endpoint.no_connection() from None

    def call(self, ask: Ask, seconds: float, ending: Ending | None = None) -> Any:
        """Sends a request; see `Transport.call`."""
        deadline = time.monotonic() + seconds
        channel = self._open(seconds)
        call = channel.unary_unary(ask.method, type(ask.request).SerializeToString, ask.answer.FromString)
        left = max(0.0, deadline - time.monotonic())  # names may have been looked up
        try:
            if ending is None:
                return call(ask.request, timeout=left, metadata=ask.headers)
            return ending.result(call.future(ask.request, timeout=left, metadata=ask.headers))
        except grpc.FutureCancelledError as error:
            raise was_closed(self.name) from error
        except grpc.RpcError as error:
            raise _waited(self._failing(error, seconds, ask.headers, lambda: _connected(channel))) from error
        except ValueError as error:
            if "closed" not in str(error):
                raise
            # Another thread has closed the channel between the lines above.
            raise was_closed(self.name) from error

    def close(self) -> None:
        """Closes the channel; calls of other threads that are under way fail."""
        with self._lock:
            if opened := self._of(os.getpid()):
                opened.channel.close()
            self._opened = None

    def _connect(self, target: str) -> Any:
        channel, tracing = self._endpoint.channel(grpc, target, self._endpoint.options), self._endpoint.tracing
        return channel if tracing is None else tracing.grpcext.intercept_channel(channel, tracing.client_interceptor())

    def _open(self, seconds: float, waits: bool = False) -> Any:
        return _waited(self._opening(os.getpid(), seconds, waits))


def _waited(steps: Generator[tuple[Future[Any], float], None, T]) -> T:
    """What steps return that yield what to wait for and how long."""
    try:
        while True:
            looking, most = next(steps)
            wait([looking], most)
    except StopIteration as end:
        return end.value


def _connected(channel: grpc.Channel) -> bool:
    """Whether a channel has a connection, which gRPC tells in another thread."""
    told: Future[grpc.ChannelConnectivity] = Future()

    def tell(state: grpc.ChannelConnectivity) -> None:
        if not told.done():
            told.set_result(state)

    channel.subscribe(tell)
    try:
        wait([told], _STATE_SECONDS)
    finally:
        channel.unsubscribe(tell)
    return not told.done() or told.result() is grpc.ChannelConnectivity.READY
