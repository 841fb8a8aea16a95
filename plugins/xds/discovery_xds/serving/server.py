"""The ADS server: streams of clients on grpc.aio, on the event loop of the consumer.

Each stream has a reader and a writer. The writer takes the response that follows from the latest catalog when the
client can take it, so that a slow client delays nobody, misses what is superseded, and holds no queue.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
from envoy.service.discovery.v3 import discovery_pb2
from structlog.typing import FilteringBoundLogger

from discovery import ApplyError, describe
from discovery_xds.config import TlsConfig
from discovery_xds.limits import Limits
from discovery_xds.protocol.catalog import Catalog, Kind, changes_between
from discovery_xds.protocol.messages import Responses
from discovery_xds.protocol.stream import DeltaStream, SotwStream, Stream
from discovery_xds.protocol.subscription import TooManyNamesError
from discovery_xds.serving.certificates import ServerCertificates
from discovery_xds.serving.status import Counts

_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_MOST_STREAMS = 10_000
"""Streams at a time: each has a few kilobytes, and a client that opens streams without end must not fill the memory."""
_OPTIONS = (
    ("grpc.so_reuseport", 1),  # a successor listens beside its predecessor
    ("grpc.keepalive_time_ms", 30_000),  # finds clients that are gone without a word
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),  # clients may ask as often for a sign of life
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_concurrent_streams", 1_000),  # of one connection
)
_MOST_REASONS = 100
"""Reasons that are kept of a client, which are told once: a client must not fill the memory."""
_END_SECONDS = 1.0
"""Seconds for streams to end: their clients connect again and keep what they have."""


class Connection:
    """A stream with its client's address, what wakes its writer, and the reasons of rejections that were logged."""

    def __init__(self, stream: Stream, peer: str) -> None:
        """Keep the stream."""
        self.stream = stream
        self.peer = peer
        self.wake = asyncio.Event()
        self.reasons: set[tuple[Kind, str]] = set()


class AdsServer:
    """Serves the latest catalog to every stream. All methods are for the event loop."""

    def __init__(self, log: FilteringBoundLogger, limits: Limits) -> None:
        """Begin without a catalog: no client is answered until the first `publish`."""
        self._log = log
        self._limits = limits
        self._responses = Responses()
        self._server: grpc.aio.Server | None = None
        self.catalog: Catalog | None = None
        self.connections: set[Connection] = set()
        self.counts = Counts()
        self.certificates: ServerCertificates | None = None

    @property
    def streams(self) -> Iterable[Stream]:
        """The open streams. From any thread."""
        return [each.stream for each in list(self.connections)]

    async def start(self, address: str, tls: TlsConfig | None) -> None:
        """Listen on `address`. Raises ApplyError, and DiscoveryError for files of TLS that cannot be used."""
        methods = {
            "StreamAggregatedResources": self._handler(SotwStream, discovery_pb2.DiscoveryRequest.FromString),
            "DeltaAggregatedResources": self._handler(DeltaStream, discovery_pb2.DeltaDiscoveryRequest.FromString),
        }
        handlers = (grpc.method_handlers_generic_handler(_SERVICE, methods),)
        server = grpc.aio.server(handlers=handlers, options=_OPTIONS, maximum_concurrent_rpcs=_MOST_STREAMS)
        if tls is not None:
            self.certificates = ServerCertificates(tls)
        try:
            port = (
                server.add_secure_port(address, self.certificates.credentials())
                if self.certificates is not None
                else server.add_insecure_port(address)
            )
        except RuntimeError as error:
            raise ApplyError(f"cannot listen on {address}: {describe(error)}") from None
        if not port:
            raise ApplyError(f"cannot listen on {address}")
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Stop listening, and end all streams."""
        if self._server is not None:
            server, self._server = self._server, None
            ending = asyncio.ensure_future(server.stop(0))
            await asyncio.wait((ending,), timeout=_END_SECONDS)

    def publish(self, catalog: Catalog) -> None:
        """Have every stream follow `catalog`, which replaces the catalog before."""
        changes = changes_between(self.catalog, catalog)
        self.catalog = catalog
        if any(changes.values()):
            self._responses.forget()
        for each in self.connections:
            if each.stream.publish(catalog, changes):
                each.wake.set()

    def _handler(self, kind: type[Stream], parse: Callable[[bytes], Any]) -> Any:
        async def serve(_: Any, context: Any) -> None:
            await self._serve(Connection(kind(self._responses, self._limits), str(context.peer())), context)

        return grpc.stream_stream_rpc_method_handler(serve, request_deserializer=parse)

    async def _serve(self, connection: Connection, context: Any) -> None:
        stream = connection.stream
        if self.catalog is not None:
            stream.publish(self.catalog, changes_between(None, self.catalog))
        self.connections.add(connection)
        reading = asyncio.ensure_future(self._read(connection, context))
        reading.add_done_callback(lambda _: connection.wake.set())
        try:
            while not reading.done():
                connection.wake.clear()
                response = stream.response(time.monotonic())
                if response is not None:
                    await context.write(response.data)
                    self.counts.pushes[response.kind] += 1
                    continue
                await self._sleep(connection)
            reading.result()
        except TooManyNamesError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, describe(error))
        finally:
            self.connections.discard(connection)
            reading.cancel()

    async def _sleep(self, connection: Connection) -> None:
        """Wait until something may have to be sent."""
        looks = [at for at in (connection.stream.look_at, connection.stream.retry_at) if at is not None]
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(looks) - time.monotonic()) if looks else None):
                await connection.wake.wait()

    async def _read(self, connection: Connection, context: Any) -> None:
        while True:
            message = await context.read()
            if message is grpc.aio.EOF:  # type: ignore[attr-defined]
                return
            answered = connection.stream.request(message)
            connection.wake.set()
            if answered is None:
                continue
            if answered.reason is None:
                self.counts.acks[answered.response.kind] += 1
                if not connection.stream.rejections:
                    connection.reasons.clear()
                continue
            self.counts.nacks[answered.response.kind] += 1
            told = answered.response.kind, answered.reason
            log = self._log.debug if told in connection.reasons else self._log.info
            if len(connection.reasons) < _MOST_REASONS:
                connection.reasons.add(told)
            log(
                "a client rejects what it was sent, and goes on with what it had",
                node=connection.stream.node_id,
                peer=connection.peer,
                kind=answered.response.kind.label,
                reason=answered.reason,
            )
