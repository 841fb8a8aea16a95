"""Which clients may connect: networks that are allowed or denied, and limits in all and per client address. Pure."""

import math
import socket
from bisect import bisect_right
from collections.abc import Iterable

_MAPPED = "::ffff:"


def plain(address: str) -> str:
    """An IP address as clients are known by: an IPv4 address mapped into IPv6 is that IPv4 address."""
    return address[len(_MAPPED) :] if address.startswith(_MAPPED) and "." in address else address


class Access:
    """Allow and deny lists. Deny wins; once anything is allowed, nothing else is.

    IPv4 clients are matched by IPv4 networks alone, also where they come in through an IPv6 socket: `::/0` is not them.
    A client without an address (of a Unix socket, or hidden by a proxy) is in no network.
    """

    __slots__ = ("_allow", "_deny", "open")

    def __init__(self, allow: Iterable[str] = (), deny: Iterable[str] = ()) -> None:
        """Take networks, `10.0.0.0/8`, or single addresses. Raises ValueError, in a line, for what is neither."""
        self._allow = _Networks(allow)
        self._deny = _Networks(deny)
        self.open = not (self._allow or self._deny)
        """Whether there are no lists, so that everybody is permitted."""

    def permits(self, client: str) -> bool:
        """Whether a client at this IP address (empty: none) may connect."""
        if self.open:
            return True
        number = _number(plain(client))
        return number not in self._deny and (not self._allow or number in self._allow)


class Senders:
    """The clients whose PROXY protocol headers are believed: `networks.Senders`."""

    __slots__ = ("_local", "_networks", "any")

    def __init__(self, senders: Iterable[str] = ()) -> None:
        """Take networks, and `unix` for clients of a Unix socket. Raises ValueError for what is neither."""
        named = frozenset(senders)
        self._local = "unix" in named
        self._networks = _Networks(named - {"unix"})
        self.any = bool(named)
        """Whether there is anybody."""

    def include(self, client: str) -> bool:
        """Whether a client at this IP address (empty: of a Unix socket) is one of them."""
        return _number(plain(client)) in self._networks if client else self._local


class Limits:
    """The limits of connections, in all and per client address; None: unlimited."""

    __slots__ = ("_counts", "_per_client", "_total", "limited", "open")

    def __init__(self, total: int | None = None, per_client: int | None = None) -> None:
        """Begin with none."""
        self.open = 0
        self._counts: dict[str, int] = {}
        self.change(total, per_client)

    def change(self, total: int | None, per_client: int | None) -> None:
        """Limit what comes from now on; what is there already counts."""
        self.limited = total is not None or per_client is not None
        self._total = math.inf if total is None else total
        self._per_client = math.inf if per_client is None else per_client

    def take(self, client: str) -> bool:
        """Count a connection of a client, known by `plain`; False, without counting it, if there may be no more.

        Clients without an address (empty) are limited in all alone: nobody could tell one from another.
        """
        if self.open >= self._total or (client and self._counts.get(client, 0) >= self._per_client):
            return False
        self.add(client)
        return True

    def add(self, client: str) -> None:
        """Count a connection of a client in any case."""
        self._counts[client] = self._counts.get(client, 0) + 1
        self.open += 1

    def release(self, client: str) -> None:
        """Count a connection that was taken no longer."""
        self.open -= 1
        count = self._counts[client] - 1
        if count:
            self._counts[client] = count
        else:
            del self._counts[client]


class _Networks:
    """A set of addresses, as ranges in order."""

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


_IPV4 = 1 << 128  # IPv4 comes after all of IPv6, so that one number tells both
_NOWHERE = -1


def _number(address: str) -> int:
    try:
        if ":" in address:
            return int.from_bytes(socket.inet_pton(socket.AF_INET6, address.partition("%")[0]))
        return _IPV4 + int.from_bytes(socket.inet_pton(socket.AF_INET, address))
    except (OSError, ValueError):
        return _NOWHERE


def _range(text: str) -> tuple[int, int]:
    import ipaddress  # a worker without lists starts without it

    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(f"{text!r} is no network, as 10.0.0.0/8 is, and no IP address") from None
    first, last = int(network.network_address), int(network.broadcast_address)
    if isinstance(network, ipaddress.IPv4Network):
        return _IPV4 + first, _IPV4 + last
    if first >> 32 == 0xFFFF:
        return _IPV4 + (first & 0xFFFFFFFF), _IPV4 + (last & 0xFFFFFFFF)
    return first, last
