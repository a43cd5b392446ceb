"""How this client talks gRPC: metadata, channel options, and what a failed call means."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import grpc

from htr_client.answers import Headers
from htr_client.errors import (
    AccessDenied,
    HtrError,
    ImageError,
    MissingExtra,
    ModelNotFound,
    ModelUnusable,
    OutOfMemory,
    RequestRefused,
    RequestTooLarge,
    ServerBusy,
    ServerFault,
    ServerUnavailable,
    TimedOut,
    UnexpectedAnswer,
)
from htr_client.network.addresses import hosts_of
from htr_client.network.reach import CHECK, why_no_connection, with_proxy

Metadata = Callable[[], Iterable[tuple[str, str | bytes]]]
_PAIRS = "It returns a mapping or pairs of name and value, such as [('authorization', 'Bearer ...')]."

# Predict is a pure function, so a call may be repeated. The throttle keeps a struggling server from getting five times
# the load: half of the tokens are gone after 500 failures in a row, and then nothing is repeated in the channel until
# calls succeed again. (A budget for 50 is used up by 50 callers of a server that is merely full and refuses more often
# than it answers.)
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "retryThrottling": {"maxTokens": 1000, "tokenRatio": 1},
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 3,
                # CANCELLED is what a stopping server says to the calls it cuts off; this client never cancels its own.
                # RESOURCE_EXHAUSTED is also said of what is too large; `retries.while_busy` tells that apart.
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        }
    ],
}

# What TensorFlow Serving says (INVALID_ARGUMENT) when the request itself is wrong, whatever images it holds.
_WRONG_REQUEST = re.compile(
    r"ModelSpec|signature|servable version label|output tensor alias|Expects arg\[|tensor parsing error"
)
# What gRPC says of an answer that is no gRPC, such as the error page of a proxy.
_HTTP_STATUS = re.compile(r"http2 header with status: (\d+)")
# What gRPC says (RESOURCE_EXHAUSTED), for the server, of an answer that this client's limit refuses.
_ANSWER_TOO_LARGE = re.compile(r"CLIENT: Received message larger than max \((\d+) vs\. (\d+)\)")
# What TensorFlow says (RESOURCE_EXHAUSTED) of a batch that does not fit.
_NO_MEMORY = re.compile(r"OOM when allocating|[Oo]ut of memory|[Ff]ailed to allocate")
_NO_LABEL = "Unrecognized servable version label"
_NO_HEADER_NAME, _NO_HEADER_VALUE = re.compile(r"[^a-z0-9_.-]"), re.compile(r"[^ -~]")
# What gRPC says itself, for the server, when there is no connection to it or the connection ends.
_NO_CONNECTION = re.compile(
    r"failed to connect|connections to all backends failing|empty address list|Connection refused|No route to host"
)
_NO_NAME = re.compile(r"(DNS resolution|address lookup) failed|errors resolving")
_BROKEN = re.compile(r"Socket closed|Connection reset|Broken pipe|GOAWAY|recvmsg|sendmsg|keepalive|[Ss]tream removed")


def channel_options(max_message_bytes: int) -> list[tuple[str, Any]]:
    """Options of a channel for images, wherever it leads.

    Args:
        max_message_bytes: Limit of a request and of an answer.

    Returns:
        gRPC channel arguments.

    Raises:
        ValueError: When the limit is impossible.
    """
    if not 0 < max_message_bytes < 2**31:
        raise ValueError(f"max_message_bytes is a number from 1 to 2**31 - 1, not {max_message_bytes}")
    return [
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.enable_retries", 1),
        # A call larger than this is not repeated; gRPC's own limit of 256 KiB is less than a batch of images.
        ("grpc.per_rpc_retry_buffer_size", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        # Finds a peer that vanished without closing. Only during calls: TensorFlow Serving, like every gRPC server
        # with default settings, closes connections that ping while they are idle. It also closes those on which a call
        # has been silent for three minutes, which no request of this system takes unless it waits in a queue.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 0),
        # The time that one attempt to connect may take, whatever its name says: TCP, TLS and the server's first words.
        # An attempt that is cut off fails the calls that wait for it, and uses up one of their attempts.
        ("grpc.min_reconnect_backoff_ms", 5_000),
        # A server that has moved is looked for at once; gRPC's own pause between lookups is 30 seconds.
        ("grpc.dns_min_time_between_resolutions_ms", 1_000),
        # gRPC's own maximum of two minutes would leave a restarted server unused for that long.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 3_000),
    ]


def headers_of(metadata: Metadata | None) -> Headers:
    """The metadata of one request.

    Args:
        metadata: As `HtrClient` takes it.

    Returns:
        Pairs of name and value.

    Raises:
        RequestRefused: gRPC would not take it; what it says depends on the client and does not tell what is wrong.
            The message never holds a value, which may be a secret.
    """
    if metadata is None:
        return ()
    given = metadata()
    if not isinstance(given, Iterable) or isinstance(given, (str, bytes)):
        raise RequestRefused(f"metadata returned {type(given).__name__}.", advice=_PAIRS)
    found = tuple(given.items() if isinstance(given, Mapping) else given)
    for pair in found:
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and isinstance(pair[0], str)):
            raise RequestRefused(f"metadata returned a {type(pair).__name__} where a pair stands.", advice=_PAIRS)
        _check_header(*pair)
    return found


def _check_header(name: str, value: str | bytes) -> None:
    wrong = _NO_HEADER_NAME.search(name)
    if wrong or not name:
        where = f"{wrong.group()!r} at position {wrong.start()}" if wrong else "no characters"
        raise RequestRefused(
            f"The name of metadata {name!r} has {where}.",
            advice="Names are of lower-case letters, digits and the characters - _ and the full stop.",
        )
    binary = name.endswith("-bin")
    if not isinstance(value, bytes if binary else (str, bytes)):
        raise RequestRefused(
            f"The value of metadata {name!r} is of type {type(value).__name__}.",
            advice="Values are bytes where the name ends with -bin, and str or bytes elsewhere.",
        )
    text = value if isinstance(value, str) else value.decode("latin-1")
    if not binary and (wrong := _NO_HEADER_VALUE.search(text)):
        raise RequestRefused(
            f"The value of metadata {name!r} has {wrong.group()!r} at position {wrong.start()} of {len(text)}.",
            advice="Values are printable ASCII; what was read from a file often ends with a newline: strip it.",
        )


def tracing() -> Any:
    """OpenTelemetry's instrumentation of gRPC.

    Returns:
        The module opentelemetry.instrumentation.grpc.

    Raises:
        MissingExtra: When it is not installed.
    """
    try:
        from opentelemetry.instrumentation import grpc as instrumentation
        from opentelemetry.instrumentation.grpc import grpcext  # noqa: F401  (used by the caller as an attribute)
    except ImportError:
        raise MissingExtra(
            "opentelemetry=True needs the package opentelemetry-instrumentation-grpc.",
            advice="Install it with: pip install opentelemetry-instrumentation-grpc",
        ) from None
    return instrumentation


def to_error(
    error: grpc.RpcError, where: str, seconds: float, encrypted: bool = False, headers: Headers = ()
) -> HtrError:
    """Translates a failed call.

    Args:
        error: What gRPC raised.
        where: The servers' addresses, for the message.
        seconds: How long the call was allowed to take.
        encrypted: Whether the connection is to be encrypted.
        headers: Metadata of the call.

    Returns:
        The exception to raise instead. INVALID_ARGUMENT becomes an ImageError unless the server's words show that
        the request is wrong whatever it holds.
    """
    code: grpc.StatusCode = error.code()
    details: str = error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE:
        hosts = hosts_of(where.split(", "))
        if _NO_NAME.search(details):
            unknown = f"The name of the server {where} is not known."
            return with_proxy(ServerUnavailable(unknown, advice=CHECK, code=code.name), hosts)
        if _NO_CONNECTION.search(details):
            return with_proxy(why_no_connection(details, where, encrypted, code.name), hosts)
        if _BROKEN.search(details):
            return ServerUnavailable(f"The connection to {where} broke.", code=code.name)
    if code is grpc.StatusCode.CANCELLED and "Channel closed" in details:
        return was_closed(where)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimedOut(f"No answer from {where} within {seconds:.1f} seconds.", code=code.name)
    status = _HTTP_STATUS.search(details)
    if status and code is grpc.StatusCode.UNAVAILABLE:  # 429, 502, 503, 504: a proxy whose server is away or busy
        return ServerUnavailable(f"What stands before {where} answers with HTTP {status.group(1)}.", code=code.name)
    if code is grpc.StatusCode.UNIMPLEMENTED or (status and _ERRORS.get(code) is not AccessDenied):
        return UnexpectedAnswer(
            f"What answers at {where} does not offer TensorFlow Serving's gRPC services.", code=code.name
        )
    said = f"The server says {code.name}: {details.rstrip('.')}." if details else f"The call failed with {code.name}."
    if code is grpc.StatusCode.INVALID_ARGUMENT and not _WRONG_REQUEST.search(details):
        return ImageError("refused", said, advice="", code=code.name)
    if code is grpc.StatusCode.INVALID_ARGUMENT and _NO_LABEL in details:
        return ModelNotFound(said, code=code.name)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return _exhausted(details, said, headers, code.name)
    return _ERRORS.get(code, ServerFault)(said, code=code.name)


def found_nobody(error: grpc.RpcError) -> bool:
    """Whether a call failed since there was no connection to any server, or no address.

    Args:
        error: What gRPC raised.
    """
    details = error.details() or ""
    return bool(_NO_NAME.search(details) or _NO_CONNECTION.search(details))


def _exhausted(details: str, said: str, headers: Headers, code: str) -> HtrError:
    """RESOURCE_EXHAUSTED is said of much that waiting does not help."""
    if own := _ANSWER_TOO_LARGE.search(details):
        return RequestTooLarge(
            f"The answer of {own.group(1)} bytes is larger than max_message_bytes ({own.group(2)}).",
            advice="Raise max_message_bytes here, or send fewer images a request.",
            code=code,
        )
    if "larger than max" in details:
        return RequestTooLarge(said, code=code)
    if "metadata size exceeds" in details:
        advice = "Something on the way, such as tracing or a proxy, adds too much metadata, or the answer has too much."
        if headers:
            name, value = max(headers, key=lambda pair: len(pair[1]))
            advice = f"Send less metadata: the largest is {name!r} with {len(value)} bytes."
        return RequestRefused(said, advice=advice, code=code)
    return (OutOfMemory if _NO_MEMORY.search(details) else ServerBusy)(said, code=code)


def was_closed(where: str) -> ServerUnavailable:
    """The error of a call whose connection this client has closed meanwhile."""
    advice = "Close a client when all its calls have ended; a later call opens a new connection."
    return ServerUnavailable(
        f"This client's connection to {where} was closed during the call.", advice=advice, code="CANCELLED"
    )


_ERRORS: dict[grpc.StatusCode, type[HtrError]] = {
    grpc.StatusCode.UNAVAILABLE: ServerUnavailable,
    grpc.StatusCode.CANCELLED: ServerUnavailable,
    grpc.StatusCode.NOT_FOUND: ModelNotFound,
    grpc.StatusCode.FAILED_PRECONDITION: ModelUnusable,
    grpc.StatusCode.INVALID_ARGUMENT: RequestRefused,
    grpc.StatusCode.UNAUTHENTICATED: AccessDenied,
    grpc.StatusCode.PERMISSION_DENIED: AccessDenied,
}
