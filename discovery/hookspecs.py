"""The pluggy hooks that a plugin may implement; the entry-point group is `discovery`."""

from collections.abc import Callable

import pluggy

from discovery.model import Changes, Snapshot
from discovery.plugin import AnyConsumer, AnyProvider
from discovery.registry import RegistryFactory

hookspec = pluggy.HookspecMarker("discovery")
hookimpl = pluggy.HookimplMarker("discovery")


@hookspec
def discovery_register_consumers(register: Callable[[str, type[AnyConsumer]], None]) -> None:
    """Call `register(name, ConsumerClass)` for each consumer; the name is the entry point's."""


@hookspec
def discovery_register_providers(register: Callable[[str, type[AnyProvider]], None]) -> None:
    """Call `register(name, ProviderClass)` for each provider; the name is the entry point's."""


@hookspec
def discovery_register_registries(register: Callable[[str, RegistryFactory], None]) -> None:
    """Call `register(scheme, factory)` for each kind of registry, named by its URL scheme."""


@hookspec
def discovery_backends_changed(changes: Changes, snapshot: Snapshot) -> None:
    """Be told of every change, on a thread of your own; an exception means that you will be told again."""
