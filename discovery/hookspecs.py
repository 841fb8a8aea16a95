"""The pluggy hooks that a plugin may implement. The entry-point group is `discovery`."""

from collections.abc import Awaitable, Callable
from typing import Protocol

import pluggy
from structlog.typing import FilteringBoundLogger

from discovery.model import Changes, Snapshot
from discovery.plugin import AnyConsumer, AnyProvider, PluginConfig
from discovery.registry import Registry

hookspec = pluggy.HookspecMarker("discovery")
hookimpl = pluggy.HookimplMarker("discovery")


@hookspec
def discovery_register_consumers(register: Callable[[str, type[AnyConsumer]], None]) -> None:
    """Call `register(name, ConsumerClass)` for each consumer. `name` is the name of the entry point."""


@hookspec
def discovery_register_providers(register: Callable[[str, type[AnyProvider]], None]) -> None:
    """Call `register(name, ProviderClass)` for each provider. `name` is the name of the entry point."""


class RegisterRegistry(Protocol):
    """Registers the `factory` of the registries of a `scheme`, and the type `config` of their options, if any."""

    def __call__(
        self, scheme: str, factory: Callable[..., Registry], config: type[PluginConfig] | None = None
    ) -> None: ...


@hookspec
def discovery_register_registries(register: RegisterRegistry) -> None:
    """Call `register(scheme, factory)` for each kind of registry. `scheme` is the scheme of its URLs.

    With `register(scheme, factory, Config)` the core validates the keys of the table `[registry]` that are not its own
    as a `Config`, and calls `factory(url, options)` in place of `factory(url)`.
    """


@hookspec(firstresult=True)
def discovery_observer_config() -> type[PluginConfig]:
    """Return the type of the options of an observer, which the core validates; without this hook there are none."""
    raise NotImplementedError


@hookspec
def discovery_backends_changed(
    changes: Changes, snapshot: Snapshot, options: PluginConfig, name: str, log: FilteringBoundLogger, is_first: bool
) -> Awaitable[None] | None:
    """Receive every change and the snapshot after the change, on a thread of the plugin's own.

    The function takes the arguments that it needs, and may be written with `def` or with `async def`. Changes that
    arrive during a call are merged. After an exception the core calls the hook again.

    `options` are of the type that `discovery_observer_config` returns. `name` is the instance's name, and `log` its
    logger. `is_first` is True for the changes from nothing to the first snapshot after a start of the instance, which
    list every backend, also one that was there before.
    """
