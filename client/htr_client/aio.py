"""The client for asyncio: the methods of `htr_client.client`, awaited."""

import asyncio
import contextvars
import threading
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
)
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import numpy as np

from htr_client.aio_transport import AsyncGrpcTransport, AsyncTransport
from htr_client.base import BaseClient
from htr_client.checks import refuse_one
from htr_client.endpoint import Endpoint
from htr_client.image_files import Image
from htr_client.pages.model import Page
from htr_client.pages.reading import LINE_FINDER, FindMaps, find_page, name_of, read_page
from htr_client.results import Transcription, VersionStatus
from htr_client.retries import Outage, remaining
from htr_client.steps import Ask, Steps, T, Until
from htr_client.windows import Entry, Sent, Windows

_Wait = Callable[[Coroutine[Any, Any, Any]], Any]


class AsyncHtrClient(BaseClient[AsyncTransport]):
    """`HtrClient` for asyncio: the same methods, awaited.

    Reading images and decoding happen in threads, so the event loop is never held up. A client belongs to the
    event loop of its first call.

        async with AsyncHtrClient("localhost:8500") as client:
            print((await client.transcribe("word.png")).text)
    """

    async def __aenter__(self) -> "AsyncHtrClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; calls under way are cancelled, a later call would open a new one."""
        await self._transport.close()

    async def connect(self, timeout: float = 5.0) -> None:
        """Opens the connection now rather than with the first call; see `HtrClient.connect`."""
        await self._transport.connect(timeout)

    async def transcribe(
        self, image: Image, *, timeout: float | None = None, source: str | None = None
    ) -> Transcription:
        """Transcribes one image; see `HtrClient.transcribe`."""
        return await self._run(self._transcribe_one(image, timeout, source))

    def transcribe_many(
        self, images: Iterable[Image] | AsyncIterable[Image], *, timeout: float | None = None
    ) -> AsyncGenerator[Transcription, None]:
        """Transcribes any number of images; see `HtrClient.transcribe_many`.

        The images may come asynchronously. An iterable that is no list or tuple is gone through in a thread of its own,
        since it may read a disk or a database.
        """
        refuse_one(images)
        if isinstance(images, AsyncIterable):
            return self._transcribe_many(aiter(images), timeout)
        source = _at_once(images) if isinstance(images, (list, tuple)) else _in_a_thread(iter(images))
        return self._transcribe_many(source, timeout)

    async def _transcribe_many(
        self, source: AsyncIterator[Image], timeout: float | None
    ) -> AsyncGenerator[Transcription, None]:
        outage = Outage(self._patience)
        slots = asyncio.Semaphore(self._in_flight)

        def send(batch: list[Sent]) -> asyncio.Task[list[Transcription]]:
            return asyncio.create_task(self._run_slot(self._transcribe_patiently(batch, outage, timeout), slots))

        windows = Windows(send, self._batch_bytes)
        try:
            ahead = await self._read_ahead(source)
            while ahead or windows:
                if ahead:
                    windows.add(ahead, self._batch_size)
                    ahead = await self._read_ahead(source) if not windows.ended else []
                if windows.full or not ahead:
                    if calls := windows.awaited():
                        await asyncio.wait(calls, return_when=asyncio.FIRST_EXCEPTION)
                    for result in windows.results():
                        yield result
        finally:
            for call in windows.unfinished():
                call.cancel()
            # Collects what failed after the first failure, which would otherwise be reported as never retrieved.
            await asyncio.gather(*windows.unfinished(), return_exceptions=True)

    async def find_page(
        self, image: Image, *, line_finder: str = LINE_FINDER, timeout: float | None = None, name: str = ""
    ) -> Page:
        """Finds the lines of a page; see `HtrClient.find_page`."""
        name = name or name_of(image)
        return await _in_thread(
            lambda wait: find_page(image, self._find_maps(line_finder, timeout, wait), name, self.max_pixels)
        )

    async def transcribe_page(
        self, image: Image, *, line_finder: str = LINE_FINDER, timeout: float | None = None, name: str = ""
    ) -> Page:
        """Finds the lines of a page and transcribes them; see `HtrClient.transcribe_page`."""
        name = name or name_of(image)

        async def recognise(lines: Sequence[np.ndarray]) -> list[Transcription]:
            return [transcription async for transcription in self.transcribe_many(lines, timeout=timeout)]

        def read(wait: _Wait) -> Page:
            find_maps = self._find_maps(line_finder, timeout, wait)
            return read_page(image, find_maps, lambda lines: wait(recognise(lines)), name, self.max_pixels)

        return await _in_thread(read)

    def _find_maps(self, line_finder: str, timeout: float | None, wait: _Wait) -> FindMaps:
        return lambda page: wait(self._run(self._ask_maps(page, line_finder, timeout)))

    async def model_status(self, timeout: float | None = None) -> list[VersionStatus]:
        """Asks which versions of the model the server has; see `HtrClient.model_status`."""
        return await self._run(self._ask_status(timeout))

    async def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Waits until the model answers; see `HtrClient.wait_until_ready`."""
        await self._run(self._await_readiness(timeout))

    async def _read_ahead(self, source: AsyncIterator[Image]) -> list[Entry]:
        packing: list[asyncio.Future[Sent | Transcription]] = []
        failure: list[Exception] = []
        try:
            async for image in source:
                packing.append(asyncio.ensure_future(asyncio.to_thread(self._pack_or_error, image)))
                # A server with a smaller limit lowers the batch size meanwhile, perhaps below what is there already.
                if len(packing) >= self._batch_size * self._in_flight:
                    break
        except Exception as error:  # the source's, which comes after the results of what it gave before
            failure.append(error)
        except BaseException:  # the caller has gone
            for call in packing:
                call.cancel()
            raise
        return [*await asyncio.gather(*packing, return_exceptions=True), *failure]

    async def _run_slot(self, steps: Steps[T], slots: asyncio.Semaphore) -> T:
        async with slots:
            return await self._run(steps)

    async def _run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    if isinstance(step, Ask):
                        result = await self._call(step)
                    elif isinstance(step, Until):
                        others = asyncio.wrap_future(step.done)
                        result = await asyncio.wait([others], timeout=step.deadline - time.monotonic())
                    elif isinstance(step, float):
                        result = await asyncio.sleep(step, False)
                    else:
                        result = await asyncio.to_thread(step)
                except Exception as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as end:
            return end.value
        finally:
            steps.close()

    async def _call(self, ask: Ask) -> Any:
        seconds = remaining(ask.deadline)
        with self.metrics.call(ask.request.model_spec.name, ask.request.model_spec.signature_name):
            return await self._transport.call(ask, seconds)

    def _over_grpc(self, endpoint: Endpoint) -> AsyncTransport:
        return AsyncGrpcTransport(endpoint)


async def _in_thread(work: Callable[[_Wait], T]) -> T:
    """What `work` returns, which runs in a thread and awaits what it needs of the event loop by its argument.

    The work, and what it awaits, see the caller's context variables. The thread is its own: `asyncio.to_thread` has a
    few for all, and once they all waited for calls, which need one of them for their images, none would ever be free.
    Of a caller who has gone, calls under way end.
    """
    loop = asyncio.get_running_loop()
    calls: list[Future[Any]] = []
    gone = threading.Event()

    def wait(call: Coroutine[Any, Any, Any]) -> Any:
        if gone.is_set():
            call.close()
            raise CancelledError
        calls.append(asyncio.run_coroutine_threadsafe(call, loop))
        return calls[-1].result()

    thread = ThreadPoolExecutor(1, "htr-page")
    try:
        return await loop.run_in_executor(thread, contextvars.copy_context().run, work, wait)
    finally:
        gone.set()
        thread.shutdown(wait=False)
        for call in calls:
            call.cancel()


async def _at_once(images: Iterable[Image]) -> AsyncIterator[Image]:
    for image in images:
        yield image


async def _in_a_thread(images: Iterator[Image]) -> AsyncIterator[Image]:
    # A thread of its own: a database may insist on one, and those of `asyncio.to_thread` are for what ends soon.
    thread, context, end = ThreadPoolExecutor(1, "htr-source"), contextvars.copy_context(), object()

    def following() -> Any:
        return next(images, end)

    try:
        loop = asyncio.get_running_loop()
        while (image := await loop.run_in_executor(thread, context.run, following)) is not end:
            yield image
    finally:
        thread.shutdown(wait=False)
