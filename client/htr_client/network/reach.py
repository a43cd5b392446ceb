"""Why no connection to a server came about: what gRPC says of it, or what plain sockets find once gRPC has given up.

gRPC tells the last of its attempts only ("connection refused" of IPv6, where an HTTP server answers on IPv4).
"""

import contextlib
import ipaddress
import os
import re
import socket
import ssl
from collections.abc import Sequence

from htr_client.errors import AccessDenied, HtrError, ServerUnavailable
from htr_client.tls import Tls

_SECONDS = 0.5
NOBODY = 'Start a server with `htr serve`, or name another: --server HOST:PORT, in Python HtrClient("HOST:PORT").'
CHECK = 'Check the address of the server (HtrClient("HOST:PORT"), --server HOST:PORT).'
_REST = "If this is a model server's REST port (8501 by default), name its gRPC port (8500 by default)."
_PLAIN = "Leave out https:// and the settings of TLS."
# How gRPC and BoringSSL tell the reason, in versions of gRPC from 1.48 on; that does not tell it of a handshake.
_UNTRUSTED = re.compile(r"CERTIFICATE_VERIFY_FAILED(?:: ([^:\[{]+))?")
_OTHER_NAME = re.compile(r"Hostname Verification|is not in peer certificate")
_NOT_ENCRYPTED = re.compile(r"WRONG_VERSION_NUMBER|PACKET_LENGTH_TOO_LONG|HTTP_REQUEST")
_REFUSED = re.compile(r"handshake failed.*?SSL_ERROR_SSL.*?OPENSSL_internal:(\w+)", re.IGNORECASE | re.DOTALL)
_SILENT = re.compile(r"timed out before receiving SETTINGS")
_NO_GRPC = re.compile(r"Expected SETTINGS frame")
_CLOSED = re.compile(r"last error:.*(?:Socket closed|Connection reset|Endpoint closing)", re.DOTALL)
# Where gRPC looks for a proxy, in this order, and for the ends of names that are reached without.
_PROXIES, _NO_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy"), ("no_grpc_proxy", "no_proxy")


def explain(addresses: Sequence[tuple[str, int]], tls: Tls | None, late: HtrError | None = None) -> HtrError:
    """Looks for the reason why no connection came about; takes about a second at most for each address.

    Args:
        addresses: Host and port of each server; empty when they have none, as a Unix socket.
        tls: Encryption of the connection, or None.
        late: The error to return where a server is there, or may be, and only takes its time.

    Returns:
        The error to raise: what is wrong at the first address where somebody answers, else that nobody does.
    """
    reason = _reason(addresses, tls, late)
    return reason if reason is late else with_proxy(reason, addresses)


def why_no_connection(details: str, where: str, encrypted: bool, code: str) -> HtrError:
    """The error of a call for which no connection came about, by what gRPC says of its last attempt.

    Args:
        details: gRPC's words.
        where: The servers' addresses, for the message.
        encrypted: Whether the connection is to be encrypted.
        code: Name of the gRPC status code.

    Returns:
        The error to raise. Waiting can only help where nobody answers, or what does is silent or closes the connection,
        as a proxy does while the server behind it restarts.
    """
    if found := _UNTRUSTED.search(details):
        return _untrusted(where, (found.group(1) or "it cannot be verified").strip(), code)
    if _OTHER_NAME.search(details):
        return _untrusted(where, "it is for another name", code)
    if encrypted and _NOT_ENCRYPTED.search(details):
        return _not_encrypted(where, code)
    if found := _REFUSED.search(details):
        return AccessDenied(f"The server at {where} refuses the encrypted connection ({found.group(1)}).", code=code)
    if _NO_GRPC.search(details):
        return ServerUnavailable(
            f"What answers at {where} is not a gRPC server.", advice=f"{CHECK} {_REST}", code=code, retryable=False
        )
    if _SILENT.search(details):
        return _silent(where, code)
    if _CLOSED.search(details):
        return _other_certificate(where, code) if encrypted else _closes(where, code)
    return ServerUnavailable(f"Nobody answers at {where}.", advice=NOBODY, code=code)


def without_proxy(addresses: Sequence[tuple[str, int]]) -> bool:
    """Whether servers are to be reached without a proxy, whatever the environment says.

    gRPC alone among programs asks a proxy for this machine too. And it takes the list of several servers for the name
    of one, which it asks the proxy for, and looks for in no_proxy.

    Args:
        addresses: As for `explain`.
    """
    return len(addresses) > 1 or any(is_here(host) for host, _ in addresses)


