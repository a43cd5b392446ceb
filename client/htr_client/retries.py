"""How long, and at what distances, calls are tried again."""

import random
import time

from htr_client.errors import HtrError, TimedOut


class Outage:
    """How long calls of one transcribe_many run have been failing, shared by its batches."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._since: float | None = None

    def over(self) -> None:
        """A call got through."""
        self._since = None

    def bearable(self, error: HtrError) -> bool:
        """Whether to try again after this error."""
        if not error.retryable:
            return False
        since = self._since  # read once: meanwhile another thread's call may get through
        if since is None:
            self._since = since = time.monotonic()
        return time.monotonic() - since < self._patience


def pause(attempt: int) -> float:
    """Seconds to wait before another attempt: doubling up to two seconds, jittered so that clients spread out."""
    return random.uniform(0.5, 1.0) * min(2.0, 0.1 * 2**attempt)


def remaining(deadline: float) -> float:
    """Seconds until a deadline; raises TimedOut when it has passed."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimedOut("The time for this call was used up.")
    return seconds
