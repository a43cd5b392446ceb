"""The client for asyncio: the methods of `htr_client.client`, awaited."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

from htr_client import messages
from htr_client.base import BaseClient, Headers, Outage, Reader, Sent, pause, remaining, statuses
from htr_client.connection import to_error
from htr_client.decoding import Alphabet
from htr_client.errors import HtrError, ImageError, ModelNotFound, RequestTooLarge
from htr_client.image_files import Image
from htr_client.language import LanguageModel
from htr_client.reach import explain
from htr_client.results import Transcription, VersionStatus


class AsyncHtrClient(BaseClient):
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
        """Close the connection; a later call would open a new one."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def connect(self, timeout: float = 5.0) -> None:
        """Open the connection now rather than with the first call; see `HtrClient.connect`."""
        try:
            await asyncio.wait_for(self._open().channel_ready(), timeout)
        except asyncio.TimeoutError:  # another class than TimeoutError before Python 3.11
            raise await asyncio.to_thread(explain, self._hosts, self._tls) from None

    async def transcribe(
        self, image: Image, *, timeout: float | None = None, source: str | None = None
    ) -> Transcription:
        """Transcribe one image; see `HtrClient.transcribe`."""
        deadline = time.monotonic() + (timeout if timeout is not None else self.timeout)
        batch = [await asyncio.to_thread(self._pack, image, source)]
        try:
            [result] = await self._transcribe(batch, deadline)
        except ImageError:  # perhaps spoilt by another caller's image, as in HtrClient.transcribe
            [result] = await self._transcribe(batch, deadline)
        if result.error is not None:
            raise result.error
        return result

    async def transcribe_many(self, images: Iterable[Image] | AsyncIterable[Image]) -> AsyncIterator[Transcription]:
        """Transcribe any number of images; see `HtrClient.transcribe_many`. The images may come asynchronously."""
        source = aiter(images) if isinstance(images, AsyncIterable) else _asynchronous(images)
        outage = Outage(self._patience)
        slots = asyncio.Semaphore(self._in_flight)
        under_way: deque[tuple[list[Sent | Transcription], list[tuple[list[int], asyncio.Task[list[Transcription]]]]]]
        under_way = deque()
        window = await self._next_window(source)
        try:
            while window or under_way:
                if window:
                    calls = []
                    for positions in self._batches(window):
                        batch = [sent for i in positions if isinstance(sent := window[i], Sent)]
                        calls.append((positions, asyncio.create_task(self._transcribe_slot(batch, outage, slots))))
                    under_way.append((window, calls))
                    window = await self._next_window(source)
                if len(under_way) == 2 or not window:
                    done, calls = under_way[0]
                    for positions, call in calls:
                        for i, result in zip(positions, await call, strict=True):
                            done[i] = result
                    under_way.popleft()
                    for entry in done:
                        assert isinstance(entry, Transcription)
                        yield entry
        finally:
            for _, calls in under_way:
                for _, call in calls:
                    call.cancel()
            # Collects what failed after the first failure, which would otherwise be reported as never retrieved.
            await asyncio.gather(*(call for _, calls in under_way for _, call in calls), return_exceptions=True)

    async def model_status(self, timeout: float | None = None) -> list[VersionStatus]:
        """Ask which versions of the model the server has; see `HtrClient.model_status`."""
        request = messages.GetModelStatusRequest()
        request.model_spec.name = self.model
        deadline = time.monotonic() + (timeout if timeout is not None else self.timeout)
        return statuses(await self._call(messages.GET_MODEL_STATUS, messages.GetModelStatusResponse, request, deadline))

    async def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Wait until the model answers; see `HtrClient.wait_until_ready`."""
        deadline = time.monotonic() + timeout
        for attempt in range(10**9):
            try:
                await self._fetch_alphabet(None, min(deadline, time.monotonic() + 5.0))
                return
            except HtrError as error:
                wait = pause(attempt)
                waiting_helps = error.retryable or isinstance(error, ModelNotFound)
                if not waiting_helps or time.monotonic() + wait > deadline:
                    raise
                await asyncio.sleep(wait)

    async def _next_window(self, source: AsyncIterator[Image]) -> list[Sent | Transcription]:
        packing: list[asyncio.Future[Sent | Transcription]] = []
        async for image in source:
            packing.append(asyncio.ensure_future(asyncio.to_thread(self._pack_or_error, image)))
            if len(packing) == self._batch_size * self._in_flight:
                break
        return list(await asyncio.gather(*packing))

    async def _transcribe_slot(
        self, batch: Sequence[Sent], outage: Outage, slots: asyncio.Semaphore
    ) -> list[Transcription]:
        async with slots:
            return await self._transcribe_batch(batch, outage)

    async def _transcribe_batch(self, batch: Sequence[Sent], outage: Outage) -> list[Transcription]:
        """One batch of transcribe_many: patient with the server, and no image spoils another."""
        refusals = 0
        for attempt in range(10**9):
            try:
                results = await self._transcribe(batch, time.monotonic() + self.timeout)
                outage.over()
                return results
            except (ImageError, RequestTooLarge) as error:
                outage.over()
                refusals += 1
                if len(batch) > 1:
                    parts = self._split(batch, error)
                    return [result for part in parts for result in await self._transcribe_batch(part, outage)]
                if refusals == 2:
                    refused = error if isinstance(error, ImageError) else ImageError("too_large", error.what)
                    return [self._failed(refused, batch[0].source, batch[0].seconds)]
            except HtrError as error:
                if not outage.bearable(error):
                    raise
                await asyncio.sleep(pause(attempt))
        raise AssertionError("unreachable")

    async def _transcribe(self, batch: Sequence[Sent], deadline: float) -> list[Transcription]:
        started = time.perf_counter()
        request = self._predict_request(batch)
        for last_try in (False, True):
            headers = self._headers()
            response = await self._call(messages.PREDICT, messages.PredictResponse, request, deadline, headers)
            answer = self._read(response, len(batch), headers)
            try:
                reader = self._known_reader(answer) or await self._fetch_reader(answer.version, deadline)
                break
            except ModelNotFound:  # unloaded since, as in HtrClient._transcribe
                if last_try:
                    raise
        return await asyncio.to_thread(self._results, batch, answer, reader, time.perf_counter() - started)

    async def _fetch_alphabet(self, version: int | None, deadline: float) -> Alphabet:
        request = self._query(version, "alphabet")
        return self._read_alphabet(await self._call(messages.PREDICT, messages.PredictResponse, request, deadline))

    async def _fetch_reader(self, version: int, deadline: float) -> Reader:
        alphabet = await self._fetch_alphabet(version, deadline)
        language_model = await self._fetch_language_model(version, deadline) if self._wants_language_model() else None
        return self._learn(version, alphabet, language_model)

    async def _fetch_language_model(self, version: int, deadline: float) -> LanguageModel | None:
        request = self._query(version, "language_model")
        try:
            response = await self._call(messages.PREDICT, messages.PredictResponse, request, deadline)
        except HtrError as error:
            self._no_language_model(error)
            return None
        return await asyncio.to_thread(self._read_language_model, response)

    async def _call(
        self, method: str, answer: Any, request: Any, deadline: float, headers: Headers | None = None
    ) -> Any:
        call = self._method(method, type(request), answer)
        seconds = remaining(deadline)
        try:
            return await call(request, timeout=seconds, metadata=self._headers() if headers is None else headers)
        except grpc.RpcError as error:
            raise to_error(error, self.server, seconds) from error

    def _method(self, name: str, request: Any, answer: Any) -> Any:
        channel = self._open()
        if name not in self._methods:
            self._methods[name] = channel.unary_unary(name, request.SerializeToString, answer.FromString)
        return self._methods[name]

    def _open(self) -> Any:
        if self._channel is None:
            tracers = self._tracing.aio_client_interceptors() if self._tracing is not None else None
            if self._credentials is not None:
                self._channel = grpc.aio.secure_channel(self._target, self._credentials, self._options, None, tracers)
            else:
                self._channel = grpc.aio.insecure_channel(self._target, self._options, None, tracers)
            self._methods = {}
        return self._channel


async def _asynchronous(items: Iterable[Image]) -> AsyncIterator[Image]:
    for item in items:
        yield item
