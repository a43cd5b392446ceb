"""Where the servers are: addresses as users write them, and as gRPC takes them."""

import ipaddress
import os
import re
import socket
import threading
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future

from htr_client.errors import ServerUnavailable
from htr_client.network.threads import begun

_GRPC_SCHEME = re.compile(r"(dns|ipv4|ipv6|unix|unix-abstract|vsock|xds|passthrough):")
# Schemes of URLs that users give instead of an address, and whether they ask for encryption.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_ENCRYPTED = {"http": False, "grpc": False, "https": True, "grpcs": True}
_ADDRESS = re.compile(r"(\[[^\s/@\[\]]+\]|[^\s:/@\[\]]+):([0-9]{1,5})")
# An overloaded server lets many calls fail; the resolver is asked at most once in so many seconds.
_LOOKUP_SECONDS = 1.0
SOON = 0.1
"""Seconds that a call waits for the resolver before it goes over the connection that there is."""


def read_addresses(target: str | Sequence[str]) -> tuple[list[str], bool | None]:
    """What the settings say about where the servers are.

    Args:
        target: "host:port", several of them (a list, or one string with commas), or a gRPC target with a scheme. A URL
            (http, https, grpc, grpcs) without a path stands for its host:port.

    Returns:
        "host:port" of each server, or one gRPC target; and whether URLs ask for encryption (None without one).

    Raises:
        ValueError: When there is no address, a scheme is unknown, or an address is not host:port.
        TypeError: When it is not addresses at all.
    """
    several = isinstance(target, Collection) and not isinstance(target, (str, bytes))
    for given in target if several else [target]:
        if not isinstance(given, str):  # without it: a password may stand in it
            unset = "; is a variable of the environment not set?" if given is None else ""
            raise TypeError(f"an address is a str, such as 'localhost:8500', not a {type(given).__name__}{unset}")
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
                    f"{_shown(address)} begins with {scheme}://, but an address is HOST:PORT, such as localhost:8500 "
                    "(or with http://, grpc://, https:// or grpcs:// before it, the last two for an encrypted "
                    "connection)"
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


def split_address(address: str) -> tuple[str, int]:
    """Host and port of "host:port".

    Args:
        address: One address; an IPv6 address in brackets.

    Returns:
        The host without brackets, and the port.

    Raises:
        ValueError: When it is something else, or the port is impossible; says what to write instead.
    """
    found = _ADDRESS.fullmatch(address)
    if found is not None and 0 < int(found.group(2)) < 2**16:
        host = found.group(1)
        if not host.startswith("["):
            return host, int(found.group(2))
        if ":" in host and _is_number(host[1:-1]):
            return host[1:-1], int(found.group(2))
    if "@" in address:
        why = f"an address is HOST:PORT without a user, not {_shown(address)}: metadata=... can send a token"
    elif _is_number(address) and ":" in address:
        why = f"an IPv6 address stands in brackets, with a port behind them, such as [{address}]:8500, not {address!r}"
    else:
        why = f"an address is HOST:PORT, such as localhost:8500 (ports go from 1 to 65535), not {address!r}"
    raise ValueError(why)


def _shown(address: str) -> str:
    """An address for a message, without the password that may stand in it."""
    return repr(re.sub(r"[^/]*@", "...@", address))


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


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


