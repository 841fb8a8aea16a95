"""Dynamic service discovery for containers and servers: the public API for applications and authors of plugins.

Every name is loaded on first use: pydantic and structlog alone take longer to import than most commands take to run.
"""

from typing import TYPE_CHECKING

from discovery.system.lazy import lazy_attributes

if TYPE_CHECKING:
    from discovery.checks import Check, NamedProbe, Outcome, Probe, Verdict
    from discovery.errors import ApplyError, CannotStartError, ConfigError, DiscoveryError, RecordError, describe
    from discovery.hookspecs import hookimpl
    from discovery.library.follower import Follower, follow
    from discovery.library.registering import Registration, registered
    from discovery.model import (
        Addresses,
        Backend,
        Changes,
        Endpoint,
        Rejected,
        Service,
        Snapshot,
        State,
        diff,
        join_host_port,
        split_host_port,
    )
    from discovery.plugin import (
        AnyConsumer,
        AnyProvider,
        Candidate,
        Consumer,
        Context,
        Health,
        Inventory,
        LastResort,
        LeftOut,
        PluginConfig,
        Provider,
        Sample,
        Update,
        Validation,
    )
    from discovery.validity import parse_address

__all__ = [
    "Addresses",
    "AnyConsumer",
    "AnyProvider",
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
    "Endpoint",
    "Follower",
    "Health",
    "Inventory",
    "LastResort",
    "LeftOut",
    "NamedProbe",
    "Outcome",
    "PluginConfig",
    "Probe",
    "Provider",
    "RecordError",
    "Registration",
    "Rejected",
    "Sample",
    "Service",
    "Snapshot",
    "State",
    "Update",
    "Validation",
    "Verdict",
    "describe",
    "diff",
    "follow",
    "hookimpl",
    "join_host_port",
    "parse_address",
    "registered",
    "split_host_port",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "discovery.checks": ("Check", "NamedProbe", "Outcome", "Probe", "Verdict"),
        "discovery.codec": ("parse_address",),
        "discovery.errors": (
            "ApplyError",
            "CannotStartError",
            "ConfigError",
            "DiscoveryError",
            "RecordError",
            "describe",
        ),
        "discovery.hookspecs": ("hookimpl",),
        "discovery.library.follower": ("Follower", "follow"),
        "discovery.library.registering": ("Registration", "registered"),
        "discovery.model": (
            "Addresses",
            "Backend",
            "Changes",
            "Endpoint",
            "Rejected",
            "Service",
            "Snapshot",
            "State",
            "diff",
            "join_host_port",
            "split_host_port",
        ),
        "discovery.plugin": (
            "AnyConsumer",
            "AnyProvider",
            "Candidate",
            "Consumer",
            "Context",
            "Health",
            "Inventory",
            "LastResort",
            "LeftOut",
            "PluginConfig",
            "Provider",
            "Sample",
            "Update",
            "Validation",
        ),
    },
)

# Former modules of this package, which plugins may still import until 0.3.
__path__.append(f"{__path__[0]}/deprecated")
