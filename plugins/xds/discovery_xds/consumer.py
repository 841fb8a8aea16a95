"""The consumer `xds`: serves the registry to Envoy and gRPC programs."""

import asyncio
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from discovery import ApplyError, Backend, Consumer, Context, Health, PluginConfig, Sample, Update, Validation
from discovery_xds.config import XdsConfig
from discovery_xds.limits import LIMITS, Limits
from discovery_xds.preview import preview
from discovery_xds.serving.certificates import tls_faults
from discovery_xds.serving.port import (
    listeners_at,
    own_listening_socket,
    take_predecessor,
    wait_for_successor,
    why_in_use,
)

if TYPE_CHECKING:
    from discovery_xds.resources.builder import Builder
    from discovery_xds.serving.server import AdsServer


class XdsConsumer(Consumer[XdsConfig]):
    """xDS server for the backends that the registry has at the moment."""

    Config: ClassVar[type[PluginConfig]] = XdsConfig

    def __init__(self, config: XdsConfig, context: Context, limits: Limits = LIMITS) -> None:
        """Create the consumer with its limits; `setup` listens."""
        super().__init__(config, context)
        self._limits = limits
        self._server: AdsServer | None = None
        self._builder: Builder | None = None
        self._handed_over: frozenset[str] = frozenset()
        """The inodes of the listening sockets at the time of `hand_over`."""
        self._drain_ended = asyncio.Event()

    async def setup(self) -> None:
        """Listen on the xDS port. Clients are answered after the first `apply`. Raises ApplyError."""
        # Imported late: the messages of the Envoy API take 0.2 s and 35 MB.
        from discovery_xds.serving.server import AdsServer

        predecessor = take_predecessor(self.config.listen, self.context.inherited)
        if predecessor is None and (reason := why_in_use(self.config.listen)):
            raise ApplyError(reason)
        server = AdsServer(self.context.log, self._limits)
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
            self._builder = Builder(self.config, self._server.catalog)
        self._server.publish(self._builder.build(update))
        await asyncio.sleep(0)  # streams write in this turn, before what the core does after an apply

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
        unchecked += [f"{path} is a file on Envoy's machine" for path in self.config.paths_of_envoy]
        return Validation(tuple(faults), tuple(unchecked), (self.config.listen,))

    async def reconfigure(self, config: XdsConfig) -> bool:
        """Adopt everything but another xDS port or other files of TLS in place: streams stay open."""
        if (config.listen, config.tls) != (self.config.listen, self.config.tls):
            return False
        self.config, self._builder = config, None
        return True

    async def health(self) -> Health:
        """Return healthy; degraded while a client rejects a resource, or a service or new files of TLS are faulty."""
        return Health(problems={**self._problems(), **self._rejections(), **self._tls_problems()})

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

    async def explain(self, backends: Sequence[Backend]) -> Mapping[str, Sequence[str]]:
        """Return the clusters and endpoints of these backends, and which clients have acknowledged or refused them."""
        if self._server is None or self._server.catalog is None or self._builder is None:
            return {}
        from discovery_xds.explaining import lines_of

        return lines_of(self.config, self._builder, self._server.catalog, self._server.streams, backends)

    async def hand_over(self) -> tuple[socket.socket, ...]:
        """Return the listening socket: the successor listens beside this server, which accepts until it does."""
        listening = own_listening_socket(self.config.listen)
        if listening is None:
            return ()
        self._handed_over = listeners_at(self.config.listen)
        return (listening,)

    async def end_drain(self) -> None:
        """Wait no longer for a successor that listens."""
        self._drain_ended.set()

    async def teardown(self) -> None:
        """End all streams; their clients keep what they have and connect again.

        After `hand_over` the streams end once the successor listens, so that the port is never closed.
        """
        if self._server is None:
            return
        server, self._server = self._server, None
        try:
            if self._handed_over:
                await wait_for_successor(
                    self.config.listen, self._handed_over, self._drain_ended, self._limits.successor
                )
        finally:
            await asyncio.shield(server.stop())

    def _problems(self) -> Mapping[str, str]:
        return self._builder.problems if self._builder is not None else {}

    def _tls_problems(self) -> Mapping[str, str]:
        if self._server is None or self._server.certificates is None:
            return {}
        reason = self._server.certificates.problem()
        return {"tls": reason} if reason else {}

    def _rejections(self) -> Mapping[str, str]:
        if self._server is None:
            return {}
        from discovery_xds.serving.status import problems_of

        return problems_of(self._server.streams)