def is_here(host: str) -> bool:
    """Whether a host is this machine, by name or by a loopback address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def with_proxy(error: HtrError, addresses: Sequence[tuple[str, int]]) -> HtrError:
    """The error of a connection that did not come about; its advice names the proxy that gRPC goes through, if any.

    Args:
        error: The error.
        addresses: As for `explain`.
    """
    if without_proxy(addresses):
        return error
    variable = next((name for name in _PROXIES if os.environ.get(name)), None)
    direct = next((value for name in _NO_PROXIES if (value := os.environ.get(name))), "")
    ends = tuple(end.strip().lower() for end in direct.split(",") if end.strip())
    indirect = [host for host, _ in addresses if not host.lower().endswith(ends)]
    if variable is not None and indirect:
        error.advice = (
            f"{error.advice} The connection goes through the proxy of the environment variable {variable}: where the "
            f"server is to be reached without it, add {indirect[0]} to no_proxy."
        )
    return error


def _reason(addresses: Sequence[tuple[str, int]], tls: Tls | None, late: HtrError | None) -> HtrError:
    try:
        context = tls.context() if tls is not None else None
    except OSError as error:  # the file was there, and whole, when the client was made; an SSLError is one, too
        assert tls is not None
        return AccessDenied(
            f"The certificates to trust cannot be read any more from {tls.ca!r}: {error}.",
            advice="Put the file of Tls(ca=...) (--tls-ca) back.",
        )
    for host, port in addresses:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):  # a name with an empty or too long part, such as a..b, is none to Python
            if len(addresses) == 1:
                return ServerUnavailable(f"The name {host!r} is not known.", advice=CHECK)
            continue
        for family, kind, protocol, _, place in found:
            with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as connection:
                connection.settimeout(_SECONDS)
                connection.connect(place)
                where = f"{host}:{port}"
                if context is None:
                    return _in_clear(connection, where, late)
                name = (tls.server_name if tls is not None else None) or host
                return _encrypted(connection, where, name, context, late)
    names = ", ".join(f"{host}:{port}" for host, port in addresses) or "the address"
    return ServerUnavailable(f"Nobody answers at {names}.", advice=NOBODY)


def _in_clear(connection: socket.socket, where: str, late: HtrError | None) -> HtrError:
    said = b""
    try:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        said = connection.recv(64)
    except TimeoutError:
        return late or _silent(where)
    except OSError:
        pass
    if said.startswith(b"HTTP/"):
        return ServerUnavailable(
            f"An HTTP server answers at {where}, not a gRPC server.", advice=_REST, retryable=False
        )
    if said[3:4] == b"\x04":  # a frame of settings, the first thing that a gRPC server sends (RFC 9113, 4.1)
        slow = f"The server at {where} took too long to answer."
        return late or ServerUnavailable(slow, advice="Wait longer (timeout, --patience).")
    if said[:1] in (b"", b"\x15"):  # closed without a word, or an alert of TLS
        return _closes(where)
    return ServerUnavailable(f"What answers at {where} is not a gRPC server.", advice=CHECK, retryable=False)


def _encrypted(
    connection: socket.socket, where: str, name: str, context: ssl.SSLContext, late: HtrError | None
) -> HtrError:
    try:
        with context.wrap_socket(connection, server_hostname=name) as secured:
            protocol = secured.selected_alpn_protocol()
    except ssl.SSLCertVerificationError as error:
        return _untrusted(where, error.verify_message)
    except ssl.SSLError as error:
        if error.reason in ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"):
            return _not_encrypted(where)
        return late or AccessDenied(f"The server at {where} refuses the encrypted connection ({error.reason}).")
    except TimeoutError:
        return late or _silent(where)
    except OSError:
        return late or ServerUnavailable(f"The server at {where} does not answer in an encrypted way.", advice=_PLAIN)
    if protocol is None:
        return ServerUnavailable(
            f"An HTTPS server answers at {where}, not a gRPC server.", advice=CHECK, retryable=False
        )
    other = f"The server at {where} refuses the encrypted connection: it may want another certificate."
    return late or AccessDenied(other)


def _silent(where: str, code: str = "") -> HtrError:
    """The error of a peer that accepts a connection and says nothing, as a server with no time for new connections."""
    return ServerUnavailable(
        f"What listens at {where} takes connections, but says nothing.",
        advice=f"A server there is overloaded or hangs; anything else is no gRPC server. {CHECK}",
        code=code,
    )


def _untrusted(where: str, why: str, code: str = "") -> HtrError:
    return AccessDenied(
        f"The certificate of the server at {where} is not trusted: {why.rstrip('.')}.",
        advice="Name the certificates to trust (Tls(ca=...), --tls-ca PEM), and the name in the server's "
        "certificate where it is not the address (server_name, --tls-server-name NAME).",
        code=code,
    )


def _not_encrypted(where: str, code: str = "") -> HtrError:
    return ServerUnavailable(f"The server at {where} does not encrypt.", advice=_PLAIN, code=code, retryable=False)


def _closes(where: str, code: str = "") -> HtrError:
    return ServerUnavailable(
        f"The server at {where} closes the connection: perhaps it wants an encrypted one.",
        advice="Encrypt with Tls(ca=...) (--tls or --tls-ca PEM).",
        code=code,
    )


def _other_certificate(where: str, code: str) -> HtrError:
    return ServerUnavailable(
        f"The server at {where} closes the encrypted connection: perhaps it wants another certificate.",
        advice="Name this client's certificate and key (Tls(certificate=..., key=...), --tls-certificate, --tls-key).",
        code=code,
    )
