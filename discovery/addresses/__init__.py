"""Addresses of this machine: which addresses other machines may connect to, and which address is announced.

Public API. `rule` states the rule by which the announced address is chosen. No function keeps state: any thread may
call any function. An object of `OwnAddresses` is for one thread at a time.
"""

from discovery.addresses.interfaces import InterfaceAddress, primary_address
from discovery.addresses.kinds import Family, announceable, family_of, is_loopback, is_unspecified
from discovery.addresses.machine import OwnAddresses
from discovery.addresses.rule import SOURCES, Announced, MachineFacts, announced_address, is_dynamic, own_addresses

__all__ = [
    "SOURCES",
    "Announced",
    "Family",
    "InterfaceAddress",
    "MachineFacts",
    "OwnAddresses",
    "announceable",
    "announced_address",
    "family_of",
    "is_dynamic",
    "is_loopback",
    "is_unspecified",
    "own_addresses",
    "primary_address",
]
