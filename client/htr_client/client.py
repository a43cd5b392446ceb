"""The clients: pictures in, transcriptions out, over TensorFlow Serving's gRPC API."""

import asyncio
import os
import random
import re
import threading
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from types import TracebackType
from typing import Any, NamedTuple

import grpc
import grpc.aio
import numpy as np

from htr_client import messages
from htr_client.connection import (
    Metadata,
    Tls,
    channel_options,
    grpc_target,
    hosts_of,
    read_addresses,
    to_error,
    tracing,
)
from htr_client.decoding import Alphabet, Alternative, BestPath, Decoder
from htr_client.errors import HtrError, ModelNotFound, PictureError, RequestTooLarge, TimedOut, UnexpectedAnswer
from htr_client.pictures import MAX_PIXELS, PackedPicture, Picture, pack_with_pixels
from htr_client.reach import explain
from htr_client.request_log import RequestLog
from htr_client.spans import pixel_spans
from htr_client.suspicion import Look, Suspicion, look, of_geometry

# A batch this much smaller than the message limit leaves room for the answer, which can be larger than the pictures.
_BATCH_SHARE = 4
# What a request holds beside the pictures (names, lengths) stays far below this.
_REQUEST_OVERHEAD = 4096


Headers = tuple[tuple[str, str], ...]


class Character(NamedTuple):
    """One character of a transcription.

    Attributes:
        text: The character.
        confidence: The highest probability the model gave it where it stands, 0 to 1.
        span: Left and right edge in pixels of the (upright) picture as it was given.
    """

    text: str
    confidence: float
    span: tuple[float, float]


class Timings(NamedTuple):
    """Where the time of one picture went, in seconds; server and decode are those of its whole batch.

    Attributes:
        pack: Reading, checking and encoding the picture.
        server: From sending the request to having the answer, with retries.
        decode: From log-probabilities to text.
    """

    pack: float
    server: float
    decode: float


