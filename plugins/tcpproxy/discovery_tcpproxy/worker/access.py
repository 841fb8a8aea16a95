"""Access control: networks that are allowed or denied, and limits of connections in total and per client. Pure."""

import math
import socket
from bisect import bisect_right
from collections.abc import Iterable

_MAPPED = "::ffff:"


def plain(address: str) -> str:
    """Return the IPv4 address of an IPv4-mapped IPv6 address; any other address is returned as it is."""
    return address[len(_MAPPED) :] if address.startswith(_MAPPED) and "." in address else address


class Access:
    """Allow and deny lists. `deny` takes precedence; a list `allow` that is not empty excludes all other networks.

    IPv4 clients match IPv4 networks alone, also clients of an IPv6 socket: `::/0` does not contain them.
    A client without an address (of a Unix socket, or hidden by a proxy) is in no network.
    """

    __slots__ = ("_allow", "_deny", "open")

    def __init__(self, allow: Iterable[str] = (), deny: Iterable[str] = ()) -> None:
        """Create lists of networks (`10.0.0.0/8`) and IP addresses. Raises ValueError with one line."""
        self._allow = _Networks(allow)
        self._deny = _Networks(deny)
        self.open = not (self._allow or self._deny)
        """True if both lists are empty, so that every client is permitted."""

    def permits(self, client: str) -> bool:
        """Return True if a client at this IP address may connect; the address is empty for a Unix socket."""
        if self.open:
            return True
        number = _number(plain(client))
        return number not in self._deny and (not self._allow or number in self._allow)


class Senders:
    """Proxies whose PROXY protocol headers are believed: the option `accept_proxy`."""

    __slots__ = ("_local", "_networks", "any")

    def __init__(self, senders: Iterable[str] = ()) -> None:
        """Create a set of networks, IP addresses, and `unix` for clients of a Unix socket. Raises ValueError."""
        named = frozenset(senders)
        self._local = "unix" in named
        self._networks = _Networks(named - {"unix"})
        self.any = bool(named)
        """True if the set is not empty."""

    def include(self, client: str) -> bool:
        """Return True if the set includes a client at this IP address; the address is empty for a Unix socket."""
        return _number(plain(client)) in self._networks if client else self._local


class Limits:
    """Limits of the number of connections, in total and per client address; None means unlimited."""

    __slots__ = ("_counts", "_per_client", "_total", "limited", "open")

    def __init__(self, total: int | None = None, per_client: int | None = None) -> None:
        """Create limits without any connection."""
        self.open = 0
        self._counts: dict[str, int] = {}
        self.change(total, per_client)

    def change(self, total: int | None, per_client: int | None) -> None:
        """Change the limits for new connections; existing connections count."""
        self.limited = total is not None or per_client is not None
        self._total = math.inf if total is None else total
        self._per_client = math.inf if per_client is None else per_client

    def take(self, client: str) -> bool:
        """Count a connection of a client at a `plain` address, and return True; return False at a limit.

        Clients without an address (empty) have no limit of their own, since they cannot be distinguished.
        """
        if self.open >= self._total or (client and self._counts.get(client, 0) >= self._per_client):
            return False
        self.add(client)
        return True

    def add(self, client: str) -> None:
        """Count a connection of a client, regardless of the limits."""
        self._counts[client] = self._counts.get(client, 0) + 1
        self.open += 1

    def release(self, client: str) -> None:
        """Stop counting a connection of a client."""
        self.open -= 1
        count = self._counts[client] - 1
        if count:
            self._counts[client] = count
        else:
            del self._counts[client]


class _Networks:
    """Set of IP addresses, as sorted ranges of integers."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, networks: Iterable[str]) -> None:
        ranges: list[tuple[int, int]] = sorted(map(_range, networks))
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in ranges:
            if self._lasts and first <= self._lasts[-1]:
                self._lasts[-1] = max(self._lasts[-1], last)
            else:
                self._firsts.append(first)
                self._lasts.append(last)

    def __len__(self) -> int:
        return len(self._firsts)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._firsts, number)
        return at > 0 and number <= self._lasts[at - 1]


_IPV4 = 1 << 128
"""Offset of IPv4 addresses, above all IPv6 addresses, so that one integer represents an address of either version."""
_NOWHERE = -1
"""Stands for text that is no IP address, and is in no range."""


def _number(address: str) -> int:
    try:
        if ":" in address:
            return int.from_bytes(socket.inet_pton(socket.AF_INET6, address.partition("%")[0]))
        return _IPV4 + int.from_bytes(socket.inet_pton(socket.AF_INET, address))
    except (OSError, ValueError):
        return _NOWHERE


def _range(text: str) -> tuple[int, int]:
    import ipaddress  # workers without lists do not need the module

    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither a network such as 10.0.0.0/8 nor an IP address") from None
    first, last = int(network.network_address), int(network.broadcast_address)
    if isinstance(network, ipaddress.IPv4Network):
        return _IPV4 + first, _IPV4 + last
    if first >> 32 == 0xFFFF:
        return _IPV4 + (first & 0xFFFFFFFF), _IPV4 + (last & 0xFFFFFFFF)
    return first, last
