"""Addresses of this machine: which addresses other machines may connect to, and which address is announced.

Public API. `rule` states the rule by which the announced address is chosen. No function keeps state: any thread may
call any function. An object of `OwnAddresses` is for one thread at a time.
"""

from discovery.addresses.interfaces import primary_address
from discovery.addresses.kinds import Family, announceable, family_of, is_loopback, is_unspecified
from discovery.addresses.machine import OwnAddresses
from discovery.addresses.rule import SOURCES, Announced, announced_address, is_dynamic

__all__ = [
    "SOURCES",
    "Announced",
    "Family",
    "OwnAddresses",
    "announceable",
    "announced_address",
    "family_of",
    "is_dynamic",
    "is_loopback",
    "is_unspecified",
    "primary_address",
]
