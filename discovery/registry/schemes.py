"""Registries by the schemes of their URLs."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from discovery.errors import ConfigError
from discovery.registry.base import Registry
from discovery.registry.url import RegistryURL

_INTENDED_SCHEMES = {"http": "etcd", "https": "etcds"}
"""The scheme of a registry URL, by the scheme of the same address as etcdctl writes addresses."""

RegistryFactory = Callable[[RegistryURL], Registry]
"""Makes a registry from its URL, without I/O. Raises ConfigError for an option or a part that it cannot use."""


def open_registry(url: str | RegistryURL, extra: Mapping[str, RegistryFactory] = MappingProxyType({})) -> Registry:
    """Return the registry that `url` names, without I/O: of a built-in scheme, or of a scheme in `extra`.

    `extra` has the factories of plugins by scheme; a built-in scheme takes precedence. Raises ConfigError for an
    unknown scheme, or an invalid part or option. Called on the thread of the event loop that uses the registry.
    """
    parsed = url if isinstance(url, RegistryURL) else RegistryURL.parse(url)
    factories = {**extra, **BUILT_IN}
    try:
        factory = factories[parsed.scheme]
    except KeyError:
        if scheme := _INTENDED_SCHEMES.get(parsed.scheme):
            intended = f"{scheme}://{','.join(parsed.endpoints)}"
            raise ConfigError(f"{parsed} is not a registry: for etcd, write {intended}") from None
        known = ", ".join(sorted(factories))
        raise ConfigError(f"registry scheme {parsed.scheme!r} is not known; known are {known}") from None
    return factory(parsed)


# Imported on use: grpc alone takes longer to load than most commands take to run.
def _etcd(url: RegistryURL) -> Registry:
    from discovery.registry.etcd import EtcdRegistry

    return EtcdRegistry.from_url(url)


def _file(url: RegistryURL) -> Registry:
    from discovery.registry.file import FileRegistry

    return FileRegistry.from_url(url)


def _memory(url: RegistryURL) -> Registry:
    from discovery.registry.memory import MemoryRegistry

    return MemoryRegistry.from_url(url)


BUILT_IN: Mapping[str, RegistryFactory] = MappingProxyType(
    {"etcd": _etcd, "etcds": _etcd, "file": _file, "memory": _memory}
)
"""The factories of the registries that need no plugin, by scheme."""
