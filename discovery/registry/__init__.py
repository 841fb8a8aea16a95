"""Registries: the protocol that every registry implements, records, and registries opened by URL.

Public API.
"""

from discovery.codec import Record, decode, encode
from discovery.errors import (
    AccessDeniedError,
    CannotBeAskedError,
    HandedOverError,
    LeaseLostError,
    OwnedByAnotherError,
    RegistryError,
    RegistryUnavailableError,
)
from discovery.registry.base import (
    Delta,
    HandsOver,
    History,
    Lease,
    Member,
    Membership,
    Registry,
    RegistryEvent,
    Reset,
    Stale,
    TellsAlarms,
    TellsMembers,
    TellsWhenFree,
)
from discovery.registry.schemes import BUILT_IN, RegistryFactory, open_registry
from discovery.registry.url import RegistryURL
from discovery.validity import MAX_LABEL_VALUE, MAX_LABELS, validate

__all__ = [
    "BUILT_IN",
    "MAX_LABELS",
    "MAX_LABEL_VALUE",
    "AccessDeniedError",
    "CannotBeAskedError",
    "Delta",
    "HandedOverError",
    "HandsOver",
    "History",
    "Lease",
    "LeaseLostError",
    "Member",
    "Membership",
    "OwnedByAnotherError",
    "Record",
    "Registry",
    "RegistryError",
    "RegistryEvent",
    "RegistryFactory",
    "RegistryURL",
    "RegistryUnavailableError",
    "Reset",
    "Stale",
    "TellsAlarms",
    "TellsMembers",
    "TellsWhenFree",
    "decode",
    "encode",
    "open_registry",
    "validate",
]
