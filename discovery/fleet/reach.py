"""Whom a daemon asks: an announced address is asked only within the networks of the settings. Pure."""

import ipaddress
from collections.abc import Collection, Iterable

from discovery.addresses import is_loopback
from discovery.addresses.kinds import is_destination
from discovery.fleet.announcement import Announcement


def first_admitted(addresses: Iterable[str], networks: Collection[str]) -> str | None:
    """Return the first of the IP addresses that any of the networks has, in the shortest form; None without any.

    An IPv4 address in the form of IPv6 counts as the IPv4 address that the kernel connects to. An address that is no
    destination is in no network: a connection to 0.0.0.0 would be one to this machine. Nor is one with a scope.
    """
    parsed = [ipaddress.ip_network(each) for each in networks]
    for text in addresses:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            continue
        if isinstance(address, ipaddress.IPv6Address):
            address = address.ipv4_mapped or address
        if not is_destination(str(address)):
            continue
        if any(address.version == each.version and address in each for each in parsed):
            return str(address)
    return None


def unreachable(announcement: Announcement, machine: str, addresses: Collection[str]) -> str | None:
    """Return why nobody on `machine` can reach the daemon, as announced; None if it may be asked.

    `addresses` are those of its host: a name may stand for the loopback, too.
    """
    if announcement.machine != machine and all(map(is_loopback, addresses)):
        return (
            f"its admin endpoint listens on the loopback of {announcement.machine} alone:"
            " have it listen on an address of the network there (admin, announce_address)"
        )
    return None