def grpc_target(target: str | Sequence[str]) -> str:
    """The gRPC target for one address or several, as of now.

    Args:
        target: As for `read_addresses`. Names among several are looked up, since gRPC has no target for a list of
            names; those that are not known are left out while another one is. It may take the resolver's seconds.

    Returns:
        A target over which round_robin balances.

    Raises:
        ValueError: As `read_addresses`; when of several servers one is reached over IPv4 only and one over IPv6 only.
        ServerUnavailable: When none of several names is known.
    """
    addresses, _ = read_addresses(target)
    if len(addresses) == 1:
        return addresses[0] if _GRPC_SCHEME.match(addresses[0]) else f"dns:///{addresses[0]}"
    found, unknown = {}, []
    for address in addresses:
        try:
            found[address] = _by_family(address)
        except (OSError, UnicodeError) as error:
            unknown.append(f"{split_address(address)[0]} ({error})")
    if not found:
        raise ServerUnavailable(f"None of the servers' names can be resolved: {', '.join(unknown)}.")
    # A gRPC target is of one family: IPv4 when every server has such an address, else IPv6.
    for family in (socket.AF_INET, socket.AF_INET6):
        if all(places[family] for places in found.values()):
            places = dict.fromkeys(place for one in found.values() for place in one[family])
            return f"{'ipv4' if family == socket.AF_INET else 'ipv6'}:{','.join(places)}"
    without = [
        next(address for address in found if not found[address][family]) for family in (socket.AF_INET, socket.AF_INET6)
    ]
    raise ValueError(
        f"{without[0]} has no IPv4 address and {without[1]} no IPv6 address, and gRPC reaches several servers over one "
        "of the two only: give addresses of one kind, or one DNS name that stands for all servers"
    )


def _by_family(address: str) -> dict[socket.AddressFamily, list[str]]:
    """The addresses behind one "host:port", as gRPC targets have them, of IPv4 and of IPv6."""
    host, port = split_address(address)
    places: dict[socket.AddressFamily, list[str]] = {socket.AF_INET: [], socket.AF_INET6: []}
    for family, _, _, _, (place, *_) in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        if family in places:
            places[family].append(f"{place}:{port}" if family == socket.AF_INET else f"[{place}]:{port}")
    return places


class Servers:
    """The gRPC target of a client: that of a list with names is made anew when the servers may have other addresses.

    A single name is looked up by gRPC. After a lookup that failed, gRPC waits longer and longer, up to two minutes,
    before the same channel asks again; another channel asks at once.

    Args:
        addresses: As `read_addresses` returns them.

    Attributes:
        blocks: Whether `target` may have to wait for the resolver.
        one_name: Whether gRPC looks the name up.

    Raises:
        ValueError: As `grpc_target`, where there is no name to look up.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses
        self.blocks = len(addresses) > 1 and not all(_is_number(split_address(each)[0]) for each in addresses)
        self.one_name = [_is_number(host) for host, _ in hosts_of(addresses)] == [False]
        self._fixed = None if self.blocks else grpc_target(addresses)
        self._failed = False
        self._asked_at = 0.0
        self._lock = threading.Lock()
        self._looking: Future[str] | None = None
        self._process = 0  # in which that began

    def failed(self, reached: bool) -> None:
        """A call failed.

        Args:
            reached: Whether it reached a server, which gave no answer in time or was not available.
        """
        if self.blocks or (self.one_name and not reached):
            self._failed = True

    def may_have_moved(self) -> bool:
        """Whether to look the target up again, or the answer is there, and open another connection if it differs.

        Another connection looks a single name up again.
        """
        looking = self._looking
        if looking is not None and self._process == os.getpid():
            return looking.done()
        return self._failed and time.monotonic() - self._asked_at >= _LOOKUP_SECONDS

    def look_up(self) -> "Future[str]":
        """Begins to look the target up, unless that is under way, in a thread: a resolver may take many seconds.

        Returns:
            What `target` takes when it is done.
        """
        with self._lock:
            if self._looking is None or self._process != os.getpid():  # threads do not survive a fork
                self._asked_at, self._failed = time.monotonic(), False
                self._process = os.getpid()
                if self._fixed is not None:
                    self._looking = Future()
                    self._looking.set_result(self._fixed)
                else:
                    self._looking = begun("htr-names", lambda: grpc_target(self._addresses))
            return self._looking

    def target(self, looking: "Future[str]", known: str | None = None) -> str:
        """The target that was looked up.

        Args:
            looking: From `look_up`, and done.
            known: The target of the open connection, if there is one, which is good enough where the resolver fails.

        Returns:
            As `grpc_target`.

        Raises:
            ValueError: As `grpc_target`.
            ServerUnavailable: As `grpc_target`.
        """
        with self._lock:
            if self._looking is looking:
                self._looking = None
        try:
            return looking.result()
        except (ServerUnavailable, ValueError):
            if known is None:
                raise
            return known
