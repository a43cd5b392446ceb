"""Options of the commands that ask running model servers or move their labels: addresses, TLS, how long to wait."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Collection
from typing import TYPE_CHECKING

from pipeline.commands.common import CommandError
from pipeline.exit_codes import USAGE

if TYPE_CHECKING:
    from htr_client.tls import Tls


def add_server_arguments(command: argparse.ArgumentParser, move: bool = False) -> None:
    """Adds the options that name running servers.

    Args:
        command: Parser of the command.
        move: Whether the command moves a label, and takes the options for that too.
    """
    from htr_client.cli import add_tls_arguments

    group = command.add_argument_group("running servers")
    group.add_argument("--server", metavar="HOST:PORT", help="gRPC address; several with commas")
    add_tls_arguments(group)
    if move:
        command.add_argument(
            "--timeout", type=float, default=300.0, metavar="SECONDS", help="for loading (default: %(default)g)"
        )
        command.add_argument(
            "--base-path", metavar="DIR",
            help="the model directory as the servers see it (default: as before, or as here)",
        )  # fmt: skip


def servers_from(arguments: argparse.Namespace) -> list[str]:
    """The addresses in parsed arguments (of `add_server_arguments`).

    Raises:
        CommandError: One is not host:port.
    """
    return _servers(arguments)[0]


def server_options(arguments: argparse.Namespace, addresses: Collection[str]) -> str:
    """What a suggested command needs to reach servers as parsed arguments (of `add_server_arguments`) did.

    Args:
        arguments: Parsed arguments.
        addresses: Addresses of the servers, which a name in the arguments may have stood for.

    Returns:
        Options, with a space in front.
    """
    from htr_client.network.addresses import split_address

    given, encrypted = _servers(arguments)
    options = [f"--server {shlex.quote(','.join(addresses))}"]
    files = {name: getattr(arguments, f"tls_{name}") for name in ("ca", "certificate", "key")}
    options += [f"--tls-{name} {shlex.quote(os.path.abspath(path))}" for name, path in files.items() if path]
    if (arguments.tls or encrypted) and not any(files.values()):
        options.append("--tls")
    # Certificates hold the name that was given, not what it stands for.
    hosts = {split_address(address)[0] for address in given}
    resolved = len(hosts) == 1 and not set(addresses) & set(given)
    if name := arguments.tls_server_name or (hosts.pop() if resolved and len(options) > 1 else None):
        options.append(f"--tls-server-name {shlex.quote(name)}")
    return "".join(f" {option}" for option in options)


def _servers(arguments: argparse.Namespace) -> tuple[list[str], bool | None]:
    """The addresses, and whether they ask for encryption."""
    given = ",".join(filter(None, map(str.strip, (arguments.server or "").split(","))))
    if not given:
        return [], None
    from htr_client.network.addresses import read_addresses, split_address

    try:
        addresses, encrypted = read_addresses(given)
        for address in addresses:
            split_address(address)  # of a gRPC target it is not known how many servers it stands for
    except ValueError as error:
        raise CommandError(f"--server: {error}.", USAGE) from error
    return addresses, encrypted


def tls_from(arguments: argparse.Namespace) -> Tls | None:
    """The TLS settings in parsed arguments (of `add_server_arguments`); None for plain text.

    Raises:
        CommandError: Certificate without key or the other way round, or a file cannot be read or is none of its kind.
    """
    parts = (arguments.tls_ca, arguments.tls_certificate, arguments.tls_key, arguments.tls_server_name)
    encrypted = _servers(arguments)[1]
    wanted = arguments.tls or any(parts)
    if encrypted is False and wanted:
        raise CommandError("--server: http:// and grpc:// mean that the connection is not encrypted.", USAGE)
    if not (wanted or encrypted):
        return None
    from htr_client.tls import Tls

    tls = Tls(*parts)
    try:
        tls.credentials()
    except OSError as error:
        raise CommandError(f"{error.filename} cannot be read: {error.strerror}.", USAGE) from error
    except ValueError as error:
        raise CommandError(f"{error}.", USAGE) from error
    return tls
