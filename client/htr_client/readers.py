"""What a client knows of the versions that answered it: fetched once, by one caller, and kept by version."""

import threading
import time
from concurrent.futures import Future
from typing import NamedTuple

from htr_client.decoding import Alphabet, Decoder

# A reader holds a compiled language model. Of a rollout there are two versions, and a label may stay on a third one.
_KEPT = 3
# A server that was wiped counts its versions from 1 again. It cannot stop, start and load a model in less time, so
# between two answers that are closer together a version stays what it was.
TRUSTED_SECONDS = 2.0


class Reader(NamedTuple):
    """What turns the log-probabilities of a version into texts."""

    alphabet: Alphabet
    decoder: Decoder


class Readers:
    """The readers of the versions that answered last; safe to use from several threads.

    Whoever meets a version first makes its reader, which takes calls to the server and the time to compile a language
    model. Others wait for the end of that turn, and look again: where it failed the next one has a turn.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By version, since several servers may have different ones. The one that answered last is the last one.
        self._kept: dict[int, tuple[Reader, float]] = {}  # with the time of the last answer
        self._turns: dict[int, Future[None]] = {}

    def find(self, version: int, characters: int) -> Reader | Future[None] | None:
        """What to do with an answer.

        Args:
            version: Version that answered.
            characters: How many characters it writes.

        Returns:
            The reader; or what is done at the end of another caller's turn; or None: now it is the caller's turn to
            make a reader, which must call `end_turn`.
        """
        with self._lock:
            reader, answered_at = self._kept.get(version, (None, 0.0))
            now = time.monotonic()
            if reader is not None and len(reader.alphabet) == characters and now - answered_at < TRUSTED_SECONDS:
                self._put(version, reader, now)
                return reader
            if version in self._turns:
                return self._turns[version]
            self._turns[version] = Future()
            return None

    def of(self, version: int) -> Reader | None:
        """The reader that a version had when it answered before; its alphabet has to be compared."""
        with self._lock:
            return self._kept.get(version, (None, 0.0))[0]

    def keep(self, version: int, reader: Reader) -> None:
        """Keeps the reader of a version that has just answered."""
        with self._lock:
            self._put(version, reader, time.monotonic())

    def end_turn(self, version: int) -> None:
        """Lets the others go on."""
        with self._lock:
            self._turns.pop(version).set_result(None)

    def _put(self, version: int, reader: Reader, now: float) -> None:
        self._kept.pop(version, None)
        self._kept[version] = (reader, now)
        for oldest in list(self._kept)[:-_KEPT]:
            del self._kept[oldest]
