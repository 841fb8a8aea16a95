"""Finding and loading plugins by entry point. Only what is asked for is imported, and a broken one fails alone."""

from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import pluggy

from discovery import hookspecs
from discovery.errors import ConfigError, PluginError
from discovery.model import Changes, Snapshot
from discovery.plugin import AnyConsumer, AnyProvider, Consumer, PluginConfig, Update
from discovery.registry import BUILT_IN, Registry, RegistryFactory, RegistryURL
from discovery.registry import open_registry as open_builtin_registry

GROUP = "discovery"

T = TypeVar("T")


class Plugin(NamedTuple):
    """A loaded plugin: what it registered by name."""

    name: str
    consumers: Mapping[str, type[AnyConsumer]] = MappingProxyType({})
    providers: Mapping[str, type[AnyProvider]] = MappingProxyType({})
    registries: Mapping[str, RegistryFactory] = MappingProxyType({})

    @property
    def provides(self) -> tuple[str, ...]:
        """The roles of the plugin, in words."""
        return (
            *(f"consumer {name}" for name in self.consumers),
            *(f"provider {name}" for name in self.providers),
            *(f"registry {scheme}://" for scheme in self.registries),
        )


def installed() -> dict[str, EntryPoint]:
    """Every installed plugin by name, none imported. Raises ConfigError if two distributions claim one name."""
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        other = found.setdefault(point.name, point)
        # Who claims a name is asked only in doubt.
        if other is not point and _distribution(other) != _distribution(point):
            claimants = " and ".join(sorted(_distribution(each)[0] for each in (other, point)))
            raise ConfigError(
                f"the plugin name {point.name!r} is claimed by two distributions, {claimants}: remove one"
            )
    return found


def load(name: str) -> Plugin:
    """Import a plugin. Raises ConfigError if there is none of that name, PluginError if it is broken."""
    points = installed()
    if name not in points:
        near = get_close_matches(name, points, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"installed are: {', '.join(points) or 'none'}"
        raise ConfigError(f"there is no plugin {name!r}; {hint}")
    point = points[name]
    try:
        module = point.load()
        manager = pluggy.PluginManager(GROUP)  # one for each plugin, so that none can break another's hooks
        manager.add_hookspecs(hookspecs)
        manager.register(module, name)
        manager.check_pending()
        consumers: dict[str, type[AnyConsumer]] = {}
        providers: dict[str, type[AnyProvider]] = {}
        registries: dict[str, RegistryFactory] = {}
        manager.hook.discovery_register_consumers(register=_collector(consumers))
        manager.hook.discovery_register_providers(register=_collector(providers))
        manager.hook.discovery_register_registries(register=_collector(registries))
        if manager.hook.discovery_backends_changed.get_hookimpls():
            consumers.setdefault(name, _observer(manager))
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split())
        raise PluginError(
            f"the plugin {name!r} ({_origin(point)}) cannot be loaded: {type(error).__name__}: {reason}"
        ) from error
    if not (consumers or providers or registries):
        raise PluginError(f"the plugin {name!r} ({_origin(point)}) registers nothing")
    return Plugin(name, consumers, providers, registries)


def consumer_class(name: str) -> type[AnyConsumer]:
    """The consumer that the plugin `name` registers under that name. Raises as `load` does."""
    plugin = load(name)
    return _named(plugin, "consumer", plugin.consumers)


def provider_class(name: str) -> type[AnyProvider]:
    """The provider that the plugin `name` registers under that name. Raises as `load` does."""
    plugin = load(name)
    return _named(plugin, "provider", plugin.providers)


def roles(name: str) -> tuple[str, ...]:
    """The roles of the plugin: "consumer", "provider", both or neither. Raises as `load` does."""
    plugin = load(name)
    kinds: dict[str, Collection[str]] = {"consumer": plugin.consumers, "provider": plugin.providers}
    return tuple(role for role, names in kinds.items() if name in names)


def open_registry(url: str | RegistryURL) -> Registry:
    """Return the registry that `url` names, from the plugin named after its scheme unless the scheme is built in.

    Raises ConfigError for an unknown scheme or a bad option, PluginError for a broken plugin.
    """
    parsed = url if isinstance(url, RegistryURL) else RegistryURL.parse(url)
    is_elsewhere = parsed.scheme not in BUILT_IN and parsed.scheme in installed()
    extra = load(parsed.scheme).registries if is_elsewhere else {}
    return open_builtin_registry(parsed, extra)


def _distribution(point: EntryPoint) -> tuple[str, str]:
    """Its name and version. Their metadata take milliseconds to parse."""
    return (point.dist.name, point.dist.version) if point.dist else (point.value, "?")


def _origin(point: EntryPoint) -> str:
    return " ".join(_distribution(point))


def _named(plugin: Plugin, role: str, classes: Mapping[str, T]) -> T:
    if plugin.name not in classes:
        raise ConfigError(f"the plugin {plugin.name!r} is no {role}; it provides {', '.join(plugin.provides)}")
    return classes[plugin.name]


def _collector(into: dict[str, T]) -> Callable[[str, T], None]:
    def register(name: str, value: T) -> None:
        if name in into:
            raise ValueError(f"{name!r} is registered twice")
        into[name] = value

    return register


def _observer(manager: pluggy.PluginManager) -> type[AnyConsumer]:
    """A consumer that only tells the plugin's `discovery_backends_changed` hook."""

    class Observer(Consumer[PluginConfig]):
        async def apply(self, update: Update) -> None:
            changes: Changes = update.changes
            snapshot: Snapshot = update.snapshot
            if update.previous is not None and not changes:
                return  # only an address has changed
            manager.hook.discovery_backends_changed(changes=changes, snapshot=snapshot)

        async def preview(self, update: Update) -> str:
            return ""

    return Observer
