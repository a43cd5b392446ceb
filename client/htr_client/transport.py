"""What carries the requests of `HtrClient`: gRPC, unless a client is given something else."""

import os
import threading
import time
from concurrent.futures import wait
from typing import Any, Protocol

import grpc

from htr_client.addresses import SOON
from htr_client.connection import was_closed
from htr_client.ending import Ending
from htr_client.endpoint import Endpoint
from htr_client.retries import bounded
from htr_client.steps import Ask


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


class GrpcTransport:
    """A gRPC channel, opened by the first call, and anew after a fork and where the servers have other addresses."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Keeps the endpoint; nothing is connected yet.

        Args:
            endpoint: The servers.
        """
        self.name = endpoint.name
        self.servers = len(endpoint.hosts)
        self._endpoint = endpoint
        self._lock = threading.RLock()
        self._channel: Any = None
        self._target = ""  # of the channel
        self._traced: Any = None  # the channel with what traces its calls
        self._methods: dict[str, Any] = {}
        self._process = 0

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
        call = self._method(ask.method, type(ask.request), ask.answer, seconds)
        left = max(0.0, deadline - time.monotonic())  # names may have been looked up
        try:
            if ending is None:
                return call(ask.request, timeout=left, metadata=ask.headers)
            return ending.result(call.future(ask.request, timeout=left, metadata=ask.headers))
        except grpc.FutureCancelledError as error:
            raise was_closed(self.name) from error
        except grpc.RpcError as error:
            raise self._endpoint.failure(error, seconds) from error
        except ValueError as error:
            if "closed" not in str(error):
                raise
            # Another thread has closed the channel between the lines above.
            raise was_closed(self.name) from error

    def close(self) -> None:
        """Closes the channel; calls of other threads that are under way fail."""
        with self._lock:
            if self._channel is not None and self._process == os.getpid():
                self._channel.close()
            self._channel = None

    def _method(self, name: str, request: Any, answer: Any, seconds: float) -> Any:
        self._open(seconds)
        with self._lock:
            if self._channel is None:  # another thread has closed it between the lines
                raise was_closed(self.name)
            if name not in self._methods:
                self._methods[name] = self._traced.unary_unary(name, request.SerializeToString, answer.FromString)
            return self._methods[name]

    def _is_open(self) -> bool:
        return self._channel is not None and self._process == os.getpid()

    def _open(self, seconds: float, waits: bool = False) -> Any:
        endpoint, servers = self._endpoint, self._endpoint.servers
        with self._lock:
            if self._is_open() and not servers.may_have_moved():
                return self._channel
            looking, has_another = servers.look_up(), self._is_open() and not waits
        # Without the lock: nobody is held up whose connection is good.
        if not wait([looking], min(seconds, SOON) if has_another else seconds).done:
            with self._lock:
                if has_another and self._is_open():
                    return self._channel  # until the resolver has answered
            raise endpoint.no_names(seconds)
        with self._lock:
            is_open = self._is_open()
            target = servers.target(looking, self._target if is_open else None)
            if not is_open or target != self._target:
                # Calls in flight hold the channel that they go over, which ends with the last of them.
                channel = endpoint.channel(grpc, target, endpoint.options)
                self._traced = channel
                if endpoint.tracing is not None:
                    interceptor = endpoint.tracing.client_interceptor()
                    self._traced = endpoint.tracing.grpcext.intercept_channel(channel, interceptor)
                self._channel, self._methods, self._process = channel, {}, os.getpid()
                self._target = target
            return self._channel
