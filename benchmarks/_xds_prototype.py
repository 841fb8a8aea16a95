"""The prototype of the consumer `xds`: an ADS server that sends what has changed, without any rule of the protocol.

It has no order of pushes, no answers to rejections, no delta, and no bound. Its figures are the bars of the consumer.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from envoy.service.discovery.v3 import discovery_pb2

from discovery import Update
from discovery_xds.config import XdsConfig
from discovery_xds.protocol.catalog import KINDS, TYPE_URLS, Catalog, Kind
from discovery_xds.resources.builder import Builder

_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"


class Prototype:
    """The server, with the methods of a consumer."""

    def __init__(self, config: XdsConfig) -> None:
        """Keep the configuration."""
        self._config = config
        self._builder = Builder(config)
        self._catalog: Catalog | None = None
        self._streams: set[asyncio.Queue[Kind]] = set()

    async def setup(self) -> None:
        """Listen."""
        handler = grpc.stream_stream_rpc_method_handler(
            self._stream, request_deserializer=discovery_pb2.DiscoveryRequest.FromString
        )
        methods = grpc.method_handlers_generic_handler(_SERVICE, {"StreamAggregatedResources": handler})
        self._server = grpc.aio.server(handlers=(methods,))
        self._server.add_insecure_port(self._config.listen)
        await self._server.start()

    async def apply(self, update: Update) -> None:
        """Send the endpoints to every stream."""
        self._catalog = self._builder.build(update)
        for each in self._streams:
            each.put_nowait(Kind.ENDPOINTS)

    async def teardown(self) -> None:
        """Stop listening."""
        await self._server.stop(0)

    async def _stream(self, requests: AsyncIterator[Any], _: object) -> AsyncIterator[bytes]:
        due: asyncio.Queue[Kind] = asyncio.Queue()
        names: dict[Kind, list[str]] = {}
        self._streams.add(due)

        async def read() -> None:
            async for request in requests:
                kind = KINDS[request.type_url]
                if names.get(kind) != list(request.resource_names):
                    names[kind] = list(request.resource_names)
                    due.put_nowait(kind)

        reading = asyncio.ensure_future(read())
        number = 0
        try:
            while True:
                kind = await due.get()
                if kind not in names or self._catalog is None:
                    continue
                number += 1
                head = discovery_pb2.DiscoveryResponse(
                    type_url=TYPE_URLS[kind], version_info=str(number), nonce=str(number)
                )
                there = self._catalog.of(kind)
                wanted = names[kind] or sorted(self._catalog.listed[kind])
                yield b"".join((head.SerializeToString(), *(there[name].sotw for name in wanted if name in there)))
        finally:
            reading.cancel()
            self._streams.discard(due)
