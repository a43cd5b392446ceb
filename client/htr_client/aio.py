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
    Generator,
    Iterable,
    Iterator,
)
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from htr_client.aio_transport import AsyncGrpcTransport, AsyncTransport
from htr_client.base import BaseClient
from htr_client.checks import refuse_one
from htr_client.cores import usable_cores
from htr_client.errors import TimedOut
from htr_client.image_files import Image, path_of
from htr_client.model_facts import LINE_FINDER
from htr_client.network.connection import was_closed
from htr_client.network.endpoint import Endpoint
from htr_client.network.retries import Outage, remaining
from htr_client.page_lines import PageLines
from htr_client.pages.model import Page
from htr_client.pages.reading import FindMaps, find_page, name_of, read_page
from htr_client.results import Transcription, VersionStatus
from htr_client.steps import Ask, Steps, T, Until
from htr_client.windows import Entry, Given, Sent, Windows

_Wait = Callable[[Coroutine[Any, Any, Any]], Any]


class AsyncHtrClient(BaseClient[AsyncTransport]):
    """`HtrClient` for asyncio: the same methods, awaited.

    Images are read and answers decoded in threads, so that the event loop is not held up; `metadata` is called in the
    event loop. A client belongs to the event loop of its first call.

        async with AsyncHtrClient("localhost:8500") as client:
            print((await client.transcribe("word.png")).text)
    """

    _pages = 0  # under way, those that wait for their turn too

    async def __aenter__(self) -> "AsyncHtrClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; calls under way fail, a later call would open a new one; see `HtrClient.close`."""
        self._closed += 1
        await self._transport.close()

    async def connect(self, timeout: float = 5.0) -> None:
        """Opens the connection now rather than with the first call; see `HtrClient.connect`."""
        await self._transport.connect(timeout)

    async def transcribe(
        self, image: Image, *, timeout: float | None = None, source: str | None = None
    ) -> Transcription:
        """Transcribes one image; see `HtrClient.transcribe`."""
        return await self._run(self._transcribe_one(image, timeout, source), deadline=self._deadline(timeout))

    def transcribe_many(
        self, images: Iterable[Image] | AsyncIterable[Image], *, timeout: float | None = None
    ) -> AsyncGenerator[Transcription, None]:
        """Transcribes any number of images; see `HtrClient.transcribe_many`.

        The images may come asynchronously. An iterable that is no list or tuple is gone through in a thread of its own,
        since it may read a disk or a database. A generator, asynchronous or not, is closed at the end, in that thread.
        """
        refuse_one(images)
        # The generator may be carried on from anywhere; its requests belong to this call.
        context = contextvars.copy_context()
        if isinstance(images, AsyncIterable):
            return self._transcribe_many(aiter(images), timeout, context)
        source = _at_once(images) if isinstance(images, (list, tuple)) else _in_a_thread(iter(images), context.copy())
        return self._transcribe_many(source, timeout, context)

    async def _transcribe_many(
        self, source: AsyncIterator[Image | Given], timeout: float | None, context: contextvars.Context
    ) -> AsyncGenerator[Transcription, None]:
        outage, closed = Outage(self._patience), self._closed
        slots = asyncio.Semaphore(self._in_flight)
        # Not those of `asyncio.to_thread`, in which single calls would wait behind all images that are read ahead.
        packers = ThreadPoolExecutor(min(4, usable_cores()), "htr-pack")

        def send(batch: list[Sent]) -> asyncio.Task[list[Transcription]]:
            steps = self._transcribe_patiently(batch, outage, timeout)
            # A task copies its context.
            return context.run(asyncio.create_task, self._run_slot(steps, slots, closed))

        windows = Windows(send, self._batch_bytes)
        try:
            ahead = await self._read_ahead(packers, source)
            while ahead or windows:
                if ahead:
                    windows.add(ahead, self._batch_size)
                    ahead = await self._read_ahead(packers, source) if not windows.ended else []
                if windows.full or not ahead:
                    if calls := windows.awaited():
                        await asyncio.wait(calls, return_when=asyncio.FIRST_EXCEPTION)
                    for result in windows.results():
                        yield result
        finally:
            packers.shutdown(wait=False, cancel_futures=True)
            for call in windows.unfinished():
                call.cancel()
            # Collects what failed after the first failure, which would otherwise be reported as never retrieved.
            await asyncio.gather(*windows.unfinished(), return_exceptions=True)
            if isinstance(source, AsyncGenerator):
                await source.aclose()

    async def find_page(
        self,
        image: Image,
        *,
        line_finder: str = LINE_FINDER,
        timeout: float | None = None,
        source: str | None = None,
    ) -> Page:
        """Finds the lines of a page; see `HtrClient.find_page`."""

        def find(wait: _Wait) -> Page:
            find_maps, lines = self._models_of_page(line_finder, timeout, None, wait)
            return find_page(image, find_maps, str(source or name_of(image)), self.max_pixels, lines.try_out)

        return await self._in_turn(find)

    async def transcribe_page(
        self,
        image: Image,
        *,
        line_finder: str = LINE_FINDER,
        timeout: float | None = None,
        source: str | None = None,
    ) -> Page:
        """Finds the lines of a page and transcribes them; see `HtrClient.transcribe_page`."""

        def read(wait: _Wait) -> Page:
            find_maps, lines = self._models_of_page(line_finder, timeout, source or path_of(image), wait)
            return read_page(image, find_maps, lines, str(source or name_of(image)), self.max_pixels, lines.try_out)

        return await self._in_turn(read)

    async def _in_turn(self, work: Callable[[_Wait], Page]) -> Page:
        """What work on a page returns, which takes a thread and, decoded, tens of megabytes: a few at a time."""
        closed = self._closed
        if not self._pages:  # perhaps in another event loop than those before
            self._turns, self._outage_of_pages = asyncio.Semaphore(self._in_flight), Outage(self._patience)
        self._pages += 1
        try:
            async with self._turns:
                if self._closed != closed:
                    raise was_closed(self.server)
                return await _in_thread(work)
        finally:
            self._pages -= 1

    def _models_of_page(
        self, line_finder: str, timeout: float | None, source: str | None, wait: _Wait
    ) -> tuple[FindMaps, PageLines]:
        """The line finder and the recogniser of the lines of one page, for a thread that waits for them."""
        context, outage = contextvars.copy_context(), self._outage_of_pages

        async def recognise(lines: list[Given]) -> list[Transcription]:
            return [line async for line in self._transcribe_many(_at_once(lines), timeout, context)]

        return (
            lambda page: wait(self._run(self._ask_maps(page, line_finder, timeout, outage))),
            PageLines(lambda lines: wait(recognise(lines)), source),
        )

    async def model_status(self, timeout: float | None = None) -> list[VersionStatus]:
        """Asks which versions of the model the server has; see `HtrClient.model_status`."""
        return await self._run(self._ask_status(timeout))

    async def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Waits until the model answers; see `HtrClient.wait_until_ready`."""
        await self._run(self._await_readiness(timeout))

    async def _read_ahead(self, packers: ThreadPoolExecutor, source: AsyncIterator[Image | Given]) -> list[Entry]:
        loop = asyncio.get_running_loop()
        packing: list[asyncio.Future[Sent | Transcription]] = []
        failure: list[Exception] = []
        try:
            async for image in source:
                packing.append(loop.run_in_executor(packers, self._pack_or_error, image))
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

    async def _run_slot(self, steps: Steps[T], slots: asyncio.Semaphore, closed: int) -> T:
        async with slots:
            return await self._run(steps, closed)

    async def _run(self, steps: Steps[T], closed: int | None = None, *, deadline: float | None = None) -> T:
        closed = self._closed if closed is None else closed
        try:
            step = next(steps)
            while True:
                if isinstance(step, Ask) and self._closed != closed:
                    raise was_closed(self.server)  # whatever the steps do about failures of calls
                try:
                    if isinstance(step, Ask):
                        result = await self._call(step)
                    elif isinstance(step, Until):
                        others = asyncio.wrap_future(step.done)
                        result = await asyncio.wait([others], timeout=step.deadline - time.monotonic())
                    elif isinstance(step, float):
                        result = await asyncio.sleep(step, False)
                    else:
                        result = await _begun_in_time(step, deadline)
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


async def _begun_in_time(step: Callable[[], T], deadline: float | None) -> T:
    """What a step returns, which runs in a thread if one is free before the deadline.

    A step that has begun is waited for, however long it takes: what it compiles serves the calls after this one, too.

    Raises:
        TimedOut: No thread was free.
    """
    begun: Future[None] = Future()

    def work() -> T:
        if not begun.set_running_or_notify_cancel():
            raise CancelledError
        try:
            return step()
        except StopIteration as error:  # no future takes it, so that it would be waited for without end
            raise RuntimeError("StopIteration was raised by a decoder, or by what reads an image") from error

    call = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.wait([call], timeout=None if deadline is None else deadline - time.monotonic())
        if not call.done() and begun.cancel():
            raise TimedOut(
                "No thread was free in time to read or decode an image.",
                advice="Raise the timeout, or give less to asyncio's own threads (asyncio.to_thread), which this uses.",
            )
        return await call
    finally:
        call.cancel()


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


async def _at_once(images: Iterable[T]) -> AsyncIterator[T]:
    for image in images:
        yield image


async def _in_a_thread(images: Iterator[Image], context: contextvars.Context) -> AsyncGenerator[Image, None]:
    # A thread of its own: a database may insist on one, and those of `asyncio.to_thread` are for what ends soon.
    thread, end = ThreadPoolExecutor(1, "htr-source"), object()
    under_way = False

    def following() -> Any:
        return next(images, end)

    def close() -> None:
        nonlocal images
        source, images = images, iter(())  # what is a source only for this run is freed here, too
        if isinstance(source, Generator):
            source.close()

    try:
        loop = asyncio.get_running_loop()
        while True:
            under_way = True
            image = await loop.run_in_executor(thread, context.run, following)
            under_way = False
            if image is end:
                break
            yield image
    finally:
        closing = thread.submit(context.run, close)
        thread.shutdown(wait=False)
        if not under_way:  # the source may take its time for the next image
            await asyncio.shield(asyncio.wrap_future(closing))
