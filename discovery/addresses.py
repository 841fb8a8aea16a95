"""Addresses of this machine, and rules for the addresses to which other machines may connect.

Public API. No function keeps state: any thread may call any function.
"""

import fcntl
import ipaddress
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

__all__ = ["Family", "announceable", "family_of", "is_loopback", "is_unspecified", "primary_address"]

Family = Literal[4, 6]
"""The version of an IP address."""

# Addresses reserved for documentation (RFC 5737, RFC 3849): the kernel routes them as any address elsewhere. No packet
# is sent to them.
_ELSEWHERE = {4: "192.0.2.1", 6: "2001:db8::1"}
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")
_SIOCGIFADDR = 0x8915  # the ioctl that returns an interface's IPv4 address: netdevice(7)
_UNUSABLE_FLAGS = 0x20 | 0x40 | 0x08  # IFA_F_DEPRECATED, IFA_F_TENTATIVE, IFA_F_DADFAILED: linux/if_addr.h


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


def primary_address(family: Family = 4, towards: str | None = None) -> str | None:
    """Return the address from which this machine reaches `towards`, an IP address, or else the rest of the world.

    `family` is the version of IP. The kernel's routes decide; without a route the result is the first announceable
    address of an interface, and None without such an address. If `towards` has the other version, or is reached over
    the loopback, `towards` counts as not given. Sends nothing, and does not block.
    """
    targets = [_ELSEWHERE[family]]
    if towards is not None and family_of(towards) == family:
        targets.insert(0, towards)
    routed = (_source(family, target) for target in targets)
    found = (address for address in (*routed, *_interfaces(family)) if address is not None and announceable(address))
    return next(found, None)


def _source(family: Family, target: str) -> str | None:
    """Return the source address of packets to `target`. Connecting a UDP socket finds the route and sends nothing."""
    with suppress(OSError), socket.socket(_FAMILIES[family], socket.SOCK_DGRAM) as probe:
        probe.connect((target, 9))
        return str(probe.getsockname()[0])
    return None


def _interfaces(family: Family) -> Iterator[str]:
    """Return the addresses of this machine's interfaces, in the order of the interfaces."""
    return _interfaces4() if family == 4 else _interfaces6()


def _interfaces4() -> Iterator[str]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # the interface has no IPv4 address
                reply = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                yield socket.inet_ntoa(reply[20:24])


def _interfaces6() -> Iterator[str]:
    with suppress(OSError):  # a kernel without IPv6
        rows = [line.split() for line in Path("/proc/net/if_inet6").read_text().splitlines()]
        for digits, _, _, _, flags, _ in sorted(rows, key=lambda row: int(row[1], 16)):
            if not int(flags, 16) & _UNUSABLE_FLAGS:
                yield str(ipaddress.IPv6Address(bytes.fromhex(digits)))


def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the IP address that `address` is, or None. An IPv4-mapped IPv6 address becomes the IPv4 address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed
