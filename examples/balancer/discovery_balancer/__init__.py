"""The consumer `balancer`: keeps the balancer's configuration equal to the registry, and has the balancer read it."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

from discovery import AnyConsumer, ApplyError, Consumer, PluginConfig, Update, hookimpl
from discovery.fields import ServiceName
from discovery.toolkit import write_atomically
from pydantic import Field


class Options(PluginConfig):
    """The options in `[consumers.NAME]`."""

    service: ServiceName = Field(description="The service whose backends are balanced")
    path: Path = Field(description="The balancer's configuration")
    pid_file: Path = Field(description="The file with the balancer's process id")


class BalancerConsumer(Consumer[Options]):
    """Writes the configuration and sends SIGHUP, if anything is another than the balancer has read."""

    Config = Options
    _loaded: str | None = None

    async def apply(self, update: Update) -> None:
        """Raise ApplyError while the balancer does not run: the core then calls `apply` again later."""
        service = update.snapshot.services.get(self.config.service)
        backends = [each for each in service.backends if each.accepts_work] if service else []
        text = "".join(f"{each.address} {each.weight}\n" for each in backends)
        if text == self._loaded:
            return
        write_atomically(self.config.path, text.encode())
        try:
            os.kill(int(self.config.pid_file.read_text()), signal.SIGHUP)
        except (OSError, ValueError) as error:
            raise ApplyError(f"the balancer cannot be told: {error}") from None
        self._loaded = text


@hookimpl
def discovery_register_consumers(register: Callable[[str, type[AnyConsumer]], None]) -> None:
    """Offer the consumer `balancer`."""
    register("balancer", BalancerConsumer)
