"""What a plugin registers, examined before anything of that is used: a class that cannot work is refused by name."""

import inspect
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from discovery.hosting.tables import YIELDS, ConsumerTable, ProviderTable, RegistrySettings, option_names
from discovery.plugin import Consumer, PluginConfig, Provider
from discovery.registry import BUILT_IN

_ARGUMENTS: Mapping[type[Any], Mapping[str, int]] = MappingProxyType(
    {
        Consumer: {"setup": 0, "apply": 1, "preview": 1, "validate": 1, "reconfigure": 1, "health": 0, "metrics": 0}
        | dict.fromkeys(("inspect", "hand_over", "end_drain", "teardown"), 0),
        Provider: {"reconfigure": 1}
        | dict.fromkeys(("setup", "discover", "validate", "health", "metrics", "inspect", "teardown"), 0),
    }
)
"""The methods that the core calls, with the number of arguments of each beside `self`."""
_READ: Mapping[type[Any], Sequence[str]] = MappingProxyType({Consumer: ("resident", "stop_seconds"), Provider: ()})
"""The attributes that the core reads without a call: a method would count as true, or as the default."""


def examine_consumer(name: str, value: object) -> None:
    """Raise TypeError or ValueError, with the reason, if `value` cannot be the consumer `name`."""
    _examine_class(f"the consumer {name!r}", value, Consumer, "consumers", ConsumerTable)


def examine_provider(name: str, value: object) -> None:
    """Raise TypeError or ValueError, with the reason, if `value` cannot be the provider `name`."""
    _examine_class(f"the provider {name!r}", value, Provider, "providers", ProviderTable)


def examine_registry(scheme: str, factory: object, config: object = None) -> None:
    """Raise TypeError or ValueError, with the reason, if `factory` cannot make the registries of URLs with `scheme`.

    `config` is the type of their options, or None.
    """
    if scheme in BUILT_IN:
        raise ValueError(f"the scheme {scheme!r} is claimed by the core as well: choose another")
    if scheme != scheme.lower():
        raise ValueError(f"the scheme {scheme!r} is not in lower case, as the schemes of URLs are")
    if not callable(factory):
        raise TypeError(f"the registry {scheme!r} is {_shown(factory)}, which cannot be called with a URL")
    _examine_call(f"the registry {scheme!r}: {getattr(factory, '__name__', '')}", factory, 1 + (config is not None))
    if config is not None:
        _examine_config(f"the registry {scheme!r}", config, RegistrySettings, "the table [registry]")


def _examine_class(what: str, value: object, base: type[Any], hook: str, table: type[PluginConfig]) -> None:
    kind = base.__name__
    if not (isinstance(value, type) and issubclass(value, base)):
        other = Provider if base is Consumer else Consumer
        hint = ""
        if isinstance(value, type) and issubclass(value, other):
            hint = f"; a {other.__name__} is registered by discovery_register_{other.__name__.lower()}s"
        elif isinstance(value, base):
            hint = "; register the class, not an instance"
        raise TypeError(f"{what} is {_shown(value)}, which is no subclass of {kind}{hint}")
    missing = sorted(getattr(value, "__abstractmethods__", ()))
    if missing:
        raise TypeError(f"{what}: the class {value.__name__} is abstract: it lacks {', '.join(missing)}")
    _examine_methods(what, value, _ARGUMENTS[base])
    for name in _READ[base]:
        if callable(inspect.getattr_static(value, name)):
            raise TypeError(f"{what}: {value.__name__}.{name} is a method: write @property above it")
    _examine_config(what, getattr(value, "Config", None), table, "an instance's table")


def _examine_methods(what: str, value: type[Any], arguments: Mapping[str, int]) -> None:
    for name, count in arguments.items():
        method = inspect.getattr_static(value, name)
        if isinstance(method, property) or not callable(getattr(value, name)):
            raise TypeError(f"{what}: {value.__name__}.{name} is no method")
        called_with = count + (not isinstance(method, staticmethod | classmethod))
        _examine_call(f"{what}: {value.__name__}.{name}", getattr(value, name), called_with)
    if inspect.iscoroutinefunction(value.metrics):
        raise TypeError(f"{what}: {value.__name__}.metrics is called from any thread: write it with def")
    if hasattr(value, "end_orphans"):
        if not isinstance(inspect.getattr_static(value, "end_orphans"), staticmethod | classmethod):
            raise TypeError(f"{what}: {value.__name__}.end_orphans has no instance: write @classmethod above it")
        _examine_call(f"{what}: {value.__name__}.end_orphans", value.end_orphans, 1)
    _examine_call(f"{what}: {value.__name__}", value, 2)


def _examine_call(what: str, function: Any, count: int) -> None:
    """Raise TypeError if `function` cannot be called with `count` arguments."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a function without one, as of some extension modules
        return
    try:
        signature.bind(*range(count))
    except TypeError as error:
        raise TypeError(f"{what}{signature} cannot be called as the core does: {error}") from None


def _examine_config(what: str, config: object, table: type[PluginConfig], place: str) -> None:
    if not (isinstance(config, type) and issubclass(config, PluginConfig)):
        raise TypeError(f"{what}: its Config is {_shown(config)}, which is no subclass of PluginConfig")
    config.model_rebuild()  # raises an exception for a type that is not known
    taken = sorted(option_names(config) & table.model_fields.keys() - set(YIELDS))
    if taken:
        options = ", ".join(map(repr, taken))
        raise ValueError(f"{what}: the core reads {options} of {place} itself: rename the option")


def _shown(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"a {type(value).__name__}" if value is not None else "None"
