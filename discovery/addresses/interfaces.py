"""Addresses of this machine: of its network interfaces, and the address from which a destination is reached."""

import array
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from discovery.addresses.kinds import Family, announceable, family_of

# Addresses reserved for documentation (RFC 5737, RFC 3849): the kernel routes them as any address elsewhere. No packet
# is sent to them.
_ELSEWHERE = {4: "192.0.2.1", 6: "2001:db8::1"}
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}

# The ioctl is used, and no netlink socket: a hardened unit of systemd may forbid the latter.
_SIOCGIFCONF = 0x8912  # the ioctl that returns the IPv4 addresses of all interfaces: netdevice(7)
_IFREQ_BYTES = 40 if struct.calcsize("P") == 8 else 32  # struct ifreq: a name of 16 bytes, and a union
_MOST_ADDRESSES = 4096
"""IPv4 addresses that are read: a router may have hundreds, and the buffer must have some size."""
_UNUSABLE_FLAGS = 0x20 | 0x40 | 0x08  # IFA_F_DEPRECATED, IFA_F_TENTATIVE, IFA_F_DADFAILED: linux/if_addr.h
_TEMPORARY_FLAG = 0x01  # IFA_F_TEMPORARY, a privacy address (RFC 8981): replaced within days


class InterfaceAddress(NamedTuple):
    """The name of a network interface, and an IP address of the interface in canonical form."""

    interface: str
    address: str


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
    own = (each.address for each in (_addresses4() if family == 4 else _addresses6()))
    return next((each for each in (*routed, *own) if each is not None and announceable(each)), None)


def interface_addresses() -> tuple[InterfaceAddress, ...]:
    """Return the usable addresses of all interfaces: IPv4 first, in the kernel's order, temporary ones last.

    An alias of an interface (`eth0:1`) counts as an interface of its own.
    """
    return (*_addresses4(), *_addresses6())


def _source(family: Family, target: str) -> str | None:
    """Return the source address of packets to `target`. Connecting a UDP socket finds the route and sends nothing."""
    with suppress(OSError), socket.socket(_FAMILIES[family], socket.SOCK_DGRAM) as probe:
        probe.connect((target, 9))
        return str(probe.getsockname()[0])
    return None


def _addresses4() -> Iterator[InterfaceAddress]:
    buffer = array.array("B", bytes(_IFREQ_BYTES * _MOST_ADDRESSES))
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        request = struct.pack("iP", len(buffer), buffer.buffer_info()[0])  # struct ifconf
        length, _ = struct.unpack("iP", fcntl.ioctl(asking, _SIOCGIFCONF, request))
        for start in range(0, length, _IFREQ_BYTES):
            name, address = bytes(buffer[start : start + 16]), bytes(buffer[start + 20 : start + 24])
            yield InterfaceAddress(name.partition(b"\0")[0].decode(errors="replace"), socket.inet_ntoa(address))


def _addresses6() -> Iterator[InterfaceAddress]:
    with suppress(OSError):  # a kernel without IPv6
        rows = [line.split() for line in Path("/proc/net/if_inet6").read_text().splitlines()]
        for digits, _, _, _, flags, name in sorted(rows, key=_place):
            if not int(flags, 16) & _UNUSABLE_FLAGS:
                yield InterfaceAddress(name, str(ipaddress.IPv6Address(bytes.fromhex(digits))))


def _place(row: list[str]) -> tuple[bool, int]:
    """Return the place of a row of if_inet6 among the others: temporary addresses last, then by interface."""
    return bool(int(row[4], 16) & _TEMPORARY_FLAG), int(row[1], 16)
