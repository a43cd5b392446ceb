"""TensorFlow Serving's REST API and metrics page, on the standard library's HTTP server.

POST /v1/models/NAME[/versions/N|/labels/L]:predict, GET /v1/models/NAME[/...], GET .../metadata, and the
Prometheus page. Plain HTTP, as the real one: TLS belongs into a proxy before it.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np

from serving import ports, tensors
from serving.service import Call, Prediction, Service
from serving.status import HTTP_STATUS, Code, ServingError, from_exception, invalid, unsupported

if TYPE_CHECKING:
    from serving.server import ServerOptions

_MODEL = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"
_PREDICT = re.compile(rf"(?i){_MODEL}:(classify|regress|predict)")
_STATUS = re.compile(r"(?i)/v1/models(?:/([^/:]+))?(?:/versions/(\d+)|/labels/([^/:]+))?(?:/(metadata))?")
_API = re.compile(r"(?i)/v1/.*")
_SURROGATE = re.compile(r"(?i)\\ud[89a-f]")
_DEBUG_BYTES = 256
_MAX_CONNECTIONS = 256
_INTEGERS = {3, 4, 5, 6, 9, 17, 22, 23}


# -- JSON to tensors -----------------------------------------------------------------------------------------


def _debug(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text[:_DEBUG_BYTES]


def _json_type(value: Any) -> str:
    kinds: list[tuple[type, str]] = [(bool, str(value)), (dict, "Object"), (list, "Array"), (str, "String")]
    if value is None:
        return "Null"
    return next((name for kind, name in kinds if isinstance(value, kind)), "Number")


def _type_error(value: Any, dtype: int) -> ServingError:
    return invalid(
        f"JSON Value: {_debug(value)} Type: {_json_type(value)} is not of expected type: {tensors.dtype_name(dtype)}"
    )


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _decode_base64(value: Any) -> bytes:
    if not _is_base64(value):
        raise invalid(f"JSON Value: {_debug(value)} not formatted correctly for base64 data")
    text = value["b64"]
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid("Unable to base64 decode") from error


def _shape(value: Any) -> list[int]:
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return shape


def _scalar(value: Any, dtype: int) -> Any:
    if isinstance(value, dict):
        if dtype != tensors.DT_STRING:
            raise _type_error(value, dtype)
        return _decode_base64(value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if dtype in (1, 2) and number:
        return float(value)
    if dtype in _INTEGERS and number and isinstance(value, int):
        return value
    if dtype == tensors.DT_STRING and isinstance(value, str):
        return value.encode()
    if dtype == 10 and isinstance(value, bool):
        return value
    raise _type_error(value, dtype)


def _flatten(value: Any, shape: list[int], level: int, dtype: int, out: list[Any]) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(
                f"JSON Value: {_debug(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        out.append(_scalar(value, dtype))
        return
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for item in value:
        _flatten(item, shape, level + 1, dtype, out)


def _fill_proto(proto: Any, values: list[Any], shape: list[int], dtype: int) -> None:
    proto.dtype = dtype
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    if dtype not in tensors._TYPES:
        raise ServingError(Code.UNIMPLEMENTED, f"Conversion of JSON Value to type: {tensors.dtype_name(dtype)}")
    try:
        getattr(proto, tensors._TYPES[dtype][1]).extend(values)
    except (ValueError, TypeError, OverflowError) as error:
        raise _type_error(values[:1], dtype) from error


def parse_json(body: bytes) -> dict[str, Any]:
    """Parse a request body.

    Raises:
        ServingError: It is no JSON object.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        text = body.decode("utf-8")
        document = json.loads(text)
        if _SURROGATE.search(text):
            json.dumps(document, ensure_ascii=False).encode()  # half of a pair is no character
    except (ValueError, RecursionError) as error:
        position = getattr(error, "pos", 0)
        raise invalid(f"JSON Parse error: {getattr(error, 'msg', 'Invalid value')} at offset: {position}") from error
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {_debug(document)} Is not object")
    return document


