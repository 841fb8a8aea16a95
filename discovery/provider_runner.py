"""Runs one provider: a thread and loop of its own, its checks, retries, health. Knows no registry."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from structlog.typing import FilteringBoundLogger

from discovery.isolation import Isolated, PluginStatus
from discovery.model import Backend
from discovery.plugin import AnyProvider, Context, PluginConfig


@dataclass(frozen=True, slots=True)
class ProviderStatus(PluginStatus):
    """One provider as the core measures it.

    `candidates` is how each one's checks stand, by key; `problems` is what was found and cannot be registered, by what
    its user knows it as; `published` is whether a first set has been handed on.
    """

    candidates: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    problems: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    published: bool = False


@dataclass(frozen=True, slots=True)
class ProviderInstance:
    """A provider as configured: its name, its plugin, how to make it, and how it is registered.

    `ttl` is how many seconds its records outlive it; `owner` whose they are.
    """

    name: str
    plugin: str
    provider: type[AnyProvider]
    config: PluginConfig
    ttl: float = 10.0
    owner: str = ""


class ProviderRunner(Isolated[ProviderInstance, AnyProvider, ProviderStatus]):
    """One provider, isolated. `publish` is given, on its thread, the complete set of what is to be registered.

    The first time once everything found first has been checked, then at every difference. While the provider fails or
    is restarted, what it found last stands and is still checked.
    """

    KIND = "provider"

    def __init__(
        self,
        instance: ProviderInstance,
        run_dir: Path,
        log: FilteringBoundLogger,
        publish: Callable[[tuple[Backend, ...]], None],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; `start` begins. The instance's own directory is made, and locked, in `run_dir`."""
        super().__init__(instance, ProviderStatus(instance.name, instance.plugin), run_dir, log, changed)
        self._publish = publish

    def _make(self, instance: ProviderInstance) -> AnyProvider:
        return instance.provider(instance.config, Context(instance.name, self._run_dir, self._log))

    async def _follow(self, plugin: AnyProvider, instance: ProviderInstance) -> ProviderInstance | None:
        raise NotImplementedError
