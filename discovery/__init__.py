"""Dynamic service discovery for containers and servers: what plugin authors import."""

from discovery.errors import ApplyError, CannotStartError, ConfigError, DiscoveryError
from discovery.hookspecs import hookimpl
from discovery.model import Backend, Changes, Rejected, Service, Snapshot, State, diff
from discovery.plugin import Consumer, Context, Health, PluginConfig, Update

__all__ = [
    "ApplyError",
    "Backend",
    "CannotStartError",
    "Changes",
    "ConfigError",
    "Consumer",
    "Context",
    "DiscoveryError",
    "Health",
    "PluginConfig",
    "Rejected",
    "Service",
    "Snapshot",
    "State",
    "Update",
    "diff",
    "hookimpl",
]
