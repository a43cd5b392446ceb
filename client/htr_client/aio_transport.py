"""What carries the requests of `AsyncHtrClient`: gRPC, unless a client is given something else."""

import asyncio
import time
from typing import Any, Protocol

import grpc

from htr_client.addresses import SOON
from htr_client.connection import was_closed
from htr_client.endpoint import Endpoint
from htr_client.retries import bounded
from htr_client.steps import Ask


class AsyncTransport(Protocol):
    """`htr_client.transport.Transport` for asyncio: the same methods, awaited."""

    name: str
    servers: int

    async def connect(self, timeout: float) -> None:
        """See `htr_client.transport.Transport.connect`."""

    async def call(self, ask: Ask, seconds: float) -> Any:
        """See `htr_client.transport.Transport.call`."""

    async def close(self) -> None:
        """See `htr_client.transport.Transport.close`."""


class AsyncGrpcTransport:
    """A gRPC channel of the event loop of the first call, opened anew where the servers have other addresses."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Keeps the endpoint; nothing is connected yet.

        Args:
            endpoint: The servers.
        """
        self.name = endpoint.name
        self.servers = len(endpoint.hosts)
        self._endpoint = endpoint
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: Any = None
        self._target = ""  # of the channel
        self._methods: dict[str, Any] = {}

    async def connect(self, timeout: float) -> None:
        """Opens the connection; see `HtrClient.connect`."""
        try:
            deadline = time.monotonic() + bounded(timeout)
            channel = await self._open(bounded(timeout), waits=True)
            await asyncio.wait_for(channel.channel_ready(), max(0.0, deadline - time.monotonic()))
        except asyncio.TimeoutError:  # another class than TimeoutError before Python 3.11
            raise await asyncio.to_thread(self._endpoint.no_connection) from None

    async def call(self, ask: Ask, seconds: float) -> Any:
        """Sends a request; see `htr_client.transport.Transport.call`."""
        deadline = time.monotonic() + seconds
        channel = await self._open(seconds)  # held until the call ends: gRPC closes a channel that nobody holds
        call = self._method(channel, ask.method, type(ask.request), ask.answer)
        left = max(0.0, deadline - time.monotonic())  # names may have been looked up
        # A task of its own: gRPC cancels calls whose channel is closed, which is not the caller's end.
        answer = asyncio.ensure_future(call(ask.request, timeout=left, metadata=ask.headers))
        try:
            await asyncio.wait([answer])
        finally:
            answer.cancel()
        if answer.cancelled():
            raise was_closed(self.name)
        try:
            return answer.result()
        except grpc.RpcError as error:
            raise self._endpoint.failure(error, seconds) from error

    async def close(self) -> None:
        """Closes the channel; calls under way are cancelled."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    def _method(self, channel: Any, name: str, request: Any, answer: Any) -> Any:
        if channel is not self._channel:  # another one was opened between the lines above
            return channel.unary_unary(name, request.SerializeToString, answer.FromString)
        if name not in self._methods:
            self._methods[name] = channel.unary_unary(name, request.SerializeToString, answer.FromString)
        return self._methods[name]

    async def _open(self, seconds: float, waits: bool = False) -> Any:
        endpoint, loop = self._endpoint, asyncio.get_running_loop()
        if self._channel is not None and self._loop is not loop:
            raise RuntimeError("an AsyncHtrClient belongs to the event loop of its first call: make one for each loop")
        if self._channel is not None and not endpoint.servers.may_have_moved():
            return self._channel
        looking = endpoint.servers.look_up()
        has_another = self._channel is not None and not waits
        if not looking.done():
            answer = asyncio.wrap_future(looking)
            await asyncio.wait([answer], timeout=min(seconds, SOON) if has_another else seconds)
            if not looking.done():
                if has_another and self._channel is not None:
                    return self._channel  # until the resolver has answered
                raise endpoint.no_names(seconds)
        target = endpoint.servers.target(looking, self._target if self._channel is not None else None)
        if self._channel is None or target != self._target:
            tracers = endpoint.tracing.aio_client_interceptors() if endpoint.tracing is not None else None
            self._channel = endpoint.channel(grpc.aio, target, endpoint.options, None, tracers)
            self._loop, self._target, self._methods = loop, target, {}
        return self._channel
