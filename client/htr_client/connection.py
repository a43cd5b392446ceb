"""How this client talks gRPC: addresses, TLS, channel options, and what a failed call means."""

import json
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import grpc

from htr_client.errors import (
    AccessDenied,
    HtrError,
    ImageError,
    MissingExtra,
    ModelNotFound,
    ModelUnusable,
    RequestRefused,
    RequestTooLarge,
    ServerBusy,
    ServerFault,
    ServerUnavailable,
    TimedOut,
    UnexpectedAnswer,
)
from htr_client.reach import is_here, why_no_connection, with_proxy
from htr_client.tls import Tls

Metadata = Callable[[], Iterable[tuple[str, str]]]

# Predict is a pure function, so a call may be repeated. A full server answers RESOURCE_EXHAUSTED at once and without
# having started; the throttle keeps a struggling server from getting five times the load: half of the tokens are
# gone after 500 failures in a row, and then nothing is repeated in the channel until calls succeed again. (A budget for
# 50 is used up by 50 callers of a server that is merely full and refuses more often than it answers.)
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
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"],
            },
        }
    ],
}

# What TensorFlow Serving says (INVALID_ARGUMENT) when the request itself is wrong, whatever images it holds.
_WRONG_REQUEST = re.compile(
    r"ModelSpec|signature|servable version label|output tensor alias|Expects arg\[|tensor parsing error"
)
_NO_LABEL = "Unrecognized servable version label"
_HEADER_NAME, _HEADER_VALUE = re.compile(r"[a-z0-9_.-]+"), re.compile(r"[ -~]*")
_GRPC_SCHEME = re.compile(r"(dns|ipv4|ipv6|unix|unix-abstract|vsock|xds|passthrough):")
# Schemes of URLs that users give instead of an address, and whether they ask for encryption.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_ENCRYPTED = {"http": False, "grpc": False, "https": True, "grpcs": True}
# What gRPC says itself, for the server, when there is no connection to it or the connection ends.
_NO_CONNECTION = re.compile(
    r"failed to connect|connections to all backends failing|empty address list|Connection refused|No route to host"
)
_NO_NAME = re.compile(r"(DNS resolution|address lookup) failed|errors resolving")
_BROKEN = re.compile(r"Socket closed|Connection reset|Broken pipe|GOAWAY|recvmsg|sendmsg|keepalive|[Ss]tream removed")


def read_addresses(target: str | Sequence[str]) -> tuple[list[str], bool | None]:
    """What the settings say about where the servers are.

    Args:
        target: "host:port", several of them (a list, or one string with commas), or a gRPC target with a scheme. A URL
            (http, https, grpc, grpcs) without a path stands for its host:port.

    Returns:
        "host:port" of each server, or one gRPC target; and whether URLs ask for encryption (None without one).

    Raises:
        ValueError: When there is no address, a scheme is unknown, or an address has no port or an impossible one.
    """
    if isinstance(target, str):
        target = [target] if _GRPC_SCHEME.match(target) else target.split(",")
    if len(target) == 1 and _GRPC_SCHEME.match(target[0]):
        return [target[0]], None
    addresses, encrypted = [], set()
    for address in map(str.strip, target):
        url = _URL.fullmatch(address)
        if url is not None:
            scheme = url.group(1).lower()
            if scheme not in _ENCRYPTED:
                raise ValueError(
                    f"{address!r} begins with {scheme}://, but an address is HOST:PORT, such as localhost:8500 (or "
                    "with http://, grpc://, https:// or grpcs:// before it, the last two for an encrypted connection)"
                )
            encrypted.add(_ENCRYPTED[scheme])
            address = url.group(2).removesuffix("/")
        split_address(address)
        addresses.append(address)
    if not addresses:
        raise ValueError("no address")
    if len(encrypted) > 1:
        raise ValueError("some of the addresses ask for encryption and others do not")
    return addresses, encrypted.pop() if encrypted else None


