"""TensorFlow Serving's TLS configuration, from PEM files that are checked first: it aborts when they do not fit."""

from __future__ import annotations

import contextlib
import ssl
import time
from pathlib import Path

from google.protobuf import text_format

from serving import protos

_DAY = 86400.0
_SOON = 14  # days


def ssl_config(key: Path, certificate: Path, ca: Path | None = None) -> tuple[str, list[str]]:
    """TensorFlow Serving's --ssl_config_file.

    Args:
        key: File with the server's private key (PEM, not encrypted).
        certificate: File with the server's certificate chain (PEM).
        ca: File with the certificates that clients' must be signed by (PEM): mutual TLS. Without, any client may call.

    Returns:
        The file's text, which holds the key, and warnings.

    Raises:
        ValueError: A file is no such PEM file, key and certificate do not belong together, or one has expired.
        OSError: A file cannot be read.
    """
    message = protos.SSLConfig(server_key=_read(key), server_cert=_read(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")  # or it would ask on the terminal
    except ssl.SSLError as error:
        raise ValueError(
            f"{key} and {certificate} are not the server's private key (PEM, not encrypted) and the certificate chain "
            f"(PEM) that belongs to it, in this order: {error}"
        ) from error
    ends = {certificate: _end(context, certificate)}
    if ca is not None:
        message.custom_ca, message.client_verify = _read(ca), True
        try:
            context.load_verify_locations(ca)
        except ssl.SSLError as error:
            raise ValueError(f"{ca} holds no certificate (PEM): {error}") from error
        if not context.cert_store_stats()["x509"]:
            raise ValueError(f"{ca} holds no certificate (PEM)")
        # Old and new authorities are in one file while clients get new certificates: the last to expire counts.
        if authorities := context.get_ca_certs():
            ends[ca] = max(ssl.cert_time_to_seconds(str(one["notAfter"])) for one in authorities)
            if ends[ca] < time.time():
                raise ValueError(f"{ca} has expired")
    left = {path: (end - time.time()) / _DAY for path, end in ends.items()}
    warnings = [f"{path} expires in {days:.1f} days" for path, days in left.items() if days < _SOON]
    return text_format.MessageToString(message), warnings


def _end(server: ssl.SSLContext, certificate: Path) -> float:
    """When the certificate expires, in seconds since 1970: what a client that trusts it sees of the server."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(certificate)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    here, there = client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)
    try:
        for side in (here, there, here):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
        found = here.getpeercert() or {}
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", error)
        raise ValueError(f"No client would accept {certificate}: {why}") from error
    return float(ssl.cert_time_to_seconds(str(found["notAfter"])))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no PEM file in UTF-8: {error}") from error
