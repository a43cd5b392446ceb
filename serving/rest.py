"""TensorFlow Serving's REST API and metrics page, on the standard library's HTTP server.

POST /v1/models/NAME[/versions/N|/labels/L]:predict, GET /v1/models/NAME[/...], GET .../metadata, and the
Prometheus page. Plain HTTP, as the real one: TLS belongs into a proxy before it.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from serving import http_server
from serving.options import ServerOptions
from serving.rest_json import fill_predict_request, message_json, parse_json, prediction_json
from serving.service import Call, Service
from serving.status import HTTP_STATUS, Code, ServingError, from_exception, invalid, unsupported

_MODEL = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"
_PREDICT = re.compile(rf"(?i){_MODEL}:(classify|regress|predict)")
_STATUS = re.compile(r"(?i)/v1/models(?:/([^/:]+))?(?:/versions/(\d+)|/labels/([^/:]+))?(?:/(metadata))?")
_API = re.compile(r"(?i)/v1/.*")
_ENDED = "the server is shutting down"


class RestServer:
    """Serves REST and metrics on its own threads."""

    def __init__(self, service: Service, options: ServerOptions, metrics_path: str) -> None:
        self.service = service
        self.options = options
        self.metrics_path = metrics_path
        self._slots = threading.BoundedSemaphore(max(1, options.rest_api_num_threads))
        self._http: _HttpServer | None = None
        self._ended = False

    def start(self) -> int:
        """Binds and serves; returns the port.

        Raises:
            ServingError: The port is taken.
        """
        self._http = _HttpServer(self.options.host, self.options.rest_api_port, "rest_api_port", _Handler)
        self._http.rest = self
        self._http.start("rest")
        return int(self._http.server_address[1])

    def stop(self, grace: float) -> None:
        """Stops listening, lets running requests end within `grace` seconds, and refuses what comes then."""
        if self._http is not None:
            self._http.stop(grace)
        self._ended = True

    def handle(self, method: str, path: str, body: bytes) -> tuple[int, str, bytes]:
        """Answers one request.

        Args:
            method: The HTTP method.
            path: The path with its query, which no request has: it is taken for a part of the path.
            body: The body.

        Returns:
            HTTP status, content type and body.
        """
        if self.metrics_path and path == self.metrics_path:
            return 200, "text/plain", self.service.metrics.page().encode()
        if not _API.fullmatch(path):
            return 404, "text/html", b"<HTML><HEAD><TITLE>404 Not Found</TITLE></HEAD><BODY>Not Found</BODY></HTML>"
        if method == "OPTIONS" and self.options.rest_api_enable_cors_support:
            return 200, "application/json", b""
        try:
            if self._ended:  # and yet a connection that a client has kept
                raise ServingError(Code.UNAVAILABLE, _ENDED)
            answer = self._route(method, path, body)
            text = json.dumps(answer, indent=4 if len(body) < 4096 else None, ensure_ascii=False)
            return 200, "application/json", text.encode("utf-8", "surrogateescape")
        except Exception as error:
            # What is unloaded or cancelled meanwhile is not missing for good: the client may ask the next server.
            failure = ServingError(Code.UNAVAILABLE, _ENDED) if self._ended else from_exception(error)
            text = json.dumps({"error": failure.message}, ensure_ascii=False)
            return HTTP_STATUS.get(failure.code, 500), "application/json", text.encode("utf-8", "backslashreplace")

    def _route(self, method: str, path: str, body: bytes) -> Any:
        pattern = {"POST": _PREDICT, "GET": _STATUS}.get(method)
        match = pattern.fullmatch(path) if pattern is not None else None
        name = urllib.parse.unquote(match[1] or "") if match is not None else ""
        timeout = self.options.rest_api_timeout_in_ms
        call = Call.within(timeout / 1000 if timeout > 0 else None, "REST")
        api = match[4].lower() if match is not None and method == "POST" else ""
        if api not in ("predict", ""):
            raise unsupported(api)
        # As TensorFlow Serving does, which counts whatever comes over REST; what is no prediction has no API.
        with self.service.counted(name, api, call):
            if match is None:
                raise invalid(f"Malformed request: {method} {path}")
            if not name:
                raise invalid("Missing model name in request.")
            with self._slot(call):
                return self._call_service(match, name, api, body, call)

    def _call_service(self, match: re.Match[str], name: str, api: str, body: bytes, call: Call) -> Any:
        if api:
            return self._predict(name, match[2], match[3], body, call)
        if match[4]:
            request = self.service.request_types["GetModelMetadata"](metadata_field=["signature_def"])
            self._fill_spec(request.model_spec, name, match[2], match[3])
            return self._metadata_json(self.service.get_model_metadata(request, call))
        request = self.service.request_types["GetModelStatus"]()
        self._fill_spec(request.model_spec, name, match[2], match[3])
        return message_json(self.service.get_model_status(request, call), keep_names=False)

    @contextmanager
    def _slot(self, call: Call) -> Iterator[None]:
        """Takes one of the threads for as long as the work takes, after waiting until the call's deadline at most."""
        left = None if call.deadline is None else max(0.0, call.deadline - time.monotonic())
        if not self._slots.acquire(timeout=left):
            raise ServingError(Code.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
        try:
            yield
        finally:
            self._slots.release()

    @staticmethod
    def _fill_spec(spec: Any, name: str, version: str | None, label: str | None) -> None:
        spec.name = name
        if version:
            digits = version.lstrip("0") or "0"
            if len(digits) > 19 or int(digits) >= 1 << 63:  # Python refuses to convert thousands of digits
                raise invalid(f"Failed to convert version: {version} to numeric.")
            spec.version.value = int(digits)
        elif label:
            spec.version_label = urllib.parse.unquote(label)

    def _predict(self, name: str, version: str | None, label: str | None, body: bytes, call: Call) -> Any:
        request = self.service.request_types["Predict"]()
        self._fill_spec(request.model_spec, name, version, label)
        row_format = fill_predict_request(parse_json(body), request, self.service)
        return prediction_json(self.service.predict_arrays(request, call), row_format)

    def _metadata_json(self, response: Any) -> Any:
        from tensorflow_serving.apis import get_model_metadata_pb2

        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return {
            "model_spec": message_json(response.model_spec, keep_names=True),
            "metadata": {"signature_def": message_json(signatures, keep_names=True)},
        }


class _HttpServer(http_server.HttpServer):
    rest: RestServer


class _Handler(http_server.Handler):
    server: _HttpServer
    protocol_version = "HTTP/1.1"
    server_version = "embedded"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        """Answers a request; what the method means is decided where the path is."""
        limit = self.server.rest.options.max_request_bytes
        try:
            if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
                body = b"".join(self._chunks(limit))
            else:
                length = int(self.headers.get("Content-Length", "0"))
                if length < 0:
                    raise ValueError
                if length > limit:
                    self._discard([length])
                    raise OverflowError
                body = self._read(length)
        except OverflowError:
            self._refuse(413, f"Received message larger than max ({limit})")
            return
        except ValueError:
            self._refuse(400, "Malformed request: bad length")
            return
        except TimeoutError:
            self._refuse(408, "Timed out reading the request")
            return
        self._answer(body)

    do_GET = do_HEAD = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_POST

    def _read(self, length: int) -> bytes:
        parts = []
        while length:
            part = self.rfile.read1(min(length, 1 << 20))  # type: ignore[attr-defined]
            if not part:
                raise ValueError("the body ended early")
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def _discard(self, lengths: Iterable[int]) -> None:
        # A client that is still sending when the connection closes sees a broken pipe and not the answer.
        self.limit_reading(5)
        with suppress(TimeoutError, ValueError):
            for length in lengths:
                while length > 0 and (part := self.rfile.read1(min(length, 1 << 20))):  # type: ignore[attr-defined]
                    length -= len(part)

    def _chunks(self, limit: int) -> Iterator[bytes]:
        total, sizes = 0, self._sizes()
        for size in sizes:
            total += size
            if total > limit:
                self._discard(itertools.chain([size], sizes))
                raise OverflowError
            yield self._read(size)

    def _sizes(self) -> Iterator[int]:
        """Sizes of the chunks of a body; each chunk is to be read before the next size."""
        while size := int(self.rfile.readline(64).split(b";")[0].strip(), 16):
            if size < 0:
                raise ValueError("negative chunk")
            yield size
            self.rfile.readline(8)
        while self.rfile.readline(1024).strip():
            pass

    def _refuse(self, status: int, message: str) -> None:
        self.close_connection = True
        self._send(status, "application/json", json.dumps({"error": message}).encode())

    def _answer(self, body: bytes) -> None:
        path = self.requestline.split()[1]  # self.path has a leading // shortened
        status, kind, data = self.server.rest.handle(self.command, path, body)
        if self.server.draining:
            self.close_connection = True
        self._send(status, kind, data)

    def _send(self, status: int, kind: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        if self.server.rest.options.rest_api_enable_cors_support:
            self.send_header("Access-Control-Allow-Origin", "*")
            self.send_header("Access-Control-Allow-Methods", "POST, GET")
            self.send_header("Access-Control-Allow-Headers", "Content-Type")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
