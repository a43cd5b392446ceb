"""What a method of either client does, as steps that the clients carry out in their own ways."""

from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from htr_client.answers import Headers

T = TypeVar("T")


class Ask(NamedTuple):
    """A request that is to be sent."""

    method: str
    request: Any
    answer: Any  # the class of the answer
    deadline: float
    headers: Headers


class Until(NamedTuple):
    """Something that another caller is doing, to be waited for until the deadline."""

    done: "Future[None]"
    deadline: float


# What a method of either client does, one thing after the other: it yields requests to send, seconds to wait, what to
# wait for and work that keeps the processor busy, receives the result of each, and returns its own. The clients differ
# in how they do it. They close the steps in the end, whatever happened.
Steps = Generator[Ask | Until | float | Callable[[], Any], Any, T]
