"""The client for threads: images in, transcriptions out, over TensorFlow Serving's gRPC API."""

import contextvars
import time
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from itertools import islice
from types import TracebackType
from typing import Any

from htr_client.base import BaseClient
from htr_client.checks import refuse_one
from htr_client.cores import usable_cores
from htr_client.ending import Ending
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
from htr_client.transport import GrpcTransport, Transport
from htr_client.windows import Given, Sent, Windows


class HtrClient(BaseClient[Transport]):
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
        """Closes the connection; calls of other threads that are under way fail, a later call would open a new one.

        A `transcribe_many` under way gives what is finished, up to the first image without a result, and fails.
        """
        self._closed += 1
        self._transport.close()

    def connect(self, timeout: float = 5.0) -> None:
        """Opens the connection now rather than with the first call, to find out early when nobody answers.

        Args:
            timeout: Seconds to wait for the server. It need not have loaded its model yet; see `wait_until_ready`.

        Raises:
            ServerUnavailable: When no gRPC server answers in that time; says what answers instead, if anything does.
            AccessDenied: When there is no trust between client and server.
        """
        self._transport.connect(timeout)

    def transcribe(self, image: Image, *, timeout: float | None = None, source: str | None = None) -> Transcription:
        """Transcribes one image.

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
        return self._run(self._transcribe_one(image, timeout, source))

    def transcribe_many(
        self, images: Iterable[Image], *, timeout: float | None = None
    ) -> Generator[Transcription, None, None]:
        """Transcribes any number of images, several requests at a time.

        Reads ahead by up to three times batch_size x in_flight images, so it suits images that are there already;
        where they trickle in, call `transcribe` for each.

        Args:
            images: Paths, encoded bytes or arrays; may be a generator.
            timeout: Seconds for each request; by default the client's.

        Returns:
            A generator of one transcription an image, in order. An image that cannot be read gives one with `error`
            set and does not disturb the others. Closing the generator early ends the requests under way.

        Raises:
            TypeError: At once, when `images` is one image.
            HtrError: From the generator, when the service fails: at once when trying again makes no sense or this
                client was closed, otherwise after `patience` seconds without any success.
            Exception: What `images` raised. Before either, everything that was finished is yielded up to the first
                image without a result, so the next call may begin with that one.
        """
        refuse_one(images)
        # The generator may be carried on from anywhere; its requests belong to this call.
        return self._transcribe_many(iter(images), timeout, contextvars.copy_context())

    def _transcribe_many(
        self, source: Iterator[Image | Given], timeout: float | None, context: contextvars.Context
    ) -> Generator[Transcription, None, None]:
        outage, ending, closed = Outage(self._patience), Ending(), self._closed
        senders = ThreadPoolExecutor(self._in_flight, "htr-send")
        packers = ThreadPoolExecutor(min(4, usable_cores()), "htr-pack")

        def send(batch: list[Sent]) -> Future[list[Transcription]]:
            steps = self._transcribe_patiently(batch, outage, timeout)
            # A context of its own for each: one cannot be entered by two threads at a time.
            return senders.submit(context.copy().run, self._run, steps, ending, closed)

        windows = Windows(send, self._batch_bytes)
        try:
            ahead = self._read_ahead(packers, source)
            while ahead or windows:
                if ahead:
                    windows.add([packing.exception() or packing.result() for packing in ahead], self._batch_size)
                    ahead = self._read_ahead(packers, source) if not windows.ended else []
                if windows.full or not ahead:
                    wait(windows.awaited(), return_when=FIRST_EXCEPTION)
                    yield from windows.results()
        finally:
            ending.end()
            packers.shutdown(wait=False, cancel_futures=True)
            senders.shutdown(wait=False, cancel_futures=True)

    def find_page(
        self,
        image: Image,
        *,
        line_finder: str = LINE_FINDER,
        timeout: float | None = None,
        source: str | None = None,
    ) -> Page:
        """Finds the lines of a page; as `transcribe_page`, which also transcribes them.

        The recogniser is asked about a few of them, to see which way up the page is.
        """
        find_maps, lines = self._models_of_page(line_finder, timeout)
        return find_page(image, find_maps, str(source or name_of(image)), self.max_pixels, lines.try_out)

    def transcribe_page(
        self,
        image: Image,
        *,
        line_finder: str = LINE_FINDER,
        timeout: float | None = None,
        source: str | None = None,
    ) -> Page:
        """Finds the lines of a page and transcribes them.

        Args:
            image: As for `transcribe`.
            line_finder: Name of the line finder on the server; the client's model transcribes what it finds.
            timeout: Seconds for each request, to the line finder and of lines, which is tried again as by
                `transcribe_many`; by default the client's.
            source: Name of the image for the page and the log; by default that of its file, and its path.

        Returns:
            The page with its lines in reading order, for `htr_client.pages.write`. A line that the server did not take
            has no text.

        Raises:
            ImageError: When the image cannot be read.
            HtrError: When the service fails, as of `transcribe_many`; `ModelNotFound` where the server has no line
                finder.
        """
        find_maps, lines = self._models_of_page(line_finder, timeout, source or path_of(image))
        return read_page(image, find_maps, lines, str(source or name_of(image)), self.max_pixels, lines.try_out)

    def _models_of_page(
        self, line_finder: str = LINE_FINDER, timeout: float | None = None, source: str | None = None
    ) -> tuple[FindMaps, PageLines]:
        """The line finder and the recogniser of the lines of one page, as `htr_client.pages.reading` takes them.

        Args:
            line_finder: As for `transcribe_page`.
            timeout: As for `transcribe_page`.
            source: Path or name of the page, for the log.
        """
        context = contextvars.copy_context()
        lines = PageLines(lambda given: self._transcribe_many(iter(given), timeout, context), source)
        return lambda page: self._run(self._ask_maps(page, line_finder, timeout, Outage(self._patience))), lines

    def model_status(self, timeout: float | None = None) -> list[VersionStatus]:
        """Asks which versions of the model the server has.

        Args:
            timeout: Seconds; by default the client's.

        Returns:
            The versions, newest first.

        Raises:
            HtrError: When the call fails.
        """
        return self._run(self._ask_status(timeout))

    def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Waits until the model answers: the server is up and the version is loaded.

        Args:
            timeout: Seconds.

        Raises:
            HtrError: The last failure, when the time is over or waiting makes no sense.
        """
        self._run(self._await_readiness(timeout))

    def _read_ahead(
        self, packers: ThreadPoolExecutor, source: Iterator[Image | Given]
    ) -> list[Future[Sent | Transcription]]:
        packing: list[Future[Sent | Transcription]] = []
        try:
            for image in islice(source, self._batch_size * self._in_flight):
                packing.append(packers.submit(self._pack_or_error, image))
        except Exception as error:  # the source's, which comes after the results of what it gave before
            packing.append(Future())
            packing[-1].set_exception(error)
        return packing

    def _run(self, steps: Steps[T], ending: Ending | None = None, closed: int | None = None) -> T:
        waiting = ending or Ending()
        closed = self._closed if closed is None else closed
        try:
            step = next(steps)
            while True:
                if isinstance(step, Ask) and self._closed != closed:
                    raise was_closed(self.server)  # whatever the steps do about failures of calls
                try:
                    if isinstance(step, Ask):
                        result = self._call(step, ending)
                    elif isinstance(step, Until):
                        result = waiting.wait(step.deadline - time.monotonic(), step.done)
                        if result:
                            raise was_closed(self.server)
                    else:
                        result = waiting.wait(step) if isinstance(step, float) else step()
                except Exception as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as end:
            return end.value
        finally:
            steps.close()

    def _call(self, ask: Ask, ending: Ending | None) -> Any:
        seconds = remaining(ask.deadline)
        with self.metrics.call(ask.request.model_spec.name, ask.request.model_spec.signature_name):
            return self._transport.call(ask, seconds, ending)

    def _over_grpc(self, endpoint: Endpoint) -> Transport:
        return GrpcTransport(endpoint)
