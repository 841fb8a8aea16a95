"""The pluggy hooks that a plugin may implement. The entry-point group is `discovery`."""

from collections.abc import Awaitable, Callable

import pluggy

from discovery.model import Changes, Snapshot
from discovery.plugin import AnyConsumer, AnyProvider
from discovery.registry import RegistryFactory

hookspec = pluggy.HookspecMarker("discovery")
hookimpl = pluggy.HookimplMarker("discovery")


@hookspec
def discovery_register_consumers(register: Callable[[str, type[AnyConsumer]], None]) -> None:
    """Call `register(name, ConsumerClass)` for each consumer. `name` is the name of the entry point."""


@hookspec
def discovery_register_providers(register: Callable[[str, type[AnyProvider]], None]) -> None:
    """Call `register(name, ProviderClass)` for each provider. `name` is the name of the entry point."""


@hookspec
def discovery_register_registries(register: Callable[[str, RegistryFactory], None]) -> None:
    """Call `register(scheme, factory)` for each kind of registry. `scheme` is the scheme of its URLs."""


@hookspec
def discovery_backends_changed(changes: Changes, snapshot: Snapshot) -> Awaitable[None] | None:
    """Receive every change and the snapshot after the change, on a thread of the plugin's own.

    The function may be written with `def` or with `async def`. Changes that arrive during a call are merged. After an
    exception the core calls the hook again.
    """
