"""Dynamic service discovery for containers and servers: what plugin authors import.

Loaded on first use: pydantic and structlog alone take longer to import than most commands take to run.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from discovery.checks import Check, Outcome, Probe, Verdict
    from discovery.errors import ApplyError, CannotStartError, ConfigError, DiscoveryError
    from discovery.hookspecs import hookimpl
    from discovery.model import Backend, Changes, Rejected, Service, Snapshot, State, diff
    from discovery.plugin import (
        Candidate,
        Consumer,
        Context,
        Health,
        Inventory,
        PluginConfig,
        Provider,
        Sample,
        Update,
        Validation,
    )

__all__ = [
    "ApplyError",
    "Backend",
    "Candidate",
    "CannotStartError",
    "Changes",
    "Check",
    "ConfigError",
    "Consumer",
    "Context",
    "DiscoveryError",
    "Health",
    "Inventory",
    "Outcome",
    "PluginConfig",
    "Probe",
    "Provider",
    "Rejected",
    "Sample",
    "Service",
    "Snapshot",
    "State",
    "Update",
    "Validation",
    "Verdict",
    "diff",
    "hookimpl",
]

_HOMES = ("errors", "model", "checks", "plugin", "hookspecs")  # lightest first


def __getattr__(name: str) -> Any:
    if name in __all__:
        for home in _HOMES:
            module = import_module(f"discovery.{home}")
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
