"""The consumer `xds`: serves the registry to Envoy and gRPC programs."""

import asyncio
import socket
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from discovery import ApplyError, Consumer, Context, Health, PluginConfig, Sample, Update, Validation
from discovery_xds.config import XdsConfig
from discovery_xds.preview import preview
from discovery_xds.serving.port import own_listening_socket, take_predecessor, tls_faults, why_in_use

if TYPE_CHECKING:
    from discovery_xds.resources.builder import Builder
    from discovery_xds.serving.server import AdsServer


class XdsConsumer(Consumer[XdsConfig]):
    """xDS server for the backends that the registry has at the moment."""

    Config: ClassVar[type[PluginConfig]] = XdsConfig

    def __init__(self, config: XdsConfig, context: Context) -> None:
        """Create the consumer; `setup` listens."""
        super().__init__(config, context)
        self._server: AdsServer | None = None
        self._builder: Builder | None = None

    async def setup(self) -> None:
        """Listen on the xDS port. Clients are answered after the first `apply`. Raises ApplyError."""
        # Imported late: the messages of the Envoy API take 0.2 s and 35 MB.
        from discovery_xds.serving.server import AdsServer

        predecessor = take_predecessor(self.config.listen, self.context.inherited)
        if predecessor is None and (reason := why_in_use(self.config.listen)):
            raise ApplyError(reason)
        server = AdsServer(self.context.log)
        try:
            await server.start(self.config.listen, self.config.tls)
        finally:
            if predecessor is not None:
                predecessor.close()
        self._server = server
        self.context.log.info("listening", address=self.config.listen, tls=self.config.tls is not None)

    async def apply(self, update: Update) -> None:
        """Publish the resources of the snapshot. Each client gets what it subscribes to, at its own pace."""
        from discovery_xds.resources.builder import Builder

        if self._server is None:
            raise ApplyError("the xDS port is not open")
        if self._builder is None:
            self._builder = Builder(self.config)
        self._server.publish(self._builder.build(update))

    async def preview(self, update: Update) -> str:
        """Return the listeners with their routes, and the services with their backends."""
        return preview(self.config, update)

    async def validate(self, update: Update) -> Validation:
        """Check the files of TLS, and whether the xDS port can be used."""
        faults = tls_faults(self.config.tls)
        unchecked: list[str] = []
        if reason := why_in_use(self.config.listen):
            # Where the instance has a directory, its own daemon may be the process that listens.
            (unchecked if self.context.run_dir.exists() else faults).append(reason)
        return Validation(tuple(faults), tuple(unchecked), (self.config.listen,))

    async def reconfigure(self, config: XdsConfig) -> bool:
        """Adopt everything but another xDS port or other files of TLS in place: streams stay open."""
        if (config.listen, config.tls) != (self.config.listen, self.config.tls):
            return False
        self.config, self._builder = config, None
        return True

    async def health(self) -> Health:
        """Return healthy; degraded while a client rejects a resource, or a service cannot be served as it is."""
        return Health(problems={**self._problems(), **self._rejections()})

    def metrics(self) -> Iterable[Sample]:
        """Return samples of streams, pushes and answers."""
        if self._server is None:
            return ()
        from discovery_xds.serving.status import samples

        catalog = self._server.catalog
        return samples(self._server.counts, self._server.streams, catalog.revision if catalog else None)

    async def inspect(self) -> Mapping[str, Any]:
        """Return the resources, and each client with the revision that is live there."""
        if self._server is None:
            return {}
        from discovery_xds.serving.status import document

        clients = [(each.stream, each.peer) for each in self._server.connections]
        return document(self._server.catalog, clients, self._problems())

    async def hand_over(self) -> tuple[socket.socket, ...]:
        """Return the listening socket: the successor listens beside this server, which accepts until `teardown`."""
        listening = own_listening_socket(self.config.listen)
        return (listening,) if listening is not None else ()

    async def teardown(self) -> None:
        """End all streams; their clients keep what they have and connect again."""
        if self._server is not None:
            server, self._server = self._server, None
            await asyncio.shield(server.stop())

    def _problems(self) -> Mapping[str, str]:
        return self._builder.problems if self._builder is not None else {}

    def _rejections(self) -> Mapping[str, str]:
        if self._server is None:
            return {}
        from discovery_xds.serving.status import problems_of

        return problems_of(self._server.streams)
