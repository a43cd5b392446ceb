"""What the HTTP servers here share, REST and the page: address, connections, time limits, errors, draining.

On the standard library's server, with a thread for each connection.
"""

from __future__ import annotations

import io
import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from serving import ports

_MAX_CONNECTIONS = 256
_POLL_SECONDS = 0.1

logger = logging.getLogger("serving")


class HttpServer(ThreadingHTTPServer):
    """Serves on threads of its own."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, flag: str, handler: type[Handler]) -> None:
        """Binds; nothing is served yet.

        Args:
            host: Address to bind.
            port: Port to bind; 0 and less pick a free one.
            flag: Name of the flag that chose the port.
            handler: Class that answers requests.

        Raises:
            ServingError: The port is taken.
        """
        if ":" in host:
            self.address_family = socket.AF_INET6
        self._connections = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        self._thread: threading.Thread | None = None
        self._active = 0
        self._idle = threading.Condition()
        self.draining = False
        try:
            super().__init__((host, max(0, port)), handler)
        except OSError as error:
            raise ports.cannot_listen(host, port, flag, error) from error

    def start(self, name: str) -> None:
        """Serves until `stop`.

        Args:
            name: Name of the thread that takes connections.
        """
        self._thread = threading.Thread(target=self.serve_forever, args=(_POLL_SECONDS,), name=name, daemon=True)
        self._thread.start()

    def stop(self, grace: float = 0.0) -> None:
        """Stops listening and lets requests under way end.

        Args:
            grace: Seconds that they get, from their first byte to the last of their answer.
        """
        self.draining = True
        if self._thread is not None:
            self.shutdown()
        self.server_close()
        with self._idle:
            self._idle.wait_for(lambda: not self._active, grace)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Has `stop` wait for what is done in it."""
        with self._idle:
            self._active += 1
        try:
            yield
        finally:
            with self._idle:
                self._active -= 1
                self._idle.notify_all()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Starts a thread for a connection, unless there are too many: each one costs a thread."""
        if not self._connections.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except Exception:  # no thread can be started now; the place is free for when one can
            self._connections.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serves a connection until it ends."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs what went wrong; a client that goes away or stands still is no news."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            logger.exception("The HTTP server could not answer %s", client_address)


class _TimedReader(io.RawIOBase):
    """What arrives on a connection until a moment; the socket's own timeout starts anew with each byte."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.until = 0.0

    def readable(self) -> bool:
        """Whether one can read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Reads what is there.

        Raises:
            TimeoutError: The moment has passed.
        """
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        lasting = self._connection.gettimeout()
        self._connection.settimeout(left)
        try:
            return self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(lasting)  # writing has this one


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    server: HttpServer
    # Seconds for each of these: the wait for a request, its head, its body, each write of the answer.
    timeout = 30.0
    sys_version = ""

    def setup(self) -> None:
        """Makes what reads and writes."""
        super().setup()
        self.rfile.close()
        self._reader = _TimedReader(self.connection)
        self.rfile = io.BufferedReader(self._reader)

    def limit_reading(self, seconds: float | None = None) -> None:
        """Lets all that is read from now on take this long together, as long as `timeout` if not given."""
        self._reader.until = time.monotonic() + (self.timeout if seconds is None else seconds)

    def handle_one_request(self) -> None:
        """Waits for a request and answers it."""
        self.limit_reading()
        try:
            if not self.rfile.peek(1):  # type: ignore[attr-defined]
                self.close_connection = True
                return
        except TimeoutError:
            self.close_connection = True
            return
        self.limit_reading()
        with self.server.request():
            super().handle_one_request()

    def parse_request(self) -> bool:
        """Reads the head; what is read after it is the body."""
        good = super().parse_request()
        self.limit_reading()
        return good

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps requests out of the terminal."""
        logger.debug("http: " + format, *args)
