"""What carries the requests of `AsyncHtrClient`: gRPC, unless a client is given something else."""

import asyncio
import time
from collections.abc import Generator
from concurrent.futures import Future
from typing import Any, Protocol

import grpc

from htr_client.network.connection import was_closed
from htr_client.network.endpoint import ChannelHolder
from htr_client.network.retries import bounded
from htr_client.steps import Ask, T


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


class AsyncGrpcTransport(ChannelHolder):
    """A gRPC channel of the event loop of the first call, opened anew where the servers have other addresses."""

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
        call = channel.unary_unary(ask.method, type(ask.request).SerializeToString, ask.answer.FromString)
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
            raise await _waited(self._failing(error, seconds, ask.headers, lambda: _connected(channel))) from error

    async def close(self) -> None:
        """Closes the channel; calls under way are cancelled."""
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.channel.close()

    def _connect(self, target: str) -> Any:
        tracing = self._endpoint.tracing
        tracers = tracing.aio_client_interceptors() if tracing is not None else None
        return self._endpoint.channel(grpc.aio, target, self._endpoint.options, None, tracers)

    async def _open(self, seconds: float, waits: bool = False) -> Any:
        loop = asyncio.get_running_loop()
        if self._opened is not None and self._opened.owner is not loop:
            raise RuntimeError("an AsyncHtrClient belongs to the event loop of its first call: make one for each loop")
        return await _waited(self._opening(loop, seconds, waits))


def _connected(channel: grpc.aio.Channel) -> bool:
    return channel.get_state() is grpc.ChannelConnectivity.READY


async def _waited(steps: Generator[tuple[Future[Any], float], None, T]) -> T:
    """What steps return that yield what to wait for and how long."""
    try:
        while True:
            looking, most = next(steps)
            if not looking.done():
                await asyncio.wait([asyncio.wrap_future(looking)], timeout=most)
    except StopIteration as end:
        return end.value
