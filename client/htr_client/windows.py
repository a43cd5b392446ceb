"""The order of one transcribe_many between its source and its results; no input or output."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Generic, NamedTuple, TypeVar, Union

from htr_client.image_files import Image, PackedImage
from htr_client.results import Transcription
from htr_client.suspicion import Look

_AT_A_TIME = 2  # windows: one whose results are awaited, and one that keeps the server busy meanwhile


Later = list[Callable[[], None]]
"""What counts and logs a result, where it is not known yet whether that becomes an answer."""


def now_or_later(count: Callable[[], None], later: Later | None) -> None:
    """Counts a result, or keeps what counts it."""
    if later is None:
        count()
    else:
        later.append(count)


class Given(NamedTuple):
    """An image that is to be transcribed, with what is known of it."""

    image: Image
    source: str | None
    later: Later | None = None


class Sent(NamedTuple):
    """An image on its way: what goes to the server and what its result will need."""

    image: PackedImage
    look: Look
    source: str | None
    seconds: float
    later: Later | None = None


CallT = TypeVar("CallT", bound=Union["Future[list[Transcription]]", "asyncio.Future[list[Transcription]]"])
Entry = Sent | Transcription | BaseException


class Windows(Generic[CallT]):
    """Images that were read together, and the requests that they went into.

    Results come in the order of the images. An error takes the place of the image at which it happened, so it is raised
    after the results of the images before.

    Attributes:
        ended: Whether nothing more is to be read, since the source failed.
    """

    def __init__(self, send: Callable[[list[Sent]], CallT], most_bytes: int) -> None:
        """Begins with no window.

        Args:
            send: Starts the request of a batch.
            most_bytes: Bytes of the images of one request, unless a single one has more.
        """
        self.ended = False
        self._send = send
        self._most_bytes = most_bytes
        self._under_way: deque[tuple[list[Entry], list[tuple[list[int], CallT]]]] = deque()

    def __len__(self) -> int:
        """How many windows are under way."""
        return len(self._under_way)

    @property
    def full(self) -> bool:
        """Whether the oldest window has to end before another one begins."""
        return len(self) >= _AT_A_TIME

    def add(self, read: Sequence[Entry], batch_size: int) -> None:
        """Sends the next window.

        Args:
            read: What was made of each image. The first error, such as one of the source, ends it.
            batch_size: Most images of one request.
        """
        window: list[Entry] = []
        for entry in read:
            window.append(entry)
            if isinstance(entry, BaseException):
                self.ended = True
                break
        calls: list[tuple[list[int], CallT]] = []
        self._under_way.append((window, calls))
        for positions in _batches(window, batch_size, self._most_bytes):
            batch = [sent for i in positions if isinstance(sent := window[i], Sent)]
            calls.append((positions, self._send(batch)))

    def awaited(self) -> list[CallT]:
        """The requests of the oldest window; `results` needs all of them, or one that has failed."""
        return [call for _, call in self._under_way[0][1]]

    def results(self) -> Iterator[Transcription]:
        """The results of the oldest window, in order.

        Raises:
            Exception: What a request failed with, or the source, after the results that stand before.
        """
        window, calls = self._under_way[0]
        failure = next((error for _, call in calls if call.done() and (error := call.exception())), None)
        for positions, call in calls:
            if call.done() and call.exception() is None:
                for i, result in zip(positions, call.result(), strict=True):
                    window[i] = result
            elif failure is not None:
                for i in positions:
                    window[i] = failure
        for entry in window:
            if isinstance(entry, BaseException):
                raise entry
            assert isinstance(entry, Transcription)
            yield entry
        self._under_way.popleft()

    def unfinished(self) -> list[CallT]:
        """The requests of all windows that have not given their results."""
        return [call for _, calls in self._under_way for _, call in calls]


def _batches(window: Sequence[Entry], batch_size: int, most_bytes: int) -> list[list[int]]:
    """Positions of the good images of a window, grouped into requests.

    Images of similar shape go together, since the server pads a batch to its widest image.
    """
    shapes = [(sent.image.width / sent.image.height, i) for i, sent in enumerate(window) if isinstance(sent, Sent)]
    batches: list[list[int]] = []
    room = 0
    for _, i in sorted(shapes):
        sent = window[i]
        assert isinstance(sent, Sent)
        size = len(sent.image.data)
        if not batches or len(batches[-1]) >= batch_size or size > room:
            batches.append([])
            room = most_bytes
        batches[-1].append(i)
        room -= size
    return batches
