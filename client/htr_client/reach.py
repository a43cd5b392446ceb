"""Why no connection to a server came about, found out with plain sockets once gRPC has given up.

gRPC tells the last of its attempts only ("connection refused" of IPv6, where an HTTP server answers on IPv4).
"""

import contextlib
import ipaddress
import os
import socket
import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING

from htr_client.errors import AccessDenied, HtrError, ServerUnavailable

if TYPE_CHECKING:
    from htr_client.connection import Tls

_SECONDS = 0.5
NOBODY = "Start a server with `htr serve`, or name one with --server HOST:PORT."
_CHECK = "Check the address of the server (--server HOST:PORT)."
_PLAIN = "Leave out https:// and the settings of TLS."
# Where gRPC looks for a proxy, in this order, and for the ends of names that are reached without.
_PROXIES, _NO_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy"), ("no_grpc_proxy", "no_proxy")


def explain(addresses: Sequence[tuple[str, int]], tls: "Tls | None") -> HtrError:
    """Looks for the reason why no connection came about; takes about a second at most for each address.

    Args:
        addresses: Host and port of each server; empty when they have none, as a Unix socket.
        tls: Encryption of the connection, or None.

    Returns:
        The error to raise: what is wrong at the first address where somebody answers, else that nobody does.
    """
    return with_proxy(_reason(addresses, tls), addresses)


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
    variable = next((name for name in _PROXIES if os.environ.get(name)), None)
    direct = next((value for name in _NO_PROXIES if (value := os.environ.get(name))), "")
    ends = tuple(end.strip().lower() for end in direct.split(",") if end.strip())
    elsewhere = [host for host, _ in addresses if not is_here(host) and not host.lower().endswith(ends)]
    if variable is not None and elsewhere:
        error.advice = (
            f"{error.advice} The connection goes through the proxy of the environment variable {variable}: where the "
            f"server is to be reached without it, add {elsewhere[0]} to no_proxy."
        )
    return error


def _reason(addresses: Sequence[tuple[str, int]], tls: "Tls | None") -> HtrError:
    for host, port in addresses:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            if len(addresses) == 1:
                return ServerUnavailable(f"The name {host!r} is not known.", advice=_CHECK)
            continue
        for family, kind, protocol, _, place in found:
            with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as connection:
                connection.settimeout(_SECONDS)
                connection.connect(place)
                where = f"{host}:{port}"
                return _in_clear(connection, where) if tls is None else _encrypted(connection, where, host, tls)
    names = ", ".join(f"{host}:{port}" for host, port in addresses) or "the address"
    return ServerUnavailable(f"Nobody answers at {names}.", advice=NOBODY)


def _in_clear(connection: socket.socket, where: str) -> HtrError:
    said = b"?"
    try:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        said = connection.recv(64)
    except ConnectionError:
        said = b""
    except OSError:  # it says nothing
        pass
    if said.startswith(b"HTTP/"):
        return ServerUnavailable(
            f"An HTTP server answers at {where}, not a gRPC server.",
            advice="If this is a model server's REST port (8501 by default), name its gRPC port (8500 by default).",
        )
    if said[3:4] == b"\x04":  # a frame of settings, the first thing that a gRPC server sends (RFC 9113, 4.1)
        return ServerUnavailable(f"The server at {where} took too long to answer.", advice="Wait longer (--patience).")
    if said[:1] in (b"", b"\x15"):  # closed without a word, or an alert of TLS
        return ServerUnavailable(
            f"The server at {where} closes the connection: perhaps it wants an encrypted one.",
            advice="Encrypt with Tls(ca=...) (--tls or --tls-ca PEM).",
        )
    return ServerUnavailable(f"What answers at {where} is not a gRPC server.", advice=_CHECK)


def _encrypted(connection: socket.socket, where: str, host: str, tls: "Tls") -> HtrError:
    # The client's own certificate is left out: Python's ssl would want its key as a file.
    if isinstance(tls.ca, bytes):
        # Python takes ASCII only, and comments between the certificates may be anything.
        context = ssl.create_default_context(cadata=tls.ca.decode("ascii", "ignore"))
    else:
        context = ssl.create_default_context(cafile=None if tls.ca is None else os.fspath(tls.ca))
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # gRPC is not as strict as Python 3.13
    context.set_alpn_protocols(["h2"])
    try:
        with context.wrap_socket(connection, server_hostname=tls.server_name or host) as secured:
            protocol = secured.selected_alpn_protocol()
    except ssl.SSLCertVerificationError as error:
        return AccessDenied(
            f"The certificate of the server at {where} is not trusted: {error.verify_message.rstrip('.')}.",
            advice="Name the certificates to trust (Tls(ca=...), --tls-ca PEM), and the name in the server's "
            "certificate where it is not the address (server_name, --tls-server-name NAME).",
        )
    except ssl.SSLError as error:
        if error.reason in ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"):
            return ServerUnavailable(f"The server at {where} does not encrypt.", advice=_PLAIN)
        return AccessDenied(f"The server at {where} refuses the encrypted connection ({error.reason}).")
    except OSError:
        return ServerUnavailable(f"The server at {where} does not answer in an encrypted way.", advice=_PLAIN)
    if protocol is None:
        return ServerUnavailable(f"An HTTPS server answers at {where}, not a gRPC server.", advice=_CHECK)
    return AccessDenied(f"The server at {where} refuses the encrypted connection: it may want another certificate.")
