"""TensorFlow Serving's TLS configuration, from PEM files that are checked first: it aborts when they do not fit."""

from __future__ import annotations

import ssl
from pathlib import Path

from google.protobuf import text_format

from serving import protos


def ssl_config(key: Path, certificate: Path, ca: Path | None = None) -> str:
    """TensorFlow Serving's --ssl_config_file.

    Args:
        key: File with the server's private key (PEM, not encrypted).
        certificate: File with the server's certificate chain (PEM).
        ca: File with the certificates that clients' must be signed by (PEM): mutual TLS. Without, any client may call.

    Returns:
        The file's text. It holds the key.

    Raises:
        ValueError: A file is no such PEM file, or key and certificate do not belong together.
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
    if ca is not None:
        message.custom_ca, message.client_verify = _read(ca), True
        try:
            context.load_verify_locations(ca)
        except ssl.SSLError as error:
            raise ValueError(f"{ca} holds no certificate (PEM): {error}") from error
        if not context.cert_store_stats()["x509"]:
            raise ValueError(f"{ca} holds no certificate (PEM)")
    return text_format.MessageToString(message)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no PEM file in UTF-8: {error}") from error
