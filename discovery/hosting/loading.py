"""Finding and loading plugins by entry point. Only what is asked for is imported, and a broken one fails alone."""

from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import pluggy
from pydantic import ValidationError

from discovery import hookspecs
from discovery.errors import ConfigError, DiscoveryError, PluginError, describe
from discovery.hosting.compatibility import incompatibility
from discovery.hosting.examination import examine_consumer, examine_provider, examine_registry
from discovery.hosting.importing import within_limit
from discovery.hosting.pluginpath import is_path
from discovery.hosting.registries import IsolatedRegistry, isolated
from discovery.hosting.singlefile import SingleFile, single_file
from discovery.plugin import AnyConsumer, AnyProvider, Consumer, PluginConfig, Update
from discovery.registry import BUILT_IN, Registry, RegistryURL
from discovery.registry import open_registry as open_builtin_registry
from discovery.system.either import completed

GROUP = "discovery"

T = TypeVar("T")


class RegistryKind(NamedTuple):
    """The registries of a scheme: the factory, which is called with a URL, and with options if `config` has a type."""

    factory: Callable[..., Registry]
    config: type[PluginConfig] | None = None

    def factory_for_urls(self, url: RegistryURL) -> Registry:
        """Return the registry that `url` names. Raises what the factory raises; ConfigError if an option is missing."""
        if self.config is None:
            return self.factory(url)
        options = url.settings
        if options is None:
            try:
                options = self.config()
            except ValidationError as error:
                missing = ", ".join(".".join(map(str, each["loc"])) for each in error.errors())
                raise ConfigError(f"{url}: the table [registry] of a configuration has to have {missing}") from None
        return self.factory(url, options)


class Plugin(NamedTuple):
    """A loaded plugin: what it registered by name. `is_observer` is True if the consumer of its name is an observer."""

    name: str
    consumers: Mapping[str, type[AnyConsumer]] = MappingProxyType({})
    providers: Mapping[str, type[AnyProvider]] = MappingProxyType({})
    registries: Mapping[str, RegistryKind] = MappingProxyType({})
    is_observer: bool = False

    @property
    def provides(self) -> tuple[str, ...]:
        """The roles of the plugin, in words."""
        observers = {self.name} if self.is_observer else set()
        return (
            *(f"{'observer' if name in observers else 'consumer'} {name}" for name in self.consumers),
            *(f"provider {name}" for name in self.providers),
            *(f"registry {scheme}://" for scheme in self.registries),
        )


def installed() -> dict[str, EntryPoint]:
    """Return every installed plugin by name; none is imported."""
    return {name: points[0] for name, points in _claims().items()}


