"""The consumer: from a snapshot to workers that carry connections to its backends."""

import socket
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from discovery.plugin import Consumer, Health, PluginConfig, Sample, Update
from discovery_tcpproxy.config import TcpProxyConfig


class TcpProxyConsumer(Consumer[TcpProxyConfig]):
    """Carries TCP to whatever the registry names now."""

    Config: ClassVar[type[PluginConfig]] = TcpProxyConfig

    async def setup(self) -> None:
        """Open or take over the listeners and start the workers."""
        raise NotImplementedError

    async def apply(self, update: Update) -> None:
        """Tell the workers what has changed; done when each has said so."""
        raise NotImplementedError

    async def reconfigure(self, config: TcpProxyConfig) -> bool:
        """Take everything in place: connections that go on are not touched."""
        raise NotImplementedError

    async def health(self) -> Health:
        """Whether every listener is open and every worker answers."""
        raise NotImplementedError

    def metrics(self) -> Iterable[Sample]:
        """Figures of listeners, backends and workers."""
        raise NotImplementedError

    async def inspect(self) -> Mapping[str, Any]:
        """Listeners, backends, workers and the live connections."""
        raise NotImplementedError

    async def hand_over(self) -> tuple[socket.socket, ...]:
        """Stop accepting and return the listening sockets."""
        raise NotImplementedError

    @property
    def stop_seconds(self) -> float:
        """As long as connections may take to finish, and a little."""
        return self.config.grace + 5.0

    async def teardown(self) -> None:
        """Let connections finish, up to `grace`; then end the workers."""
        raise NotImplementedError
