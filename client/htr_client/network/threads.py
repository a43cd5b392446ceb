"""Work in a thread of its own, for what may block for long whatever its caller has time for."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def begun(name: str, work: Callable[[], T]) -> "Future[T]":
    """Begins work in a thread that ends with the process.

    Args:
        name: Name of the thread.
        work: What to do.

    Returns:
        What the work returns or raises. Who stops waiting for it does not cancel it.
    """
    result: Future[T] = Future()
    result.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result.set_result(work())
        except Exception as error:
            result.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return result