@dataclass(frozen=True)
class Transcription:
    """What the model reads in one picture.

    Attributes:
        text: The text; "" when `error` is set, and also when the model sees no writing.
        confidence: P(text | picture), 0 to 1: the model's probability that the whole text is right.
        characters: The characters of the text with confidence and position.
        alternatives: Other readings, best first, from decoders that give them.
        model: Name of the served model.
        version: Version of the model that answered; 0 when none did.
        source: Name of the picture: the path, when it was given as one.
        timings: Where the time went.
        error: Why there is no text for this picture. Only `transcribe_many` sets it; `transcribe` raises it.
        suspicions: Why the text may be nonsense: the image is of another kind than the model was trained on.
    """

    text: str
    confidence: float
    characters: tuple[Character, ...]
    alternatives: tuple[Alternative, ...]
    model: str
    version: int
    source: str | None
    timings: Timings
    error: PictureError | None = None
    suspicions: tuple[Suspicion, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the picture was transcribed."""
        return self.error is None


@dataclass(frozen=True)
class VersionStatus:
    """One version of the model on the server.

    Attributes:
        version: Its number.
        state: "START", "LOADING", "AVAILABLE", "UNLOADING" or "END".
        error: Why it could not be loaded, or "".
    """

    version: int
    state: str
    error: str


class _Sent(NamedTuple):
    """A picture on its way: what goes to the server and what its result will need."""

    picture: PackedPicture
    look: Look
    source: str | None
    seconds: float


class _Answer(NamedTuple):
    """One answer to serving_default, read and checked."""

    version: int
    log_probs: np.ndarray
    frames: np.ndarray
    request_id: str


class _Outage:
    """How long calls of one transcribe_many run have been failing, shared by its batches."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._since: float | None = None

    def over(self) -> None:
        self._since = None

    def bearable(self, error: HtrError) -> bool:
        if not error.retryable:
            return False
        if self._since is None:
            self._since = time.monotonic()
        return time.monotonic() - self._since < self._patience


class _Client:
    """What both clients share: settings, requests, answers; no input or output."""

    def __init__(
        self,
        target: str | Sequence[str] = "localhost:8500",
        model: str = "htr",
        *,
        version: int | None = None,
        label: str | None = None,
        tls: Tls | bool | None = None,
        timeout: float = 15.0,
        decoder: Decoder | None = None,
        batch_size: int = 32,
        in_flight: int = 4,
        patience: float = 60.0,
        max_pixels: int = MAX_PIXELS,
        max_message_bytes: int = 32 * 2**20,
        metadata: Metadata | None = None,
        opentelemetry: bool = False,
        log: RequestLog | None = None,
    ) -> None:
        """Keep the settings; the connection is made by the first call.

        Args:
            target: "host:port", several of them (a list, or one string with commas), or a gRPC target with a scheme.
                Calls are spread over all servers behind it. https:// before an address asks for an encrypted
                connection, http:// for none.
            model: Name of the served model.
            version: Exact version to use; by default the server's latest.
            label: Version label to use, such as "stable"; not together with version.
            tls: True or a `Tls` for an encrypted connection.
            timeout: Seconds a `transcribe` may take in all, and each single request of `transcribe_many`.
            decoder: How log-probabilities become text; by default the best path.
            batch_size: Most pictures in one request of `transcribe_many`.
            in_flight: Most requests of one `transcribe_many` at the same time.
            patience: Seconds for which `transcribe_many` goes on trying while no request gets through.
            max_pixels: Pictures with more pixels are refused before they are decoded.
            max_message_bytes: Limit of a request and of an answer.
            metadata: Called for every request; returns its gRPC metadata, such as tracing ids or tokens. The log keeps
                the value of "x-request-id".
            opentelemetry: Trace the calls with OpenTelemetry (needs the extra "opentelemetry").
            log: Gets the pictures and what was read in them, of which it keeps a sample.

        Raises:
            ValueError: When settings contradict each other or an address is not one.
            OSError: When a certificate or key cannot be read.
            MissingExtra: When opentelemetry is asked for and not installed.
        """
        if version is not None and label is not None:
            raise ValueError("give a version or a label, not both")
        if min(batch_size, in_flight) < 1 or timeout <= 0:
            raise ValueError("batch_size, in_flight and timeout are positive")
        if version is not None and not 0 <= version < 2**63:
            raise ValueError(f"a version is a number from 0 to 2**63 - 1, not {version}")
        self.model = model
        self.timeout = timeout
        self.decoder: Decoder = decoder if decoder is not None else BestPath()
        self._version = version
        self._label = label
        addresses, encrypted = read_addresses(target)
        tls = Tls() if tls is True or (encrypted and not tls) else tls or None
        if tls is not None and encrypted is False:
            raise ValueError("http:// and grpc:// mean that the connection is not encrypted: leave that or tls out")
        self._tls = tls
        self._credentials = tls.credentials() if tls is not None else None
        self._target = grpc_target(addresses)
        self._hosts = hosts_of(addresses)
        self.server = ", ".join(addresses)
        if tls is not None and tls.server_name is None and "," in self._target:
            raise ValueError(
                "gRPC checks the certificates of several addresses by one name: give it as Tls(server_name=...) "
                "(--tls-server-name), or one DNS name that stands for all servers"
            )
        self._options = channel_options(tls, max_message_bytes)
        self._batch_size = batch_size
        self._in_flight = in_flight
        self._patience = patience
        self._max_pixels = max_pixels
        self._max_message_bytes = max_message_bytes
        self._metadata = metadata
        self._tracing = tracing() if opentelemetry else None
        self._log = log
        self._lock = threading.RLock()
        self._channel: Any = None
        self._traced: Any = None  # the channel with what traces its calls
        self._methods: dict[str, Any] = {}
        self._process = 0
        # By version: a version on the server never changes, and several servers may have different ones.
        self._alphabets: dict[int, Alphabet] = {}

    def _headers(self) -> Headers:
        return tuple(self._metadata()) if self._metadata is not None else ()

    def _pack(self, picture: Picture, source: str | None = None) -> _Sent:
        started = time.perf_counter()
        packed, grey = pack_with_pixels(picture, self._max_pixels)
        if len(packed.data) > self._max_message_bytes - _REQUEST_OVERHEAD:
            raise PictureError(
                "too_large",
                f"The picture takes {len(packed.data)} bytes encoded, and a message {self._max_message_bytes} at most.",
            )
        seen = look(grey)
        if grey.shape[1] != packed.width:  # it was shrunk
            scale = packed.width / grey.shape[1]
            seen = seen._replace(ink=(seen.ink[0] * scale, seen.ink[1] * scale))
        return _Sent(packed, seen, source or _path(picture), time.perf_counter() - started)

    def _pack_or_error(self, picture: Picture) -> _Sent | Transcription:
        try:
            return self._pack(picture)
        except PictureError as error:
            return self._failed(error, _path(picture), 0.0)

    def _failed(self, error: PictureError, source: str | None, seconds: float) -> Transcription:
        return Transcription("", 0.0, (), (), self.model, 0, source, Timings(seconds, 0.0, 0.0), error)

    def _predict_request(self, batch: Sequence[_Sent]) -> Any:
        images = [sent.picture.data for sent in batch]
        request = messages.predict_request(
            self.model, self._version, self._label, "serving_default", {"image_bytes": images}
        )
        # The picture is checked in _pack, so only batches that a caller made too large by hand could get here.
        if request.ByteSize() > self._max_message_bytes:
            raise RequestTooLarge(f"The request has {request.ByteSize()} bytes, {self._max_message_bytes} at most.")
        return request

    def _read(self, response: Any, count: int, headers: Headers) -> _Answer:
        try:
            log_probs = messages.to_array(response.outputs["log_probs"])
            frames = messages.to_array(response.outputs["frames"])
        except ValueError as error:
            raise UnexpectedAnswer(f"The answer of serving_default cannot be read: {error}.") from None
        if log_probs.ndim != 3 or len(log_probs) != count or frames.shape != (count,):
            raise UnexpectedAnswer(
                f"{count} pictures were sent; log_probs came back as {log_probs.shape}, frames as {frames.shape}."
            )
        request_id = next((value for key, value in headers if key == "x-request-id"), "")
        return _Answer(response.model_spec.version.value, log_probs, frames, request_id)

    def _known_alphabet(self, answer: _Answer) -> Alphabet | None:
        alphabet = self._alphabets.get(answer.version)
        # A server that was wiped and started anew may count from 1 again.
        return alphabet if alphabet is not None and len(alphabet) == answer.log_probs.shape[2] - 1 else None

    def _alphabet_request(self, version: int | None) -> Any:
        # Of exactly the version that answered, whatever label or "latest" may mean by now.
        label = self._label if version is None else None
        pinned = version if version is not None else self._version
        return messages.predict_request(self.model, pinned, label, "alphabet", {"query": [b""]})

    def _learn_alphabet(self, response: Any) -> Alphabet:
        try:
            characters = messages.to_array(response.outputs["characters"])
            alphabet = Alphabet([character.decode() for character in characters.reshape(-1)])
        except ValueError as error:
            raise UnexpectedAnswer(f"The answer of the signature alphabet cannot be read: {error}.") from None
        self._alphabets[response.model_spec.version.value] = alphabet
        return alphabet

    def _results(
        self, batch: Sequence[_Sent], answer: _Answer, alphabet: Alphabet, server: float
    ) -> list[Transcription]:
        started = time.perf_counter()
        try:
            decoded = self.decoder.decode(answer.log_probs, answer.frames, alphabet)
        except ValueError as error:
            raise UnexpectedAnswer(f"The answer of serving_default cannot be decoded: {error}.") from None
        seconds = time.perf_counter() - started
        results = []
        for sent, frames, row in zip(batch, answer.frames.tolist(), decoded, strict=True):
            if frames == 0:
                refused = PictureError("refused", "The model's graph did not take the picture.")
                results.append(replace(self._failed(refused, sent.source, sent.seconds), version=answer.version))
                continue
            width, height = sent.picture.width, sent.picture.height
            spans = pixel_spans([span for _, _, span in row.characters], frames, width, sent.look.ink)
            characters = tuple(
                Character(text, confidence, span)
                for (text, confidence, _), span in zip(row.characters, spans, strict=True)
            )
            results.append(
                Transcription(
                    row.text,
                    row.confidence,
                    characters,
                    row.alternatives,
                    self.model,
                    answer.version,
                    sent.source,
                    Timings(sent.seconds, server, seconds),
                    suspicions=sent.look.suspicions or of_geometry(width, height, frames),
                )
            )
            if self._log is not None:
                self._log.offer(
                    sent.picture.data,
                    row.text,
                    row.confidence,
                    self.model,
                    answer.version,
                    source=sent.source or "",
                    request_id=answer.request_id,
                )
        return results

    def _batches(self, window: Sequence[_Sent | Transcription]) -> list[list[int]]:
        """Positions of the good pictures of a window, grouped into requests.

        Pictures of similar shape go together, since the server pads a batch to its widest picture.
        """
        shapes = [
            (sent.picture.width / sent.picture.height, i) for i, sent in enumerate(window) if isinstance(sent, _Sent)
        ]
        batches: list[list[int]] = []
        room = 0
        for _, i in sorted(shapes):
            sent = window[i]
            assert isinstance(sent, _Sent)
            size = len(sent.picture.data)
            if not batches or len(batches[-1]) == self._batch_size or size > room:
                batches.append([])
                room = self._max_message_bytes // _BATCH_SHARE
            batches[-1].append(i)
            room -= size
        return batches

    def _split(self, batch: Sequence[_Sent], error: HtrError) -> list[Sequence[_Sent]]:
        """Parts of a refused batch to try on their own; a server with a smaller limit is remembered."""
        limit = re.search(r"maximum input batch size (\d+)", str(error))
        if limit:
            self._batch_size = max(1, min(self._batch_size, int(limit.group(1))))
        half = (len(batch) + 1) // 2
        return [batch[:half], batch[half:]]


def _path(picture: Picture) -> str | None:
    return os.fspath(picture) if isinstance(picture, (str, os.PathLike)) else None


def _pause(attempt: int) -> float:
    """Seconds to wait before another attempt: doubling up to two seconds, jittered so that clients spread out."""
    return random.uniform(0.5, 1.0) * min(2.0, 0.1 * 2**attempt)


def _remaining(deadline: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimedOut("The time for this picture was used up.")
    return remaining


def _status(response: Any) -> list[VersionStatus]:
    states = messages.ModelVersionStatus.State
    return [
        VersionStatus(status.version, states.Name(status.state), status.status.error_message)
        for status in response.model_version_status
    ]


class HtrClient(_Client):
    """Transcribes pictures of handwriting with a model served by TensorFlow Serving.

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

    def transcribe(self, picture: Picture, *, timeout: float | None = None, source: str | None = None) -> Transcription:
        """Transcribe one picture.

        Args:
            picture: Path, encoded bytes, or an array as OpenCV has them.
            timeout: Seconds it may take in all; by default the client's.
            source: Name of the picture for the result and the log; by default its path.

        Returns:
            The transcription.

        Raises:
            PictureError: When the picture cannot be read, by this client or by the server.
            HtrError: When the call fails; see `htr_client.errors`.
        """
        deadline = time.monotonic() + (timeout if timeout is not None else self.timeout)
        batch = [self._pack(picture, source)]
        try:
            [result] = self._transcribe(batch, deadline)
        except PictureError:
            # On a server with batching, another caller's picture may have spoiled the batch. This one is good as far
            # as can be known here, so it gets a second chance.
            [result] = self._transcribe(batch, deadline)
        if result.error is not None:
            raise result.error
        return result

    def transcribe_many(self, pictures: Iterable[Picture]) -> Iterator[Transcription]:
        """Transcribe any number of pictures, several requests at a time.

        Reads ahead by up to three times batch_size x in_flight pictures, so it suits pictures that are there already;
        where they trickle in, call `transcribe` for each.

        Args:
            pictures: Paths, encoded bytes or arrays; may be a generator.

        Yields:
            One transcription a picture, in order. A picture that cannot be read gives one with `error` set and does
            not disturb the others.

        Raises:
            HtrError: When the service fails: at once when trying again makes no sense, otherwise after `patience`
                seconds without any success. Everything yielded until then is valid.
        """
        source = iter(pictures)
        outage = _Outage(self._patience)
        stop = threading.Event()
        senders = ThreadPoolExecutor(self._in_flight, "htr-send")
        packers = ThreadPoolExecutor(min(4, os.cpu_count() or 1), "htr-pack")
        under_way: deque[tuple[list[_Sent | Transcription], list[tuple[list[int], Future[list[Transcription]]]]]]
        under_way = deque()
        try:
            ahead = self._read_ahead(packers, source)
            while ahead or under_way:
                if ahead:
                    window = [future.result() for future in ahead]
                    calls = []
                    for positions in self._batches(window):
                        batch = [sent for i in positions if isinstance(sent := window[i], _Sent)]
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
        return _status(self._call(messages.GET_MODEL_STATUS, messages.GetModelStatusResponse, request, deadline))

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
                pause = _pause(attempt)
                waiting_helps = error.retryable or isinstance(error, ModelNotFound)
                if not waiting_helps or time.monotonic() + pause > deadline:
                    raise
                time.sleep(pause)

    def _read_ahead(
        self, packers: ThreadPoolExecutor, source: Iterator[Picture]
    ) -> list["Future[_Sent | Transcription]"]:
        return [
            packers.submit(self._pack_or_error, picture)
            for picture in islice(source, self._batch_size * self._in_flight)
        ]

    def _transcribe_batch(self, batch: Sequence[_Sent], outage: _Outage, stop: threading.Event) -> list[Transcription]:
        """One batch of transcribe_many: patient with the server, and no picture spoils another."""
        refusals = 0
        for attempt in range(10**9):
            try:
                results = self._transcribe(batch, time.monotonic() + self.timeout)
                outage.over()
                return results
            except (PictureError, RequestTooLarge) as error:
                outage.over()
                refusals += 1
                if len(batch) > 1:
                    parts = self._split(batch, error)
                    return [result for part in parts for result in self._transcribe_batch(part, outage, stop)]
                if refusals == 2:
                    refused = error if isinstance(error, PictureError) else PictureError("too_large", error.what)
                    return [self._failed(refused, batch[0].source, batch[0].seconds)]
            except HtrError as error:
                if not outage.bearable(error) or stop.wait(_pause(attempt)):
                    raise
        raise AssertionError("unreachable")

    def _transcribe(self, batch: Sequence[_Sent], deadline: float) -> list[Transcription]:
        started = time.perf_counter()
        request = self._predict_request(batch)
        for last_try in (False, True):
            headers = self._headers()
            response = self._call(messages.PREDICT, messages.PredictResponse, request, deadline, headers)
            answer = self._read(response, len(batch), headers)
            try:
                alphabet = self._known_alphabet(answer) or self._fetch_alphabet(answer.version, deadline)
                break
            except ModelNotFound:
                # The version that answered has been unloaded since. The one that took its place will answer.
                if last_try:
                    raise
        return self._results(batch, answer, alphabet, time.perf_counter() - started)

    def _fetch_alphabet(self, version: int | None, deadline: float) -> Alphabet:
        request = self._alphabet_request(version)
        return self._learn_alphabet(self._call(messages.PREDICT, messages.PredictResponse, request, deadline))

    def _call(self, method: str, answer: Any, request: Any, deadline: float, headers: Headers | None = None) -> Any:
        call = self._method(method, type(request), answer)
        seconds = _remaining(deadline)
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


class AsyncHtrClient(_Client):
    """`HtrClient` for asyncio: the same methods, awaited.

    Reading pictures and decoding happen in threads, so the event loop is never held up. A client belongs to the
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
        self, picture: Picture, *, timeout: float | None = None, source: str | None = None
    ) -> Transcription:
        """Transcribe one picture; see `HtrClient.transcribe`."""
        deadline = time.monotonic() + (timeout if timeout is not None else self.timeout)
        batch = [await asyncio.to_thread(self._pack, picture, source)]
        try:
            [result] = await self._transcribe(batch, deadline)
        except PictureError:  # perhaps spoilt by another caller's picture, as in HtrClient.transcribe
            [result] = await self._transcribe(batch, deadline)
        if result.error is not None:
            raise result.error
        return result

    async def transcribe_many(
        self, pictures: Iterable[Picture] | AsyncIterable[Picture]
    ) -> AsyncIterator[Transcription]:
        """Transcribe any number of pictures; see `HtrClient.transcribe_many`. The pictures may come asynchronously."""
        source = aiter(pictures) if isinstance(pictures, AsyncIterable) else _asynchronous(pictures)
        outage = _Outage(self._patience)
        slots = asyncio.Semaphore(self._in_flight)
        under_way: deque[tuple[list[_Sent | Transcription], list[tuple[list[int], asyncio.Task[list[Transcription]]]]]]
        under_way = deque()
        window = await self._next_window(source)
        try:
            while window or under_way:
                if window:
                    calls = []
                    for positions in self._batches(window):
                        batch = [sent for i in positions if isinstance(sent := window[i], _Sent)]
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
        return _status(await self._call(messages.GET_MODEL_STATUS, messages.GetModelStatusResponse, request, deadline))

    async def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Wait until the model answers; see `HtrClient.wait_until_ready`."""
        deadline = time.monotonic() + timeout
        for attempt in range(10**9):
            try:
                await self._fetch_alphabet(None, min(deadline, time.monotonic() + 5.0))
                return
            except HtrError as error:
                pause = _pause(attempt)
                waiting_helps = error.retryable or isinstance(error, ModelNotFound)
                if not waiting_helps or time.monotonic() + pause > deadline:
                    raise
                await asyncio.sleep(pause)

    async def _next_window(self, source: AsyncIterator[Picture]) -> list[_Sent | Transcription]:
        packing: list[asyncio.Future[_Sent | Transcription]] = []
        async for picture in source:
            packing.append(asyncio.ensure_future(asyncio.to_thread(self._pack_or_error, picture)))
            if len(packing) == self._batch_size * self._in_flight:
                break
        return list(await asyncio.gather(*packing))

    async def _transcribe_slot(
        self, batch: Sequence[_Sent], outage: _Outage, slots: asyncio.Semaphore
    ) -> list[Transcription]:
        async with slots:
            return await self._transcribe_batch(batch, outage)

    async def _transcribe_batch(self, batch: Sequence[_Sent], outage: _Outage) -> list[Transcription]:
        """One batch of transcribe_many: patient with the server, and no picture spoils another."""
        refusals = 0
        for attempt in range(10**9):
            try:
                results = await self._transcribe(batch, time.monotonic() + self.timeout)
                outage.over()
                return results
            except (PictureError, RequestTooLarge) as error:
                outage.over()
                refusals += 1
                if len(batch) > 1:
                    parts = self._split(batch, error)
                    return [result for part in parts for result in await self._transcribe_batch(part, outage)]
                if refusals == 2:
                    refused = error if isinstance(error, PictureError) else PictureError("too_large", error.what)
                    return [self._failed(refused, batch[0].source, batch[0].seconds)]
            except HtrError as error:
                if not outage.bearable(error):
                    raise
                await asyncio.sleep(_pause(attempt))
        raise AssertionError("unreachable")

    async def _transcribe(self, batch: Sequence[_Sent], deadline: float) -> list[Transcription]:
        started = time.perf_counter()
        request = self._predict_request(batch)
        for last_try in (False, True):
            headers = self._headers()
            response = await self._call(messages.PREDICT, messages.PredictResponse, request, deadline, headers)
            answer = self._read(response, len(batch), headers)
            try:
                alphabet = self._known_alphabet(answer) or await self._fetch_alphabet(answer.version, deadline)
                break
            except ModelNotFound:  # unloaded since, as in HtrClient._transcribe
                if last_try:
                    raise
        return await asyncio.to_thread(self._results, batch, answer, alphabet, time.perf_counter() - started)

    async def _fetch_alphabet(self, version: int | None, deadline: float) -> Alphabet:
        request = self._alphabet_request(version)
        return self._learn_alphabet(await self._call(messages.PREDICT, messages.PredictResponse, request, deadline))

    async def _call(
        self, method: str, answer: Any, request: Any, deadline: float, headers: Headers | None = None
    ) -> Any:
        call = self._method(method, type(request), answer)
        seconds = _remaining(deadline)
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


async def _asynchronous(items: Iterable[Picture]) -> AsyncIterator[Picture]:
    for item in items:
        yield item
