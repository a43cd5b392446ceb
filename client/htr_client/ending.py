"""The end of a transcribe_many whose caller has gone: its threads stop waiting, and its calls are cancelled."""

import threading
from concurrent.futures import FIRST_COMPLETED, Future
from concurrent.futures import wait as wait_for
from typing import Any

import grpc


class Ending:
    """What the threads of one transcribe_many wait for, so that all of it can be ended at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: set[grpc.Future] = set()
        self._ended: Future[None] = Future()

    def end(self) -> None:
        """Ends everything that waits here, and whatever comes to wait."""
        with self._lock:
            if not self._ended.done():
                self._ended.set_result(None)
            calls = list(self._calls)
        for call in calls:
            call.cancel()

    def wait(self, seconds: float, other: "Future[None] | None" = None) -> bool:
        """Waits for so many seconds, or until something else is done; returns whether it is the end."""
        wait_for({self._ended, other or self._ended}, seconds, FIRST_COMPLETED)
        return self._ended.done()

    def result(self, call: grpc.Future) -> Any:
        """The result of a call to a server.

        Raises:
            grpc.FutureCancelledError: When it was cancelled by the end.
            grpc.RpcError: When it failed.
        """
        with self._lock:
            self._calls.add(call)
            ended = self._ended.done()
        try:
            if ended:
                call.cancel()
            return call.result()
        finally:
            with self._lock:
                self._calls.discard(call)
