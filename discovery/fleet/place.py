"""Where a registry records daemons: at a prefix apart from that of the services. Reads links in paths, and no more."""

import os
from dataclasses import replace

from discovery.errors import ConfigError
from discovery.registry.url import RegistryURL

DEFAULT_PREFIX = "/discovery"
"""The prefix of daemons in etcd. A file registry has no default: whose directory that is, the operator decides."""
_LONGEST_PREFIX = 1024
"""Characters of a prefix, each of which stands in every key."""


def valid_prefix(prefix: str) -> str:
    """Return a prefix without a final slash. Raises ValueError, one line."""
    path = prefix.rstrip("/")
    if not path.startswith("/") or "//" in path or not path.isprintable() or len(path) > _LONGEST_PREFIX:
        raise ValueError(f"{prefix[:60]!r} is not a prefix: write {DEFAULT_PREFIX}, or for a file registry a directory")
    return path


def fleet_url(registry: RegistryURL, prefix: str | None) -> RegistryURL:
    """Return the URL of the same registry at the prefix of the daemons. `prefix` is None for the default.

    Raises ConfigError if the registry has no such place, or if the prefix overlaps with that of the services.
    """
    if registry.scheme == "file":
        if prefix is None:
            raise ConfigError(
                f"registry {registry}: name a directory for daemons, apart from services, with fleet_prefix"
            )
        services, daemons = os.path.realpath(registry.path), os.path.realpath(prefix)
    elif registry.scheme in ("etcd", "etcds"):
        from discovery.registry.etcd.settings import DEFAULT_PREFIX as SERVICES  # grpc takes long to load

        services, daemons = registry.path.rstrip("/") or SERVICES, prefix or DEFAULT_PREFIX
    else:
        raise ConfigError(f"registry {registry}: daemons are announced in etcd and in file registries alone")
    if _is_within(services, daemons) or _is_within(daemons, services):
        raise ConfigError(
            f"fleet_prefix {daemons} overlaps with {services}, where services are: daemons would be taken for backends;"
            " choose another"
        )
    return replace(registry, path=daemons)


def _is_within(path: str, above: str) -> bool:
    return f"{path}/".startswith(f"{above.rstrip('/')}/")  # of the root directory nothing is left
