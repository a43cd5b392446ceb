"""What a client knows of the versions that answered it: fetched once, by one caller, and kept by version."""

import threading
import time
from concurrent.futures import Future
from typing import NamedTuple

from htr_client.decoding import Alphabet, Decoder
from htr_client.errors import ModelNotFound

# Each holds a compiled language model. Of a rollout there are two versions, and a label may stay on a third one.
_KEPT = 3
# A server that was wiped counts its versions from 1 again. It cannot stop, start and load a model in less time, so
# between two answers that are closer together a version stays what it was.
TRUSTED_SECONDS = 2.0


class KnownVersion(NamedTuple):
    """What turns the log-probabilities of a version into texts."""

    alphabet: Alphabet
    decoder: Decoder


class KnownVersions:
    """The versions that answered last; safe to use from several threads.

    Whoever meets a version first learns it, which takes calls to the server and the time to compile a language
    model. Others wait for the end of that turn, and look again: where it failed the next one has a turn.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By version, since several servers may have different ones. The one that answered last is the last one.
        self._kept: dict[int, tuple[KnownVersion, float]] = {}  # with the time of the last answer
        self._turns: dict[int, Future[None]] = {}

    def find(self, version: int, characters: int) -> KnownVersion | Future[None] | None:
        """What to do with an answer.

        Args:
            version: Version that answered.
            characters: How many characters it writes.

        Returns:
            The version; or what is done at the end of another caller's turn; or None: now it is the caller's turn to
            learn it, which must call `end_turn`.
        """
        with self._lock:
            known, answered_at = self._kept.get(version, (None, 0.0))
            now = time.monotonic()
            if known is not None and len(known.alphabet) == characters and now - answered_at < TRUSTED_SECONDS:
                self._put(version, known, now)
                return known
            if version in self._turns:
                return self._turns[version]
            self._turns[version] = Future()
            return None

    def of(self, version: int) -> KnownVersion | None:
        """The version as it was when it answered before; its alphabet has to be compared."""
        with self._lock:
            return self._kept.get(version, (None, 0.0))[0]

    def keep(self, version: int, known: KnownVersion) -> None:
        """Keeps a version that has just answered."""
        with self._lock:
            self._put(version, known, time.monotonic())

    def end_turn(self, version: int) -> None:
        """Lets the others go on."""
        with self._lock:
            self._turns.pop(version).set_result(None)

    def _put(self, version: int, known: KnownVersion, now: float) -> None:
        self._kept.pop(version, None)
        self._kept[version] = (known, now)
        for oldest in list(self._kept)[:-_KEPT]:
            del self._kept[oldest]


def half_deployed(error: ModelNotFound, version: int) -> ModelNotFound:
    """The error of a version that has answered, and which no server knew when it was asked for its alphabet.

    Args:
        error: Failure of that question.
        version: The version.
    """
    advice = (
        f"Version {version} has just answered: where there are several servers, only some of them may have it (yet). "
        "Try again, and compare what `htr versions --server HOST:PORT` says of each."
    )
    return ModelNotFound(error.what, advice=advice, code=error.code, retryable=True)