def grpc_target(target: str | Sequence[str]) -> str:
    """The gRPC target for one address or several.

    Args:
        target: As for `read_addresses`. Names among several are looked up once, here; gRPC has no target for a list of
            names.

    Returns:
        A target over which round_robin balances.

    Raises:
        ValueError: As `read_addresses`; when of several servers one is reached over IPv4 only and one over IPv6 only.
        ServerUnavailable: When one of several names cannot be resolved.
    """
    addresses, _ = read_addresses(target)
    if len(addresses) == 1:
        return addresses[0] if _GRPC_SCHEME.match(addresses[0]) else f"dns:///{addresses[0]}"
    # A gRPC target is of one family: IPv4 when every server has such an address, else IPv6.
    found = {address: _by_family(address) for address in addresses}
    for family in (socket.AF_INET, socket.AF_INET6):
        if all(places[family] for places in found.values()):
            places = dict.fromkeys(place for one in found.values() for place in one[family])
            return f"{'ipv4' if family == socket.AF_INET else 'ipv6'}:{','.join(places)}"
    without = [next(address for address in found if not found[address][family]) for family in found[addresses[0]]]
    raise ValueError(
        f"{without[0]} has no IPv4 address and {without[1]} no IPv6 address, and gRPC reaches several servers over one "
        "of the two only: give addresses of one kind, or one DNS name that stands for all servers"
    )


def _by_family(address: str) -> dict[socket.AddressFamily, list[str]]:
    """The addresses behind one "host:port", as gRPC targets have them, of IPv4 and of IPv6."""
    host, port = split_address(address)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ServerUnavailable(f"The name {host!r} cannot be resolved: {error}.") from None
    places: dict[socket.AddressFamily, list[str]] = {socket.AF_INET: [], socket.AF_INET6: []}
    for family, _, _, _, (place, *_) in found:
        if family in places:
            places[family].append(f"{place}:{port}" if family == socket.AF_INET else f"[{place}]:{port}")
    return places


