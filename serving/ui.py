"""A page to try the model: draw or drop an image, see text, confidence and where the model saw each character.

What a person corrects becomes a CSV of labels in the browser, as ExampleGen takes it. Where the model server has a line
finder, the image may be a page: its lines are shown on it, and corrected ones are handed out as PAGE XML, as
`htr import` takes it. Nothing is stored here.

A standard-library HTTP server for one person on one machine. It asks the model server through `htr_client`, as any
service would.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from htr_client import HtrClient, HtrError, ImageError, image_files, kinds, pages
from htr_client.errors import ModelNotFound
from htr_client.headers import inspect
from htr_client.model_facts import LINE_FINDER
from htr_client.pages.reading import is_page
from serving import http_server

MAX_BYTES = image_files.MAX_BYTES
_MAX_READING = 8
_TIMEOUT_SECONDS = 30
_STATUS_SECONDS = 5
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


class UiServer:
    """Serves the page on a thread of its own."""

    def __init__(self, target: str, model: str, host: str, port: int) -> None:
        """Binds; nothing is served yet.

        Args:
            target: `host:port` of the model server.
            model: Name of the served model.
            host: Address to bind.
            port: Port to bind; 0 picks a free one.

        Raises:
            ServingError: The port is taken.
        """
        # Who looks at the page is told at once that the server is away.
        self._client = HtrClient(target, model, timeout=_TIMEOUT_SECONDS, patience=0)
        self._line_finder = HtrClient(target, LINE_FINDER)
        page = Path(__file__).with_name("ui.html").read_bytes()
        policy = _content_security_policy(page)
        reading = threading.BoundedSemaphore(_MAX_READING)
        clients = {"client": self._client, "line_finder": self._line_finder}
        settings = {**clients, "page": page, "policy": policy, "reading": reading}
        handler = type("Handler", (_Handler,), {**settings, "local": host in ("localhost", "127.0.0.1", "::1")})
        self._server = http_server.HttpServer(host, port, "ui_port", handler)
        shown = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        self.address = f"{shown}:{self._server.server_port}"

    def start(self) -> None:
        """Serves until `stop`."""
        self._server.start("ui")

    def stop(self, grace: float = 0.0) -> None:
        """Ends.

        Args:
            grace: Seconds that requests under way get before they are cut off.
        """
        self._server.stop(grace)
        self._client.close()
        self._line_finder.close()


def _content_security_policy(page: bytes) -> str:
    """Allows the page's own script and style, images that it made, and requests to this server; nothing else."""

    def allowed(tag: str) -> str:
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>".encode(), page, re.DOTALL)
        return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"

    return (
        f"default-src 'none'; script-src {allowed('script')}; style-src {allowed('style')}; img-src blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _confirmed(page: pages.Page) -> pages.Page:
    """The page without confidences: what a person has confirmed or typed is no longer a model's."""
    lines = []
    for line in page.lines:
        words = tuple(dataclasses.replace(word, confidence=None) for word in line.words)
        lines.append(dataclasses.replace(line, confidence=None, words=words))
    return dataclasses.replace(page, lines=tuple(lines))


class _Refused(Exception):
    """A request that is answered with an error.

    Attributes:
        status: Status code of HTTP.
    """

    def __init__(self, status: HTTPStatus, message: str):
        super().__init__(message)
        self.status = status


class _Handler(http_server.Handler):
    client: HtrClient
    line_finder: HtrClient
    page: bytes
    policy: str
    reading: threading.BoundedSemaphore
    local: bool
    timeout = _TIMEOUT_SECONDS
    server_version = "htr-ui"

    def do_GET(self) -> None:
        """Sends the page, or what it says of the model."""
        path = self.path.split("?")[0]
        if not self._is_host_good():
            self._send_json(HTTPStatus.FORBIDDEN, {"error": "This page is for this machine only."})
        elif path == "/":
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", self.page)
        elif path == "/model":
            self._answer(self._describe_model)
        else:
            self._send_json(HTTPStatus.NOT_FOUND, {"error": "There is only one page: /"})

    def do_POST(self) -> None:
        """Transcribes the image in the body, or writes the page in it as PAGE XML."""
        self._answer(self._write_page if self.path == "/page-xml" else self._transcribe)

    def _answer(self, find: Callable[[], dict[str, Any]]) -> None:
        try:
            answer = find()
        except _Refused as refused:
            self.close_connection = True  # what is left of the body is not read
            self._send_json(refused.status, {"error": str(refused)})
        except ImageError as error:
            self._send_json(HTTPStatus.UNPROCESSABLE_ENTITY, {"error": str(error)})
        except HtrError as error:
            status = HTTPStatus.SERVICE_UNAVAILABLE if error.retryable else HTTPStatus.BAD_GATEWAY
            self._send_json(status, {"error": str(error)})
        else:
            self._send_json(HTTPStatus.OK, answer)

    def _is_host_good(self) -> bool:
        """Whether the browser was sent here by this machine's name, not by a foreign one that points to it."""
        return not self.local or re.sub(r":\d+$", "", self.headers.get("Host", "")) in _LOOPBACK

    def _image(self) -> bytes:
        if self.path != "/transcribe":
            raise _Refused(HTTPStatus.NOT_FOUND, "Images go to /transcribe.")
        kind = self.headers.get("Content-Type", "")
        if not kind.startswith("image/") and kind != "application/octet-stream":
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Send the image as the body, as image/png or the like.")
        return self._body()

    def _body(self) -> bytes:
        """The body, of a type that a page from elsewhere cannot send without asking first, and is refused then."""
        if not self._is_host_good():
            raise _Refused(HTTPStatus.FORBIDDEN, "This page is for this machine only.")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "The request needs a Content-Length.")
        if int(length) > MAX_BYTES:
            raise _Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"The image has {int(length) / 2**20:.0f} MiB; {MAX_BYTES >> 20} MiB is the limit here.",
            )
        return self.rfile.read(int(length))

    def _describe_model(self) -> dict[str, Any]:
        found = self.client.model_status(timeout=_STATUS_SECONDS)
        ready = [status.version for status in found if status.state == "AVAILABLE"]
        return {"model": self.client.model, "version": max(ready, default=None), "pages": self._finds_lines()}

    def _finds_lines(self) -> bool:
        try:
            found = self.line_finder.model_status(timeout=_STATUS_SECONDS)
        except ModelNotFound:
            return False
        return any(status.state == "AVAILABLE" for status in found)

    def _write_page(self) -> dict[str, Any]:
        if self.headers.get("Content-Type") != "application/json":
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Send the page as application/json.")
        try:
            page = pages.from_json(self._body().decode("utf-8", "replace"))
            return {"xml": pages.write(_confirmed(page), "page")}
        except (ValueError, TypeError) as error:  # a PageError, or values of other types deep within
            raise _Refused(HTTPStatus.UNPROCESSABLE_ENTITY, f"This is no page: {error}") from None

    def _transcribe(self) -> dict[str, Any]:
        image = self._image()
        if not self.reading.acquire(timeout=_TIMEOUT_SECONDS):
            raise _Refused(HTTPStatus.SERVICE_UNAVAILABLE, "Too many images are being transcribed. Try again.")
        started = time.perf_counter()
        try:
            page = kinds.page_of(self.client, image)
            if page is not None and is_page(page):
                return {"page": dataclasses.asdict(page), "milliseconds": 1000 * (time.perf_counter() - started)}
            result = self.client.transcribe(image)
        finally:
            self.reading.release()
        characters = [
            {"text": text, "confidence": confidence, "span": list(span)} for text, confidence, span in result.characters
        ]
        size = inspect(image)
        return {
            "text": result.text, "confidence": result.confidence, "characters": characters,
            "width": size.width, "height": size.height, "model": result.model, "version": result.version,
            "milliseconds": 1000 * sum(result.timings),
            "suspicions": [suspicion.message for suspicion in kinds.of_one_line(result, page)],
        }  # fmt: skip

    def _send_json(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(content, ensure_ascii=False).encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind), ("Content-Length", str(len(body))), ("Content-Security-Policy", self.policy),
            ("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer"), ("Cache-Control", "no-store"),
        ):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