def fill_predict_request(document: dict[str, Any], request: Any, service: Service) -> bool:
    """Turn the JSON of a predict call into a PredictRequest.

    Args:
        document: The parsed body.
        request: A PredictRequest with name and version set; inputs are added.
        service: Knows the signature's inputs.

    Returns:
        Whether the request was in row format ("instances"), which the answer follows.

    Raises:
        ServingError: The JSON does not fit the signature.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {_debug(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    request.model_spec.signature_name = name
    types = service.input_types(request.model_spec, name)
    if not types:
        raise invalid(f"Failed to get input map for signature: {name or 'DEFAULT'}")
    if "instances" in document and "inputs" in document:
        raise invalid(
            f"JSON Value: {_debug(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' "
            "keys to exist "
        )
    if "instances" in document:
        instances = document["instances"]
        if not isinstance(instances, list):
            raise invalid(f"JSON Value: {_debug(document)} Expecting 'instances' to be an list/array")
        if not instances:
            raise invalid(f"JSON Value: {_debug(document)} No values in 'instances' array")
        _fill_rows(instances, types, request)
        return True
    if "inputs" in document:
        _fill_columns(document["inputs"], types, request)
        return False
    raise invalid("Missing 'inputs' or 'instances' key")


def _fill_rows(instances: list[Any], types: Mapping[str, int], request: Any) -> None:
    def is_object(value: Any) -> bool:
        return isinstance(value, dict) and not _is_base64(value)

    objects = is_object(instances[0])
    if not isinstance(instances[0], dict) and len(types) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    only = next(iter(types))
    values: dict[str, list[Any]] = {name: [] for name in types}
    shapes: dict[str, list[int]] = {}

    def add(name: str, item: Any) -> None:
        if name not in types:
            raise invalid(f"JSON object: does not have named input: {name}")
        shape = _shape(item)
        before = len(values[name])
        _flatten(item, shape, 0, types[name], values[name])
        first = shapes.setdefault(name, shape)
        size = len(values[name]) - before
        if int(np.prod(first)) != size:
            raise invalid(f"Expecting tensor size: {int(np.prod(first))} but got: {size}")
        if first != shape:
            raise invalid(f"Expecting shape {_shape_text(first)} but got: {_shape_text(shape)}")

    for index, item in enumerate(instances):
        if objects != is_object(item):
            if objects:
                raise invalid(f"Expecting object but got list at item {index} of input list")
            raise invalid(f"Expecting value/list but got object at item {index} of input list")
        for name, value in item.items() if objects else [(only, item)]:
            try:
                add(name, value)
            except ServingError as error:
                key = f" key: {name}" if objects else ""
                raise invalid(f"Failed to process element: {index}{key} of 'instances' list. Error: {error}") from error
        if objects and set(item) != set(types):
            raise invalid(
                f"Failed to process element: {index} of 'instances' list. JSON object: {_debug(item)} keys must be "
                f"equal to: {','.join(sorted(types))}"
            )
    for name, flat in values.items():
        _fill_proto(request.inputs[name], flat, [len(instances), *shapes[name]], types[name])


def _shape_text(shape: list[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _fill_columns(value: Any, types: Mapping[str, int], request: Any) -> None:
    if not isinstance(value, dict) or _is_base64(value):
        if len(types) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        value = {next(iter(types)): value}
    for name, dtype in types.items():
        if name not in value:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
        shape = _shape(value[name])
        flat: list[Any] = []
        _flatten(value[name], shape, 0, dtype, flat)
        _fill_proto(request.inputs[name], flat, shape, dtype)


# -- tensors to JSON -----------------------------------------------------------------------------------------


def _to_json(name: str, array: np.ndarray) -> Any:
    if array.dtype.kind in "OSU":
        flat = [value if isinstance(value, bytes) else str(value).encode() for value in array.ravel().tolist()]
        if name.endswith("_bytes"):
            items: list[Any] = [{"b64": base64.b64encode(value).decode()} for value in flat]
        else:
            items = [value.decode("utf-8", "surrogateescape") for value in flat]
        boxed = np.empty(len(items), dtype=object)
        boxed[:] = items
        return boxed.reshape(array.shape).tolist()
    if array.dtype == np.float32:
        # The shortest text that gives the same float32 back; a plain conversion adds noise digits.
        return np.array(list(map(float, array.ravel().astype("U32"))), dtype=object).reshape(array.shape).tolist()
    return array.tolist()


def prediction_json(result: Prediction, row_format: bool) -> dict[str, Any]:
    """Return the answer to a predict call.

    Args:
        result: The outputs.
        row_format: One entry per row ("predictions") instead of one per output ("outputs").

    Raises:
        ServingError: The outputs have no common first dimension.
    """
    columns = {name: _to_json(name, array) for name, array in result.outputs.items()}
    if not row_format:
        return {"outputs": columns if len(columns) > 1 else next(iter(columns.values()))}
    batch = -1
    for name, array in result.outputs.items():
        if not array.ndim:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if batch not in (-1, len(array)):
            raise invalid(f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {batch}")
        batch = len(array)
    if len(columns) == 1:
        return {"predictions": next(iter(columns.values()))}
    return {"predictions": [{name: column[row] for name, column in columns.items()} for row in range(batch)]}


def _message_json(message: Any, keep_names: bool) -> Any:
    from google.protobuf import json_format

    to_json: Any = json_format.MessageToJson
    try:
        text = to_json(message, preserving_proto_field_name=keep_names, including_default_value_fields=True)
    except TypeError:  # protobuf 5 renamed it
        text = to_json(message, preserving_proto_field_name=keep_names, always_print_fields_with_no_presence=True)
    return json.loads(text)


# -- HTTP ----------------------------------------------------------------------------------------------------


class RestServer:
    """Serves REST and metrics on its own threads."""

    def __init__(self, service: Service, options: ServerOptions, metrics_path: str) -> None:
        self.service = service
        self.options = options
        self.metrics_path = metrics_path
        self.draining = False
        self._slots = threading.BoundedSemaphore(max(1, options.rest_api_num_threads))
        self._active = 0
        self._idle = threading.Condition()
        self._http: _HttpServer | None = None

    def start(self) -> int:
        """Bind and serve; returns the port.

        Raises:
            ServingError: The port is taken.
        """
        try:
            self._http = _HttpServer((self.options.host, max(0, self.options.rest_api_port)), self)
        except OSError as error:
            port = self.options.rest_api_port
            raise ports.cannot_listen(self.options.host, port, "rest_api_port", error) from error
        threading.Thread(target=self._http.serve_forever, args=(0.1,), name="rest", daemon=True).start()
        return int(self._http.server_address[1])

    def stop(self, grace: float) -> None:
        """Stop listening and let running requests end within `grace` seconds."""
        self.draining = True
        if self._http is None:
            return
        self._http.shutdown()
        self._http.server_close()
        until = time.monotonic() + grace
        with self._idle:
            while self._active and time.monotonic() < until:
                self._idle.wait(max(0.0, until - time.monotonic()))

    def handle(self, method: str, path: str, body: bytes) -> tuple[int, str, bytes]:
        """Answer one request.

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
        with self._idle:
            self._active += 1
        try:
            if not self._slots.acquire(timeout=self.options.rest_api_timeout_in_ms / 1000):
                raise ServingError(Code.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
            try:
                answer = self._route(method, path, body)
            finally:
                self._slots.release()
            text = json.dumps(answer, indent=4 if len(body) < 4096 else None, ensure_ascii=False)
            return 200, "application/json", text.encode("utf-8", "surrogateescape")
        except Exception as error:
            failure = from_exception(error)
            text = json.dumps({"error": failure.message}, ensure_ascii=False)
            return HTTP_STATUS.get(failure.code, 500), "application/json", text.encode("utf-8", "backslashreplace")
        finally:
            with self._idle:
                self._active -= 1
                self._idle.notify_all()

    def _route(self, method: str, path: str, body: bytes) -> Any:
        pattern = {"POST": _PREDICT, "GET": _STATUS}.get(method)
        match = pattern.fullmatch(path) if pattern is not None else None
        if match is None:
            raise invalid(f"Malformed request: {method} {path}")
        name = urllib.parse.unquote(match[1] or "")
        timeout = self.options.rest_api_timeout_in_ms
        call = Call.within(timeout / 1000 if timeout > 0 else None, "REST")
        if method == "POST":
            api = match[4].lower()
            if api != "predict":
                raise unsupported(api)
            with self.service.counted(name, api, call):
                return self._predict(name, match[2], match[3], body, call)
        if not name:
            raise invalid("Missing model name in request.")
        if match[4]:
            request = self.service.request_types["GetModelMetadata"](metadata_field=["signature_def"])
            self._fill_spec(request.model_spec, name, match[2], match[3])
            return self._metadata_json(self.service.get_model_metadata(request, call))
        request = self.service.request_types["GetModelStatus"]()
        self._fill_spec(request.model_spec, name, match[2], match[3])
        return _message_json(self.service.get_model_status(request, call), keep_names=False)

    @staticmethod
    def _fill_spec(spec: Any, name: str, version: str | None, label: str | None) -> None:
        spec.name = name
        if version:
            if int(version) >= 1 << 63:
                raise invalid(f"Failed to convert version: {version} to numeric.")
            spec.version.value = int(version)
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
            "model_spec": _message_json(response.model_spec, keep_names=True),
            "metadata": {"signature_def": _message_json(signatures, keep_names=True)},
        }


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], rest: RestServer) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self.rest = rest
        self._connections = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, unless there are too many: each one costs a thread."""
        if not self._connections.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection until it ends."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _HttpServer
    protocol_version = "HTTP/1.1"
    server_version = "embedded"
    sys_version = ""
    timeout = 30  # a client that sends nothing, or one byte now and then, holds a thread this long
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing about each request."""

    def do_POST(self) -> None:
        """Answer a request; what the method means is decided where the path is."""
        limit = self.server.rest.options.max_request_bytes
        try:
            if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
                body = b"".join(self._chunks(limit))
            else:
                length = int(self.headers.get("Content-Length", "0"))
                if length < 0:
                    raise ValueError
                if length > limit:
                    self._discard(length)
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
        # One deadline for the whole body: the socket's timeout starts anew with each byte.
        until = time.monotonic() + self.timeout
        parts = []
        while length:
            part = self.rfile.read1(min(length, 1 << 20))  # type: ignore[attr-defined]
            if not part:
                raise ValueError("the body ended early")
            if time.monotonic() > until:
                raise TimeoutError
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def _discard(self, length: int) -> None:
        # A client that is still sending when the connection closes sees a broken pipe and not the answer.
        until = time.monotonic() + 5
        while length > 0 and time.monotonic() < until:
            part = self.rfile.read1(min(length, 1 << 20))  # type: ignore[attr-defined]
            if not part:
                return
            length -= len(part)

    def _chunks(self, limit: int) -> Iterator[bytes]:
        total = 0
        while True:
            size = int(self.rfile.readline(64).split(b";")[0].strip(), 16)
            if size < 0:
                raise ValueError("negative chunk")
            total += size
            if total > limit:
                raise OverflowError
            if not size:
                while self.rfile.readline(1024).strip():
                    pass
                return
            yield self._read(size)
            self.rfile.readline(8)

    def _refuse(self, status: int, message: str) -> None:
        self.close_connection = True
        self._send(status, "application/json", json.dumps({"error": message}).encode())

    def _answer(self, body: bytes) -> None:
        path = self.requestline.split()[1]  # self.path has a leading // shortened
        status, kind, data = self.server.rest.handle(self.command, path, body)
        if self.server.rest.draining:
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
