"""Arguments of the commands that move labels: running servers, TLS, and how long to wait."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from serving.rollout.labels import Refused

if TYPE_CHECKING:
    from htr_client.tls import Tls


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what names running servers: addresses and TLS.

    Args:
        parser: of a sub-command.
    """
    group = parser.add_argument_group("running servers")
    group.add_argument("--server", metavar="HOST:PORT", help="gRPC address; several with commas")
    group.add_argument("--tls", action="store_true", help="encrypt, and trust the usual public certificates")
    group.add_argument("--tls-ca", metavar="PEM", help="encrypt, and trust what these certificates signed")
    group.add_argument("--tls-certificate", metavar="PEM", help="this client's certificate (mutual TLS)")
    group.add_argument("--tls-key", metavar="PEM", help="its private key")
    group.add_argument("--tls-server-name", metavar="NAME", help="in the servers' certificate, if not the address")


def add_move_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what a move of a label can be told besides.

    Args:
        parser: of a sub-command.
    """
    parser.add_argument(
        "--timeout", type=float, default=300.0, metavar="SECONDS", help="for loading (default: %(default)g)"
    )
    parser.add_argument(
        "--base-path", metavar="DIR", help="the model directory as the servers see it (default: as before, or as here)"
    )


def servers_from(arguments: argparse.Namespace) -> list[str]:
    """The addresses in parsed arguments (of `add_server_arguments`).

    Raises:
        Refused: one is not host:port.
    """
    addresses = [address.strip() for address in (arguments.server or "").split(",") if address.strip()]
    if addresses:
        from htr_client.connection import split_address

        for address in addresses:
            try:
                split_address(address)
            except ValueError as error:
                raise Refused(f"--server: {error}.") from error
    return addresses


def tls_from(arguments: argparse.Namespace) -> Tls | None:
    """The TLS settings in parsed arguments (of `add_server_arguments`); None for plain text.

    Raises:
        Refused: certificate without key or the other way round, or a file cannot be read or is none of its kind.
    """
    parts = (arguments.tls_ca, arguments.tls_certificate, arguments.tls_key, arguments.tls_server_name)
    if not (arguments.tls or any(parts)):
        return None
    from htr_client.tls import Tls

    tls = Tls(*parts)
    try:
        tls.credentials()
    except OSError as error:
        raise Refused(f"{error.filename} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise Refused(f"{error}.") from error
    return tls
