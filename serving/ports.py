"""Looks whether ports can be had, before anything slow is begun, and says what to do when one cannot."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack

from serving.status import Code, ServingError, invalid

_LARGEST = 2**16 - 1


def check(host: str, ports: Mapping[str, int]) -> None:
    """Refuses ports on which this server could not listen.

    Args:
        host: Address to bind.
        ports: Name of the flag to its value; 0 and, but for gRPC, -1 stand for a free port or none.

    Raises:
        ServingError: A port is out of range, taken, forbidden, or asked for twice, or there is no such host.
    """
    seen: dict[int, str] = {}
    with ExitStack() as sockets:
        for flag, port in ports.items():
            if port > _LARGEST:
                raise invalid(f"--{flag}={port}: ports end at {_LARGEST}.")
            lowest = 0 if flag == "port" else -1  # gRPC takes others modulo 65536
            if port < lowest:
                raise invalid(f"--{flag}={port}: ports begin at 1; {lowest} picks a free one.")
            if port > 0 and port in seen:
                raise invalid(f"--{seen[port]} and --{flag} are both {port}: each needs a port of its own.")
            seen[port] = flag
            if port >= 0:
                sockets.enter_context(_listen(host, port, flag))


def check_socket(path: str) -> None:
    """Refuses a UNIX socket that another server has: gRPC would take it away from that one, which would not notice.

    Args:
        path: Path of the socket, empty for none.

    Raises:
        ServingError: A process answers there.
    """
    if not path:
        return
    with socket.socket(socket.AF_UNIX) as caller:
        try:
            caller.connect(path)
        except OSError:
            return  # there is none, or one that a process has left behind
    text = (
        f"cannot listen on unix:{path}: another server has this socket: stop it, or choose another --grpc_socket_path."
    )
    raise ServingError(Code.UNAVAILABLE, text)


def _listen(host: str, port: int, flag: str) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise cannot_listen(host, port, flag, error) from error


def cannot_listen(host: str, port: int, flag: str, error: OSError) -> ServingError:
    """Returns the error for a port that cannot be had.

    Args:
        host: Address to bind.
        port: Port to bind.
        flag: Name of the flag that chose the port.
        error: What the system says.

    Returns:
        UNAVAILABLE, with what to do.
    """
    # Python adds the address to some texts of the system.
    reason = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else error.strerror or str(error)
    text = f"cannot listen on {f'[{host}]' if ':' in host else host}:{port}: {reason}."
    if error.errno == errno.EADDRINUSE:
        any_free = 0 if flag == "port" else -1
        text += (
            f" Another model server may be running there (`ss -ltnp` shows who holds it): stop it, or choose another "
            f"port with --{flag} ({any_free} picks a free one)."
        )
    return ServingError(Code.UNAVAILABLE, text)