def load(name: str) -> Plugin:
    """Import a plugin: that of an entry point, or a single file, which `name` names by a path.

    Raises ConfigError if there is no such plugin, PluginError if the plugin cannot be used: if it does not support this
    version of the core, if it cannot be imported, if a hook fails, or if a class that it registers could not work.
    """
    if is_path(name):
        file = single_file(name)
        return _loaded(file.name, file)
    claims = _claims()
    if name not in claims:
        near = get_close_matches(name, claims, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"installed are: {', '.join(claims) or 'none'}"
        raise ConfigError(f"there is no plugin {name!r}; {hint}")
    if len(claims[name]) > 1:
        claimants = " and ".join(sorted(_distribution(each)[0] for each in claims[name]))
        raise PluginError(
            f"the plugin name {name!r} is claimed by {len(claims[name])} distributions, {claimants}: remove all but one"
        )
    return _loaded(name, claims[name][0])


def _loaded(name: str, point: EntryPoint | SingleFile) -> Plugin:
    """Return the plugin, or raise PluginError with the reason why the plugin cannot be used."""
    if (reason := incompatibility(point.dist)) is not None:
        raise PluginError(f"the plugin {name!r} ({_origin(point)}) cannot be loaded: it {reason}")
    try:
        what = point.value if isinstance(point, SingleFile) else name
        plugin = within_limit(what, lambda: _registered(name, point))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may raise anything, also SystemExit
        raise PluginError(f"the plugin {name!r} ({_origin(point)}) cannot be loaded: {describe(error)}") from error
    if (fault := _fault_of_names(plugin, is_file=isinstance(point, SingleFile))) is not None:
        raise PluginError(f"the plugin {name!r} ({_origin(point)}) {fault}")
    return plugin


def _fault_of_names(plugin: Plugin, *, is_file: bool) -> str | None:
    """Return why nothing that the plugin registers can be used, or None."""
    if not plugin.provides:
        return "registers nothing"
    told = ", ".join(plugin.provides)
    if is_file and plugin.registries:
        return f"registers {told}: a registry is found by its scheme, and therefore has to be installed"
    if not any(plugin.name in names for names in (plugin.consumers, plugin.providers, plugin.registries)):
        return f"registers {told}, and nothing of its own name: an entry point has the name of what it registers"
    return None


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
    return tuple(role for role, names in kinds.items() if plugin.name in names)


def open_registry(url: str | RegistryURL) -> Registry:
    """Return the registry that `url` names, from the plugin named after its scheme unless the scheme is built in.

    Raises ConfigError for an unknown scheme or a bad option, PluginError for a broken plugin.
    """
    parsed = url if isinstance(url, RegistryURL) else RegistryURL.parse(url)
    is_elsewhere = parsed.scheme not in BUILT_IN and parsed.scheme in installed()
    kinds = load(parsed.scheme).registries if is_elsewhere else {}
    return open_builtin_registry(parsed, {scheme: isolated(kind.factory_for_urls) for scheme, kind in kinds.items()})


def check_registry(url: RegistryURL) -> None:
    """Raise what `open_registry` raises for `url`."""
    registry = open_registry(url)
    if isinstance(registry, IsolatedRegistry):
        registry.abandon()


def registry_config(scheme: str) -> type[PluginConfig] | None:
    """Return the type of the options of a plugin's registries in the configuration; None for any other scheme.

    Raises PluginError for a broken plugin.
    """
    if scheme in BUILT_IN or scheme not in installed() or scheme not in (kinds := load(scheme).registries):
        return None
    return kinds[scheme].config or PluginConfig


def _claims() -> dict[str, list[EntryPoint]]:
    """Return the entry points of every plugin by name: more than one if several distributions claim the name."""
    found: dict[str, list[EntryPoint]] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        others = found.setdefault(point.name, [])
        # Who claims a name is asked only in doubt. A distribution may be on the path twice.
        if not others or _distribution(point) not in map(_distribution, others):
            others.append(point)
    return found


def _registered(name: str, point: EntryPoint | SingleFile) -> Plugin:
    """Import a plugin and return the examined registrations. Raises whatever the plugin raises, or _FaultError."""
    module = point.load()
    manager = pluggy.PluginManager(GROUP)  # one for each plugin, so that none can break another's hooks
    manager.add_hookspecs(hookspecs)
    manager.register(module, name)
    manager.check_pending()
    consumers: dict[str, type[AnyConsumer]] = {}
    providers: dict[str, type[AnyProvider]] = {}
    registries: dict[str, RegistryKind] = {}
    manager.hook.discovery_register_consumers(register=_collector(consumers, examine_consumer))
    manager.hook.discovery_register_providers(register=_collector(providers, examine_provider))
    register = _collector(registries, _examine_kind)
    manager.hook.discovery_register_registries(
        register=lambda scheme, factory, config=None: register(scheme, RegistryKind(factory, config))
    )
    is_observer = bool(manager.hook.discovery_backends_changed.get_hookimpls())
    if is_observer and name in consumers:
        raise _FaultError(f"a consumer and the observer of discovery_backends_changed have the name {name!r}: keep one")
    if is_observer:
        _collector(consumers, examine_consumer)(name, _observer(manager))
    plugin = Plugin(name, consumers, providers, registries, is_observer)
    return _under_its_name(plugin) if isinstance(point, SingleFile) else plugin


def instance_name(plugin: str) -> str:
    """Return the name of the instance that `--plugin` asks for: the plugin's. Raises ConfigError for a missing file."""
    return single_file(plugin).name if is_path(plugin) else plugin


def _under_its_name(plugin: Plugin) -> Plugin:
    """Return the plugin of a single file, whose only consumer or provider also has the name of the file."""
    consumers, providers = dict(plugin.consumers), dict(plugin.providers)
    if len(consumers) == 1:
        consumers = {plugin.name: next(iter(consumers.values()))}
    if len(providers) == 1:
        providers = {plugin.name: next(iter(providers.values()))}
    return plugin._replace(consumers=consumers, providers=providers)


def _distribution(point: EntryPoint | SingleFile) -> tuple[str, str]:
    """Its name and version. Their metadata take milliseconds to parse."""
    return (point.dist.name, point.dist.version) if point.dist else (point.value, "?")


def _origin(point: EntryPoint | SingleFile) -> str:
    return point.value if isinstance(point, SingleFile) else " ".join(_distribution(point))


def _named(plugin: Plugin, role: str, classes: Mapping[str, T]) -> T:
    if plugin.name not in classes:
        raise ConfigError(f"the plugin {plugin.name!r} is no {role}; it provides {', '.join(plugin.provides)}")
    return classes[plugin.name]


def _examine_kind(scheme: str, kind: RegistryKind) -> None:
    examine_registry(scheme, kind.factory, kind.config)


class _FaultError(DiscoveryError):
    """A fault of what a plugin registers, in words."""


def _collector(into: dict[str, T], examine: Callable[[str, T], None]) -> Callable[[str, T], None]:
    def register(name: str, value: T) -> None:
        if not isinstance(name, str):
            raise _FaultError(f"{name!r} is registered as a name, which is no text")
        if name in into:
            raise _FaultError(f"{name!r} is registered twice")
        try:
            examine(name, value)
        except (TypeError, ValueError) as error:
            raise _FaultError(str(error)) from None
        into[name] = value

    return register


def _observer(manager: pluggy.PluginManager) -> type[AnyConsumer]:
    """A consumer that only tells the plugin's `discovery_backends_changed` hook."""

    class Observer(Consumer[PluginConfig]):
        Config = manager.hook.discovery_observer_config() or PluginConfig
        resident = False  # an observer drives nothing that could end

        async def apply(self, update: Update) -> None:
            if update.previous is not None and not update.changes:
                return  # only an address has changed
            for each in manager.hook.discovery_backends_changed(
                changes=update.changes,
                snapshot=update.snapshot,
                options=self.config,
                name=self.context.name,
                log=self.context.log,
                is_first=update.previous is None,
            ):
                await completed(each)

        async def preview(self, update: Update) -> str:
            return ""

    return Observer
