"""Status codes and the one exception that carries them, shared by gRPC, REST and the version manager.

No gRPC or TensorFlow import here: names and numbers are the same in both (google.rpc.Code).
"""

from __future__ import annotations

import enum
from typing import Any


class Code(enum.IntEnum):
    """The canonical status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


HTTP_STATUS = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.UNAUTHENTICATED: 401,
}

# Methods of PredictionService for models that take tf.Example and have other signatures than these.
UNSUPPORTED = ("Classify", "Regress", "MultiInference")

# TensorFlow Serving cuts messages at this length, and says so.
MESSAGE_LIMIT = 1024


class ServingError(Exception):
    """An error with a status code, as a client will see it."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"

    @property
    def wire_message(self) -> str:
        """The message as sent over gRPC."""
        if len(self.message) > MESSAGE_LIMIT:
            return self.message[:MESSAGE_LIMIT] + "...TRUNCATED"
        return self.message


def invalid(message: str) -> ServingError:
    """Returns an INVALID_ARGUMENT error, by far the most frequent one."""
    return ServingError(Code.INVALID_ARGUMENT, message)


def deadline_exceeded() -> ServingError:
    """Returns the error of a call whose time is over, in TensorFlow Serving's words."""
    return ServingError(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")


def unsupported(method: str) -> ServingError:
    """Returns the refusal of a method that only TensorFlow Serving has."""
    return ServingError(Code.UNIMPLEMENTED, f"{method} is not implemented by the embedded server")


def from_exception(error: BaseException) -> ServingError:
    """Turns whatever was raised into an error with a code.

    Args:
        error: A ServingError, an OpError of TensorFlow (recognised by its `error_code`), or anything else.

    Returns:
        The error to answer with, always a new one: it has no traceback, whose frames would keep in memory what failed,
        such as a request with its images. Unknown kinds become INTERNAL.
    """
    if isinstance(error, ServingError):
        return ServingError(error.code, error.message)
    number: Any = getattr(error, "error_code", None)
    if isinstance(number, int):
        try:
            code = Code(number)
        except ValueError:
            code = Code.UNKNOWN
        return ServingError(code, str(getattr(error, "message", None) or error))
    if isinstance(error, MemoryError):
        return ServingError(Code.RESOURCE_EXHAUSTED, "out of memory")
    return ServingError(Code.INTERNAL, f"{type(error).__name__}: {error}")
