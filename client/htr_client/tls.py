"""Encryption and identities of a connection: certificates and keys, checked before gRPC gets them."""

import os
import re
import ssl
from dataclasses import dataclass, field
from typing import Union

import grpc

Pem = Union[str, "os.PathLike[str]", bytes]


@dataclass(frozen=True)
class Tls:
    """Encryption and identities; every part is a path or the PEM bytes themselves.

    Attributes:
        ca: Certificates that the server's certificate must be signed by; None for the usual public ones.
        certificate: This client's own certificate chain, for mutual TLS.
        key: The private key of `certificate`.
        server_name: Name expected in the server's certificate, when it differs from the address.
    """

    ca: Pem | None = None
    certificate: Pem | None = None
    key: Pem | None = field(default=None, repr=False)
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads and checks the parts.

        Returns:
            gRPC channel credentials.

        Raises:
            OSError: When a file cannot be read.
            ValueError: When a part is not PEM of its kind or is damaged, or there is a certificate without its key or
                a key without its certificate.
        """
        # gRPC ends the process for a certificate without key, and takes what is no PEM for a server that is away.
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together (--tls-certificate and --tls-key)")
        ca = _certificates(self.ca, "Tls(ca=...), --tls-ca")
        certificate = _certificates(self.certificate, "Tls(certificate=...), --tls-certificate")
        key = _pem(self.key, "PRIVATE KEY", "Tls(key=...), --tls-key")
        if certificate is not None and key is not None:
            _check_pair(certificate, key, _name(self.key))
        return grpc.ssl_channel_credentials(ca, key, certificate)

    def context(self) -> ssl.SSLContext:
        """Python's settings of a connection that trusts what gRPC would; without this client's own certificate.

        Raises:
            OSError: When the file of `ca` cannot be read, or a certificate in it is damaged (ssl.SSLError).
        """
        # Python's ssl would want the key as a file, hence no certificate.
        return _trusting(None if self.ca is None else _read(self.ca))


def _trusting(ca: bytes | None) -> ssl.SSLContext:
    # Python takes ASCII only, and comments between the certificates may be anything.
    context = ssl.create_default_context(cadata=None if ca is None else ca.decode("ascii", "ignore"))
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # gRPC is not as strict as Python 3.13
    context.set_alpn_protocols(["h2"])
    return context


def _certificates(part: Pem | None, setting: str) -> bytes | None:
    content = _pem(part, "CERTIFICATE", setting)
    if content is not None:
        try:
            # gRPC takes a damaged one for a server that is away, and leaves out in silence those that follow it.
            _trusting(content)
        except ssl.SSLError:
            raise ValueError(f"{_name(part)} holds a damaged certificate ({setting}): get the file anew") from None
    return content


def _check_pair(certificate: bytes, key: bytes, name: str) -> None:
    """GRPC takes a damaged key, or that of another certificate, for a server that is away.

    Python reads both from files only, so they become files in memory where there are such (Linux); elsewhere the server
    has to find it out.
    """
    if not hasattr(os, "memfd_create"):
        return
    with open(os.memfd_create("certificate"), "wb") as first, open(os.memfd_create("key"), "wb") as second:
        for file, content in ((first, certificate), (second, key)):
            file.write(content)
            file.flush()
        try:
            ssl.create_default_context().load_cert_chain(
                *(f"/proc/self/fd/{file.fileno()}" for file in (first, second))
            )
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise ValueError(f"{name} is the key of another certificate (Tls(key=...), --tls-key)") from None
            raise ValueError(f"{name} holds a damaged key (Tls(key=...), --tls-key): get the file anew") from None
        except OSError:  # without /proc
            return


def _pem(part: Pem | None, kind: str, setting: str) -> bytes | None:
    if part is None:
        return None
    try:
        content = _read(part)
    except OSError as error:
        raise type(error)(error.errno, f"{error.strerror} ({setting})", error.filename) from None
    # A key with a passphrase is none that gRPC can use.
    lines = (
        rb"-----BEGIN (?!ENCRYPTED )((?:[A-Z0-9]+ )?%b)-----(?!\s*Proc-Type: 4,ENCRYPTED).+?-----END \1-----"
        % kind.encode()
    )
    if not re.search(lines, content, re.DOTALL):
        raise ValueError(
            f"{_name(part)} holds no {kind.lower()} in PEM, "
            f"between the lines -----BEGIN {kind}----- and -----END {kind}-----"
        )
    return content


def _read(part: Pem) -> bytes:
    if isinstance(part, bytes):
        return part
    if isinstance(part, str) and "-----BEGIN " in part:  # the error of a file that is not there would print the key
        raise ValueError("PEM itself is given as bytes (text.encode()), and as str the path of a file")
    with open(part, "rb") as file:
        return file.read()


def _name(part: Pem | None) -> str:
    return os.fspath(part) if isinstance(part, (str, os.PathLike)) else "what was given"
