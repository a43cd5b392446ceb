"""The client for threads: images in, transcriptions out, over TensorFlow Serving's gRPC API."""

import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from types import TracebackType
from typing import Any

import grpc

from htr_client import messages
from htr_client.base import BaseClient, Headers, Outage, Reader, Sent, pause, remaining, statuses
from htr_client.connection import to_error
from htr_client.decoding import Alphabet
from htr_client.errors import HtrError, ImageError, ModelNotFound, RequestTooLarge
from htr_client.image_files import Image
from htr_client.language import LanguageModel
from htr_client.reach import explain
from htr_client.results import Transcription, VersionStatus


class HtrClient(BaseClient):
    """Transcribes images of handwriting with a model served by TensorFlow Serving.

    Safe to use from several threads. After a fork each process opens its own connection; one client must not be in
    the middle of a call while its process forks.

        with HtrClient("localhost:8500") as client:
            print(client.transcribe("word.png").text)
    """

    def __enter__(self) -> "HtrClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; a later call would open a new one."""
        with self._lock:
            if self._channel is not None and self._process == os.getpid():
                self._channel.close()
            self._channel = None

    def connect(self, timeout: float = 5.0) -> None:
        """Open the connection now rather than with the first call, to find out early when nobody answers.

        Args:
            timeout: Seconds to wait for the server. It need not have loaded its model yet; see `wait_until_ready`.

        Raises:
            ServerUnavailable: When no gRPC server answers in that time; says what answers instead, if anything does.
            AccessDenied: When there is no trust between client and server.
        """
        ready = grpc.channel_ready_future(self._open())
        try:
            ready.result(timeout)
        except grpc.FutureTimeoutError:
            ready.cancel()
            raise explain(self._hosts, self._tls) from None

    def transcribe(self, image: Image, *, timeout: float | None = None, source: str | None = None) -> Transcription:
        """Transcribe one image.

        Args:
            image: Path, encoded bytes, or an array as OpenCV has them.
            timeout: Seconds it may take in all; by default the client's.
            source: Name of the image for the result and the log; by default its path.

        Returns:
            The transcription.

        Raises:
            ImageError: When the image cannot be read, by this client or by the server.
            HtrError: When the call fails; see `htr_client.errors`.
        """
        deadline = time.monotonic() + (timeout if timeout is not None else self.timeout)
        batch = [self._pack(image, source)]
        try:
            [result] = self._transcribe(batch, deadline)
        except ImageError:
            # On a server with batching, another caller's image may have spoiled the batch. This one is good as far
            # as can be known here, so it gets a second chance.
            [result] = self._transcribe(batch, deadline)
        if result.error is not None:
            raise result.error
        return result

    def transcribe_many(self, images: Iterable[Image]) -> Iterator[Transcription]:
        """Transcribe any number of images, several requests at a time.

        Reads ahead by up to three times batch_size x in_flight images, so it suits images that are there already;
        where they trickle in, call `transcribe` for each.

        Args:
            images: Paths, encoded bytes or arrays; may be a generator.

        Yields:
            One transcription an image, in order. An image that cannot be read gives one with `error` set and does
            not disturb the others.

        Raises:
            HtrError: When the service fails: at once when trying again makes no sense, otherwise after `patience`
                seconds without any success. Everything yielded until then is valid.
        """
        source = iter(images)
        outage = Outage(self._patience)
        stop = threading.Event()
        senders = ThreadPoolExecutor(self._in_flight, "htr-send")
        packers = ThreadPoolExecutor(min(4, os.cpu_count() or 1), "htr-pack")
        under_way: deque[tuple[list[Sent | Transcription], list[tuple[list[int], Future[list[Transcription]]]]]]
        under_way = deque()
        try:
            ahead = self._read_ahead(packers, source)
            while ahead or under_way:
                if ahead:
                    window = [future.result() for future in ahead]
                    calls = []
                    for positions in self._batches(window):
                        batch = [sent for i in positions if isinstance(sent := window[i], Sent)]
                        calls.append((positions, senders.submit(self._transcribe_batch, batch, outage, stop)))
                    under_way.append((window, calls))
                    ahead = self._read_ahead(packers, source)
                if len(under_way) == 2 or not ahead:
                    window, calls = under_way.popleft()
                    for positions, call in calls:
                        for i, result in zip(positions, call.result(), strict=True):
                            window[i] = result
                    for entry in window:
                        assert isinstance(entry, Transcription)
                        yield entry
        finally:
            stop.set()
            packers.shutdown(wait=False, cancel_futures=True)
            senders.shutdown(wait=False, cancel_futures=True)

    def model_status(self, timeout: float | None = None) -> list[VersionStatus]:
        """Ask which versions of the model the server has.

        Args:
            timeout: Seconds; by default the client's.

        Returns:
            The versions, newest first.

        Raises:
            HtrError: When the call fails.
        """
        request = messages.GetModelStatusRequest()
        request.model_spec.name = self.model
        deadline = time.monotonic() + (timeout if timeout is not None else self.timeout)
        return statuses(self._call(messages.GET_MODEL_STATUS, messages.GetModelStatusResponse, request, deadline))

    def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Wait until the model answers: the server is up and the version is loaded.

        Args:
            timeout: Seconds.

        Raises:
            HtrError: The last failure, when the time is over or waiting makes no sense.
        """
        deadline = time.monotonic() + timeout
        for attempt in range(10**9):
            try:
                self._fetch_alphabet(None, min(deadline, time.monotonic() + 5.0))
                return
            except HtrError as error:
                wait = pause(attempt)
                waiting_helps = error.retryable or isinstance(error, ModelNotFound)
                if not waiting_helps or time.monotonic() + wait > deadline:
                    raise
                time.sleep(wait)

    def _read_ahead(self, packers: ThreadPoolExecutor, source: Iterator[Image]) -> list["Future[Sent | Transcription]"]:
        return [
            packers.submit(self._pack_or_error, image) for image in islice(source, self._batch_size * self._in_flight)
        ]

    def _transcribe_batch(self, batch: Sequence[Sent], outage: Outage, stop: threading.Event) -> list[Transcription]:
        """One batch of transcribe_many: patient with the server, and no image spoils another."""
        refusals = 0
        for attempt in range(10**9):
            try:
                results = self._transcribe(batch, time.monotonic() + self.timeout)
                outage.over()
                return results
            except (ImageError, RequestTooLarge) as error:
                outage.over()
                refusals += 1
                if len(batch) > 1:
                    parts = self._split(batch, error)
                    return [result for part in parts for result in self._transcribe_batch(part, outage, stop)]
                if refusals == 2:
                    refused = error if isinstance(error, ImageError) else ImageError("too_large", error.what)
                    return [self._failed(refused, batch[0].source, batch[0].seconds)]
            except HtrError as error:
                if not outage.bearable(error) or stop.wait(pause(attempt)):
                    raise
        raise AssertionError("unreachable")

    def _transcribe(self, batch: Sequence[Sent], deadline: float) -> list[Transcription]:
        started = time.perf_counter()
        request = self._predict_request(batch)
        for last_try in (False, True):
            headers = self._headers()
            response = self._call(messages.PREDICT, messages.PredictResponse, request, deadline, headers)
            answer = self._read(response, len(batch), headers)
            try:
                reader = self._known_reader(answer) or self._fetch_reader(answer.version, deadline)
                break
            except ModelNotFound:
                # The version that answered has been unloaded since. The one that took its place will answer.
                if last_try:
                    raise
        return self._results(batch, answer, reader, time.perf_counter() - started)

    def _fetch_alphabet(self, version: int | None, deadline: float) -> Alphabet:
        request = self._query(version, "alphabet")
        return self._read_alphabet(self._call(messages.PREDICT, messages.PredictResponse, request, deadline))

    def _fetch_reader(self, version: int, deadline: float) -> Reader:
        alphabet = self._fetch_alphabet(version, deadline)
        language_model = self._fetch_language_model(version, deadline) if self._wants_language_model() else None
        return self._learn(version, alphabet, language_model)

    def _fetch_language_model(self, version: int, deadline: float) -> LanguageModel | None:
        request = self._query(version, "language_model")
        try:
            response = self._call(messages.PREDICT, messages.PredictResponse, request, deadline)
        except HtrError as error:
            self._no_language_model(error)
            return None
        return self._read_language_model(response)

    def _call(self, method: str, answer: Any, request: Any, deadline: float, headers: Headers | None = None) -> Any:
        call = self._method(method, type(request), answer)
        seconds = remaining(deadline)
        try:
            return call(request, timeout=seconds, metadata=self._headers() if headers is None else headers)
        except grpc.RpcError as error:
            raise to_error(error, self.server, seconds) from error

    def _method(self, name: str, request: Any, answer: Any) -> Any:
        with self._lock:
            self._open()
            if name not in self._methods:
                self._methods[name] = self._traced.unary_unary(name, request.SerializeToString, answer.FromString)
            return self._methods[name]

    def _open(self) -> Any:
        """The channel of this process; made by the first call."""
        with self._lock:
            if self._channel is None or self._process != os.getpid():
                if self._credentials is not None:
                    channel = grpc.secure_channel(self._target, self._credentials, self._options)
                else:
                    channel = grpc.insecure_channel(self._target, self._options)
                self._traced = channel
                if self._tracing is not None:
                    interceptor = self._tracing.client_interceptor()
                    self._traced = self._tracing.grpcext.intercept_channel(channel, interceptor)
                self._channel, self._methods, self._process = channel, {}, os.getpid()
            return self._channel
