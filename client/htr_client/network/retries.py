"""How long, and at what distances, calls are tried again."""

import math
import random
import time
from collections.abc import Callable
from typing import Any

from htr_client.errors import HtrError, OutOfMemory, ServerBusy, TimedOut
from htr_client.steps import Ask, Steps, T

# gRPC takes a deadline some centuries ahead for one that has passed, and Python's locks refuse to wait so long.
_LONGEST = 365 * 24 * 3600.0
_ATTEMPTS = 5  # and about as far apart as those in the channel


class Outage:
    """How long calls have been failing, shared by the batches of one transcribe_many run.

    Attributes:
        batch_size: Images of the largest batch that the server has memory and time for, as far as is known.
    """

    def __init__(self, patience: float) -> None:
        self.batch_size = math.inf
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


def patiently(call: Callable[[], Steps[T]], outage: Outage, final: tuple[type[HtrError], ...] = ()) -> Steps[T]:
    """Carries out steps anew until they succeed, as long as their failures are bearable.

    Args:
        call: Makes the steps.
        outage: How long calls have been failing.
        final: Failures that are raised at once.

    Returns:
        What the steps return; raises the last failure.
    """
    for attempt in range(10**9):
        try:
            result = yield from call()
            outage.over()
            return result
        except HtrError as error:
            if isinstance(error, final) or not outage.bearable(error) or (yield pause(attempt)):
                raise
    raise AssertionError("unreachable")


def while_busy(ask: Ask) -> Steps[Any]:
    """Sends a request, and again while the server has no thread for it: it refuses such a call before it begins.

    Args:
        ask: The request, within whose deadline all attempts are.

    Returns:
        The answer; raises the last failure. One for which memory lacks is not repeated: it would lack again.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return (yield ask)
        except ServerBusy as error:
            wait = pause(2 * attempt)
            last = attempt + 1 == _ATTEMPTS or time.monotonic() + wait > ask.deadline
            if last or isinstance(error, OutOfMemory) or (yield wait):
                raise
    raise AssertionError("unreachable")


def pause(attempt: int) -> float:
    """Seconds to wait before another attempt: doubling up to two seconds, jittered so that clients spread out."""
    # Of a long patience there are more attempts than a float has powers of two.
    return random.uniform(0.5, 1.0) * min(2.0, 0.1 * 2 ** min(attempt, 10))


def remaining(deadline: float) -> float:
    """Seconds until a deadline; raises TimedOut when it has passed."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimedOut("The time for this call was used up.")
    return seconds


def bounded(timeout: float) -> float:
    """Seconds that gRPC and locks can wait for: at most a year.

    Args:
        timeout: Seconds; may be infinite.

    Raises:
        ValueError: When it is not a number.
    """
    if math.isnan(timeout):
        raise ValueError(f"timeout is a number of seconds, not {timeout}")
    return min(timeout, _LONGEST)