def split_address(address: str) -> tuple[str, int]:
    """Host and port of "host:port".

    Args:
        address: One address; an IPv6 address in brackets.

    Returns:
        The host without brackets, and the port.

    Raises:
        ValueError: When there is no host, no port, or an impossible one.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(f"an address is HOST:PORT, such as localhost:8500 (ports go from 1 to 65535), not {address!r}")
    return host.strip("[]"), int(port)


def hosts_of(addresses: Sequence[str]) -> list[tuple[str, int]]:
    """Host and port of each server, for plain sockets.

    Args:
        addresses: As `read_addresses` returns them.

    Returns:
        One pair a server; none where a gRPC target names no host and port, as "unix:" does.
    """
    if len(addresses) == 1 and (scheme := _GRPC_SCHEME.match(addresses[0])):
        if scheme.group(1) not in ("dns", "ipv4", "ipv6"):
            return []
        addresses = addresses[0][scheme.end() :].rpartition("/")[2].split(",")
    try:
        return [split_address(address) for address in addresses]
    except ValueError:  # a name without a port, for which gRPC takes 443
        return []


def channel_options(
    tls: Tls | None, max_message_bytes: int, hosts: Sequence[tuple[str, int]] = ()
) -> list[tuple[str, Any]]:
    """Options of a channel.

    Args:
        tls: For the name to expect, or None.
        max_message_bytes: Limit of a request and of an answer.
        hosts: Of the servers, as `hosts_of` returns them.

    Returns:
        gRPC channel arguments.

    Raises:
        ValueError: When the limit is impossible.
    """
    if not 0 < max_message_bytes < 2**31:
        raise ValueError(f"max_message_bytes is a number from 1 to 2**31 - 1, not {max_message_bytes}")
    options: list[tuple[str, Any]] = [
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.enable_retries", 1),
        # A call larger than this is not repeated; gRPC's own limit of 256 KiB is less than a batch of images.
        ("grpc.per_rpc_retry_buffer_size", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        # Finds a peer that vanished without closing. Only during calls: TensorFlow Serving, like every gRPC server
        # with default settings, closes connections that ping while they are idle.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 0),
        # gRPC's own maximum of two minutes would leave a restarted server unused for that long.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", 3_000),
    ]
    if tls is not None and tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    if hosts and all(is_here(host) for host, _ in hosts):
        # gRPC alone among programs asks a proxy for this machine too.
        options.append(("grpc.enable_http_proxy", 0))
    return options


def headers_of(metadata: Metadata | None) -> tuple[tuple[str, str], ...]:
    """The metadata of one request.

    Args:
        metadata: As `HtrClient` takes it.

    Returns:
        Pairs of name and value.

    Raises:
        RequestRefused: gRPC would not take it; what it says depends on the client and does not tell what is wrong.
    """
    found = tuple(metadata()) if metadata is not None else ()
    for name, value in found:
        if not _HEADER_NAME.fullmatch(name) or (isinstance(value, str) and not _HEADER_VALUE.fullmatch(value)):
            raise RequestRefused(
                f"gRPC takes no metadata {name!r}: {value!r}.",
                advice="Names are of lower-case letters, digits and -_. and values are printable ASCII.",
            )
    return found


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
            advice="Install it with: pip install 'htr-client[opentelemetry]'",
        ) from None
    return instrumentation


def to_error(error: grpc.RpcError, where: str, seconds: float, encrypted: bool = False) -> HtrError:
    """Translates a failed call.

    Args:
        error: What gRPC raised.
        where: The servers' addresses, for the message.
        seconds: How long the call was allowed to take.
        encrypted: Whether the connection is to be encrypted.

    Returns:
        The exception to raise instead. INVALID_ARGUMENT becomes an ImageError unless the server's words show that
        the request is wrong whatever it holds.
    """
    code: grpc.StatusCode = error.code()
    details: str = error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE:
        hosts = hosts_of(where.split(", "))
        if _NO_NAME.search(details):
            return with_proxy(ServerUnavailable(f"The name of the server {where} is not known.", code=code.name), hosts)
        if _NO_CONNECTION.search(details):
            return with_proxy(why_no_connection(details, where, encrypted, code.name), hosts)
        if _BROKEN.search(details):
            return ServerUnavailable(f"The connection to {where} broke.", code=code.name)
    if code is grpc.StatusCode.CANCELLED and "Channel closed" in details:
        return was_closed(where)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimedOut(f"No answer from {where} within {seconds:.1f} seconds.", code=code.name)
    if code is grpc.StatusCode.UNIMPLEMENTED or "http2 header with status" in details:
        return UnexpectedAnswer(
            f"What answers at {where} does not offer TensorFlow Serving's gRPC services.", code=code.name
        )
    said = f"The server says {code.name}: {details.rstrip('.')}." if details else f"The call failed with {code.name}."
    if code is grpc.StatusCode.INVALID_ARGUMENT and not _WRONG_REQUEST.search(details):
        return ImageError("refused", said, advice="", code=code.name)
    if code is grpc.StatusCode.INVALID_ARGUMENT and _NO_LABEL in details:
        return ModelNotFound(said, code=code.name)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        return RequestTooLarge(said, code=code.name)
    return _ERRORS.get(code, ServerFault)(said, code=code.name)


def was_closed(where: str) -> ServerUnavailable:
    """The error of a call whose connection this client has closed meanwhile."""
    advice = "Close a client when all its calls have ended; a later call opens a new connection."
    return ServerUnavailable(f"This client's connection to {where} was closed during the call.", advice=advice)


_ERRORS: dict[grpc.StatusCode, type[HtrError]] = {
    grpc.StatusCode.UNAVAILABLE: ServerUnavailable,
    grpc.StatusCode.CANCELLED: ServerUnavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ServerBusy,
    grpc.StatusCode.NOT_FOUND: ModelNotFound,
    grpc.StatusCode.FAILED_PRECONDITION: ModelUnusable,
    grpc.StatusCode.INVALID_ARGUMENT: RequestRefused,
    grpc.StatusCode.UNAUTHENTICATED: AccessDenied,
    grpc.StatusCode.PERMISSION_DENIED: AccessDenied,
}
