"""What both clients share: settings, requests and answers, and the steps between them; no input or output."""

import functools
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import numpy as np

from htr_client import messages
from htr_client.aio_transport import AsyncTransport
from htr_client.answers import Answer, Headers, read_alphabet, read_answer, read_language_model, read_maps
from htr_client.beam import default_decoder
from htr_client.checks import check_settings
from htr_client.decoding import Alphabet, Decoder, check
from htr_client.errors import (
    HtrError,
    ImageError,
    ModelNotFound,
    ModelUnusable,
    OutOfMemory,
    RequestTooLarge,
    TimedOut,
    UnexpectedAnswer,
)
from htr_client.image_files import Image, pack_with_pixels, path_of
from htr_client.known_versions import KnownVersion, KnownVersions, half_deployed
from htr_client.language import LanguageModel
from htr_client.line_answers import believed
from htr_client.metrics import ClientMetrics
from htr_client.model_facts import MAX_PIXELS
from htr_client.network import connection
from htr_client.network.connection import Metadata
from htr_client.network.endpoint import Endpoint
from htr_client.network.retries import Outage, bounded, patiently, pause, remaining, while_busy
from htr_client.pages.reading import SIGNATURE
from htr_client.request_log import RequestLog
from htr_client.results import Character, Timings, Transcription, VersionStatus
from htr_client.spans import pixel_spans
from htr_client.steps import Ask, Steps, Until
from htr_client.suspicion import look
from htr_client.tls import Tls
from htr_client.transport import Transport
from htr_client.windows import Given, Later, Sent, now_or_later

# A batch this much smaller than the message limit leaves room for the answer, which can be larger than the images.
_BATCH_SHARE = 4
# What a request holds beside the images (names, lengths) stays far below this.
_REQUEST_OVERHEAD = 4096

TransportT = TypeVar("TransportT", Transport, AsyncTransport)

# Makes a decoder of the language model of a version, which is None where it has none.
DecoderOf = Callable[[LanguageModel | None], Decoder]


