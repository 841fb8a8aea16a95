"""Kinds of addresses: the version, and whether another machine may be told to connect to an address. Pure."""

import ipaddress
from typing import Literal

Family = Literal[4, 6]
"""The version of an IP address."""

_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")


def family_of(address: str) -> Family | None:
    """Return the version, 4 or 6, of the IP address `address`; None for a host name or any other text."""
    parsed = _parse(address)
    return None if parsed is None else 4 if parsed.version == 4 else 6


def is_unspecified(address: str) -> bool:
    """Return True if `address` means every address of a machine: `0.0.0.0`, `::`, `*` or empty text."""
    parsed = _parse(address)
    return parsed.is_unspecified if parsed is not None else address in ("", "*")


def is_loopback(address: str) -> bool:
    """Return True if `address` is a loopback address, `localhost` or a name below `localhost`.

    On each machine these addresses mean the machine itself.
    """
    parsed = _parse(address)
    if parsed is None:
        name = address.lower().rstrip(".")
        return name == "localhost" or name.endswith(".localhost")
    return parsed.is_loopback


def is_destination(address: str) -> bool:
    """Return True if one can connect to the IP address `address`: not unspecified, multicast or broadcast.

    The same addresses in their IPv4-mapped form count as well, and no address with a scope is one that every machine
    understands. For the core: of any other text the result is False.
    """
    parsed = _parse(address)
    if parsed is None or getattr(parsed, "scope_id", None):
        return False
    return not (parsed.is_unspecified or parsed.is_multicast or parsed == _BROADCAST)


def announceable(address: str, *, loopback: bool = False) -> bool:
    """Return True if another machine may be told to connect to `address`, an IP address or a host name.

    False for an address that is unspecified, multicast, broadcast, reserved or link-local (on each link a link-local
    address means another machine). A loopback address counts only with `loopback`. Host names are not looked up: only
    the names of the loopback are refused.
    """
    if is_unspecified(address):
        return False
    if is_loopback(address):
        return loopback
    parsed = _parse(address)
    if parsed is None:
        return ":" not in address
    if parsed.version == 4 and (parsed.is_reserved or parsed in _THIS_NETWORK):  # broadcast is among the reserved
        return False
    return not (parsed.is_multicast or parsed.is_link_local)


def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the IP address that `address` is, or None. An IPv4-mapped IPv6 address becomes the IPv4 address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed
