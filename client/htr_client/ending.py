"""The end of a transcribe_many whose caller has gone: its threads stop waiting, and its calls are cancelled."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from typing import Any

import grpc


class Ending:
    """What the threads of one transcribe_many wait for, so that all of it can be ended at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], object]] = []
        self._ended: Future[None] = Future()

    def end(self) -> None:
        """Ends everything that waits here, and whatever comes to wait."""
        with self._lock:
            if not self._ended.done():
                self._ended.set_result(None)
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()

    def wait(self, seconds: float, other: "Future[None] | None" = None) -> bool:
        """Waits for so many seconds, or until something else is done; returns whether it is the end."""
        wait_for({self._ended, other or self._ended}, seconds, FIRST_COMPLETED)
        return self._ended.done()

    @contextmanager
    def on_end(self, callback: Callable[[], object]) -> Iterator[None]:
        """Has something called at the end while a block lasts, at once if the end has come.

        A transport calls a server within the block, and the callback ends that call, whatever it then raises.

        Args:
            callback: Ends what the block waits for. It returns soon, raises nothing, and may be called once more when
                the block has just been left.
        """
        with self._lock:
            self._callbacks.append(callback)
            ended = self._ended.done()
        try:
            if ended:
                callback()
            yield
        finally:
            with self._lock:
                self._callbacks.remove(callback)

    def result(self, call: grpc.Future) -> Any:
        """The result of a call to a server.

        Raises:
            grpc.FutureCancelledError: When it was cancelled by the end.
            grpc.RpcError: When it failed.
        """
        with self.on_end(call.cancel):
            return call.result()