class BaseClient(Generic[TransportT]):
    """What both clients share: settings, requests, answers and the steps between them; no input or output."""

    def __init__(
        self,
        target: str | Sequence[str] = "localhost:8500",
        model: str = "htr",
        *,
        version: int | None = None,
        label: str | None = None,
        tls: Tls | bool | None = None,
        timeout: float = 15.0,
        decoder: Decoder | DecoderOf | None = None,
        batch_size: int = 32,
        in_flight: int = 4,
        patience: float = 60.0,
        max_pixels: int = MAX_PIXELS,
        max_message_bytes: int = 32 * 2**20,
        metadata: Metadata | None = None,
        opentelemetry: bool = False,
        log: RequestLog | None = None,
        metrics: ClientMetrics | None = None,
        transport: TransportT | None = None,
    ) -> None:
        """Keeps the settings; the connection is made by the first call.

        Args:
            target: "host:port", several of them (a list, or one string with commas), or a gRPC target with a scheme.
                Calls are spread over all servers behind it. https:// before an address asks for an encrypted
                connection, http:// for none.
            model: Name of the served model.
            version: Exact version to use; by default the server's latest.
            label: Version label to use, such as "stable"; not together with version.
            tls: True or a `Tls` for an encrypted connection.
            timeout: Seconds a `transcribe` may take in all, and each single request of `transcribe_many`; math.inf for
                no limit.
            decoder: How log-probabilities become text: a decoder, or a function that makes one of the language model of
                the version that answers (None where it has none). By default a beam search with that language model, or
                the best path where there is none.
            batch_size: Most images in one request of `transcribe_many`.
            in_flight: Most requests of one `transcribe_many` at the same time, and most pages of an `AsyncHtrClient`.
            patience: Seconds for which `transcribe_many` and pages go on trying while no request gets through.
            max_pixels: Images with more pixels are refused before they are decoded.
            max_message_bytes: Limit of a request and of an answer.
            metadata: Called for every request, with the caller's context variables; returns its gRPC metadata (str or
                bytes), such as tracing ids or tokens. The log keeps the value of "x-request-id".
            opentelemetry: Whether to trace the calls with OpenTelemetry (needs the extra "opentelemetry").
            log: Log that gets the images and what was read in them, and keeps a sample.
            metrics: Counts calls and images; by default those of this client alone, its attribute `metrics`.
            transport: Carries the requests in place of gRPC (`htr_client.transport.Transport`, for asyncio
                `htr_client.aio_transport.AsyncTransport`); target, tls and opentelemetry mean nothing then.

        Raises:
            ValueError: When settings contradict each other or cannot be, an address is not one, or a certificate or key
                is not PEM.
            TypeError: When a setting is of another type than it has to be.
            OSError: When a certificate or key cannot be read.
            MissingExtra: When opentelemetry is asked for and not installed.
        """
        check_settings(
            model=model, version=version, label=label, tls=tls, decoder=decoder, metadata=metadata, log=log,
            metrics=metrics, timeout=timeout, batch_size=batch_size, in_flight=in_flight, patience=patience,
            max_pixels=max_pixels, max_message_bytes=max_message_bytes,
        )  # fmt: skip
        self.model = model
        self.timeout = bounded(timeout)
        self.max_pixels = max_pixels
        self.metrics = metrics or ClientMetrics()
        self._decoder = decoder if decoder is not None else default_decoder
        self._version = version
        self._label = label
        self._batch_size = batch_size
        self._in_flight = in_flight
        self._patience = patience
        self._max_message_bytes = max_message_bytes
        self._batch_bytes = max_message_bytes // _BATCH_SHARE
        self._metadata = metadata
        self._log = log
        self._known_versions = KnownVersions()
        self._closed = 0  # how often; what began before the last time sends nothing more
        self._transport: TransportT = transport or self._over_grpc(
            Endpoint(target, tls, max_message_bytes, opentelemetry)
        )
        self.server: str = self._transport.name

    def _over_grpc(self, endpoint: Endpoint) -> TransportT:
        raise NotImplementedError

    def _headers(self) -> Headers:
        return connection.headers_of(self._metadata)

    def _pack(self, image: Image, source: str | None = None) -> Sent:
        started = time.perf_counter()
        packed, grey = pack_with_pixels(image, self.max_pixels)
        if len(packed.data) > self._max_message_bytes - _REQUEST_OVERHEAD:
            raise ImageError(
                "too_large",
                f"The image takes {len(packed.data)} bytes encoded, and a message {self._max_message_bytes} at most.",
            )
        seen = look(grey)
        if grey.shape[1] != packed.width:  # it was shrunk
            scale = packed.width / grey.shape[1]
            seen = seen._replace(ink=(seen.ink[0] * scale, seen.ink[1] * scale))
        return Sent(packed, seen, source or path_of(image), time.perf_counter() - started)

    def _pack_or_error(self, image: Image | Given) -> Sent | Transcription:
        given = image if isinstance(image, Given) else Given(image, path_of(image))
        try:
            return self._pack(given.image, given.source)._replace(later=given.later)
        except ImageError as error:
            return self._failed(error, given.source, 0.0, later=given.later)

    def _failed(
        self, error: ImageError, source: str | None, seconds: float, version: int = 0, later: Later | None = None
    ) -> Transcription:
        """The result of an image that cannot be transcribed, which is counted, now or later."""
        result = Transcription("", 0.0, (), (), self.model, version, source, Timings(seconds, 0.0, 0.0), error)
        now_or_later(functools.partial(self.metrics.result, result), later)
        return result

    def _count(self, result: Transcription, image: bytes, request_id: str) -> None:
        self.metrics.result(result)
        if self._log is not None:
            self._log.offer(
                image, result.text, result.confidence, self.model, result.version,
                source=result.source or "", request_id=request_id,
            )  # fmt: skip

    def _predict_request(self, batch: Sequence[Sent]) -> Any:
        images = [sent.image.data for sent in batch]
        request = messages.predict_request(
            self.model, self._version, self._label, "serving_default", {"image_bytes": images}
        )
        # The image is checked in _pack, so only batches that a caller made too large by hand could get here.
        if request.ByteSize() > self._max_message_bytes:
            raise RequestTooLarge(f"The request has {request.ByteSize()} bytes, {self._max_message_bytes} at most.")
        return request

    def _results(
        self, batch: Sequence[Sent], answer: Answer, known: KnownVersion, server: float
    ) -> list[Transcription]:
        started = time.perf_counter()
        try:
            check(answer.log_probs, answer.frames, known.alphabet)
        except ValueError as error:
            raise UnexpectedAnswer(f"The answer of serving_default cannot be decoded: {error}.") from None
        decoded = known.decoder.decode(answer.log_probs, answer.frames, known.alphabet)
        seconds = time.perf_counter() - started
        results = []
        for sent, frames, row in zip(batch, answer.frames.tolist(), decoded, strict=True):
            if frames == 0:
                refused = ImageError("refused", "The model's graph did not take the image.")
                results.append(self._failed(refused, sent.source, sent.seconds, answer.version, sent.later))
                continue
            width = sent.image.width
            row, suspicions = believed(row, sent.look, width, sent.image.height, frames)
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
                    suspicions=suspicions,
                )
            )
            now_or_later(functools.partial(self._count, results[-1], sent.image.data, answer.request_id), sent.later)
        return results

    # -- steps -----------------------------------------------------------------------------------------------

    def _transcribe_one(self, image: Image, timeout: float | None, source: str | None) -> Steps[Transcription]:
        deadline = self._deadline(timeout)
        try:
            batch = [(yield functools.partial(self._pack, image, source))]
            try:
                [result] = yield from self._transcribe(batch, deadline)
            except ImageError:
                # Another caller's image may have spoiled the server's batch: a second chance for one that seems good.
                [result] = yield from self._transcribe(batch, deadline)
        except ImageError as error:
            result = self._failed(error, source, 0.0)
        if result.error is not None:
            raise result.error
        return result

    def _transcribe_patiently(
        self, batch: Sequence[Sent], outage: Outage, timeout: float | None
    ) -> Steps[list[Transcription]]:
        """One batch of transcribe_many: patient with the server, and no image spoils another."""
        refused: tuple[type[HtrError], ...] = (ImageError, RequestTooLarge)
        if len(batch) > 1:  # a single image waits until there is memory, or time, for it
            refused = (*refused, OutOfMemory, TimedOut)
        refusals = late = 0
        while len(batch) == 1 or not self._too_large(batch, outage):
            try:
                return (yield from patiently(lambda: self._transcribe(batch, self._deadline(timeout)), outage, refused))
            except refused as error:
                if isinstance(error, TimedOut):
                    late += 1
                    if not outage.bearable(error) or (yield pause(late)):
                        raise
                    if late == 1:  # as it is once more, since the server may have been held up
                        continue
                else:
                    outage.over()
                refusals += 1
                self._learn(batch, error, outage)
                if len(batch) > 1:
                    break
                if refusals == 2:
                    if not isinstance(error, ImageError):
                        error = ImageError("too_large", error.what)
                    return [self._failed(error, batch[0].source, batch[0].seconds, later=batch[0].later)]
        half = (len(batch) + 1) // 2
        results = yield from self._transcribe_patiently(batch[:half], outage, timeout)
        return results + (yield from self._transcribe_patiently(batch[half:], outage, timeout))

    def _transcribe(self, batch: Sequence[Sent], deadline: float) -> Steps[list[Transcription]]:
        started = time.perf_counter()
        request = self._predict_request(batch)
        self.metrics.batch(self.model, len(batch))
        absent: ModelNotFound | None = None
        for attempt in range(10**9):
            headers = self._headers()
            try:
                ask = Ask(messages.PREDICT, request, messages.PredictResponse, deadline, headers)
                response = yield from while_busy(ask)
                read = functools.partial(read_answer, response, len(batch), headers)
                # Of one image it takes less time than a thread does; of a batch it would hold up an event loop.
                answer = (yield read) if len(batch) > 1 else read()
                try:
                    # Behind one name there may be several servers, too; and as many queries each time could stay in
                    # step with their turns, so that none would ever meet the right one.
                    queries = max(2, self._transport.servers) + attempt
                    return (yield from self._read(batch, answer, deadline, queries, started))
                except ModelNotFound as error:
                    # The version that answered has been unloaded since, or other servers do not have it (yet).
                    # Whatever answers next may be a known version, and is one that is there.
                    absent = half_deployed(error, answer.version)
                    wait = pause(attempt)
                    if time.monotonic() + wait > deadline or (yield wait):
                        raise absent from error
            except TimedOut as error:
                if absent is not None:
                    raise absent from error  # what took the time
                raise
        raise AssertionError("unreachable")

    def _read(
        self, batch: Sequence[Sent], answer: Answer, deadline: float, queries: int, started: float
    ) -> Steps[list[Transcription]]:
        """The texts of an answer; what the first one of a version fetches and compiles serves all."""
        characters = answer.log_probs.shape[2] - 1
        while isinstance(found := self._known_versions.find(answer.version, characters), Future):
            yield Until(found, deadline)
            remaining(deadline)
        if found is not None:
            return (yield functools.partial(self._results, batch, answer, found, time.perf_counter() - started))
        try:
            known = yield from self._ask_known(answer.version, deadline, queries)
            # Within the turn, since decoders compile what they need when they meet an alphabet for the first time.
            results = yield functools.partial(self._results, batch, answer, known, time.perf_counter() - started)
            self._known_versions.keep(answer.version, known)
        finally:
            self._known_versions.end_turn(answer.version)
        return results

    def _ask_alphabet(self, version: int | None, deadline: float, queries: int = 1) -> Steps[Alphabet]:
        return read_alphabet((yield from self._ask_about(version, "alphabet", deadline, queries)))

    def _ask_known(self, version: int, deadline: float, queries: int) -> Steps[KnownVersion]:
        alphabet = yield from self._ask_alphabet(version, deadline, queries)
        known = self._known_versions.of(version)
        if known is not None and known.alphabet == alphabet:
            return known
        decoder = self._decoder
        if not isinstance(decoder, Decoder):
            own = yield from self._ask_language_model(version, alphabet, deadline, queries)
            decoder = yield functools.partial(decoder, own)
        return KnownVersion(alphabet, decoder)

    def _ask_language_model(
        self, version: int, alphabet: Alphabet, deadline: float, queries: int
    ) -> Steps[LanguageModel | None]:
        try:
            response = yield from self._ask_about(version, "language_model", deadline, queries)
        except ModelUnusable as error:
            if '"language_model" not found' in error.what:
                return None  # a version of an earlier release
            raise
        except RequestTooLarge as error:
            raise UnexpectedAnswer(
                f"The version's language model is too large for a message: {error.what}",
                advice=f"Raise max_message_bytes ({self._max_message_bytes}), or do without it: decoder=BestPath().",
                code=error.code,
            ) from error
        return (yield functools.partial(read_language_model, response, alphabet))

    def _ask_about(self, version: int | None, signature: str, deadline: float, queries: int) -> Steps[Any]:
        """Asks a signature that tells something about a version, up to `queries` times: several servers take turns."""
        # Of exactly the version that answered, whatever label or "latest" may mean by now.
        label = self._label if version is None else None
        pinned = version if version is not None else self._version
        request = messages.predict_request(self.model, pinned, label, signature, {"query": [b""]})
        for left in reversed(range(queries)):
            ask = Ask(messages.PREDICT, request, messages.PredictResponse, deadline, self._headers())
            try:
                return (yield from while_busy(ask))
            except ModelNotFound:
                if not left:
                    raise
        raise AssertionError("unreachable")

    def _ask_maps(
        self, page: bytes, line_finder: str, timeout: float | None, outage: Outage
    ) -> Steps[tuple[np.ndarray, float]]:
        """The line finder's maps of a page; patient with the server, as transcribe_many is."""
        request = messages.predict_request(line_finder, None, None, SIGNATURE, {"image_bytes": [page]})
        answer = messages.PredictResponse

        def ask() -> Steps[Any]:
            return while_busy(Ask(messages.PREDICT, request, answer, self._deadline(timeout), self._headers()))

        try:
            return read_maps((yield from patiently(ask, outage)))
        except ModelNotFound as error:  # the caller named no such model: a method for pages did
            advice = (
                f"That is the line finder, which pages need: start `htr serve --pages`, or serve {line_finder} beside "
                "the model (serving/README.md)."
            )
            raise ModelNotFound(error.what, advice=advice, code=error.code) from error
        except ImageError:
            # As for the image of a line: another caller's may have spoiled the server's batch.
            return read_maps((yield from patiently(ask, outage)))

    def _ask_status(self, timeout: float | None) -> Steps[list[VersionStatus]]:
        request = messages.GetModelStatusRequest()
        request.model_spec.name = self.model
        answer = messages.GetModelStatusResponse
        ask = Ask(messages.GET_MODEL_STATUS, request, answer, self._deadline(timeout), self._headers())
        response = yield from while_busy(ask)
        states = messages.ModelVersionStatus.State
        return [
            VersionStatus(status.version, states.Name(status.state), status.status.error_message)
            for status in response.model_version_status
        ]

    def _await_readiness(self, timeout: float) -> Steps[None]:
        deadline = self._deadline(timeout)
        for attempt in range(10**9):
            try:
                yield from self._ask_alphabet(None, min(deadline, time.monotonic() + 5.0))
                return
            except HtrError as error:
                wait = pause(attempt)
                waiting_helps = error.retryable or isinstance(error, ModelNotFound)
                if not waiting_helps or time.monotonic() + wait > deadline:
                    raise
                yield wait

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (bounded(timeout) if timeout is not None else self.timeout)

    def _learn(self, batch: Sequence[Sent], error: HtrError, outage: Outage) -> None:
        """Remembers a smaller limit of the server; of its memory and time, which others use too, for one run only."""
        if limit := re.search(r"maximum input batch size (\d+)", error.what):
            self._batch_size = max(1, min(self._batch_size, int(limit.group(1))))
        limit = re.search(r"larger than max \(\d+ vs\. (\d+)\)", error.what)
        # Else it was the answer, and the limit this client's: older gRPC does not tell the two apart.
        if limit and int(limit.group(1)) < self._max_message_bytes:
            self._batch_bytes = min(self._batch_bytes, int(limit.group(1)) - _REQUEST_OVERHEAD)
        if isinstance(error, (OutOfMemory, TimedOut)):
            outage.batch_size = min(outage.batch_size, len(batch) // 2)

    def _too_large(self, batch: Sequence[Sent], outage: Outage) -> bool:
        """Whether a batch exceeds what has been learnt since it was made."""
        if len(batch) > min(self._batch_size, outage.batch_size):
            return True
        return sum(len(sent.image.data) for sent in batch) > self._batch_bytes
