"""What a method of either client does, as steps that the clients carry out in their own ways."""

from collections.abc import Callable, Generator
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


# What a method of either client does, one thing after the other: it yields requests to send, seconds to wait and work
# that keeps the processor busy, receives the result of each, and returns its own. The clients differ in how they do it.
Steps = Generator[Ask | float | Callable[[], Any], Any, T]
