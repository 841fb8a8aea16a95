"""Where backends are recorded: the protocol every registry implements, and how one is opened by URL."""

from discovery.registry.base import (
    Delta,
    History,
    Lease,
    Registry,
    RegistryEvent,
    Reset,
    Stale,
    TellsAlarms,
    TellsWhenFree,
)
from discovery.registry.schemes import BUILT_IN, RegistryFactory, open_registry
from discovery.registry.url import RegistryURL

__all__ = [
    "BUILT_IN",
    "Delta",
    "History",
    "Lease",
    "Registry",
    "RegistryEvent",
    "RegistryFactory",
    "RegistryURL",
    "Reset",
    "Stale",
    "TellsAlarms",
    "TellsWhenFree",
    "open_registry",
]
