"""The consumer `xds` driven as its runner drives it, and clients that speak the protocol over real gRPC."""

import logging
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import structlog
from envoy.service.discovery.v3 import discovery_pb2
from structlog.testing import LogCapture

from discovery import Backend, Context, Snapshot, Update, diff
from discovery.testing import free_port, snapshot
from discovery_xds.consumer import XdsConsumer
from discovery_xds.limits import LIMITS, Limits
from discovery_xds.protocol.catalog import TYPE_URLS, Kind

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"


class Driven:
    """The consumer with a directory and a log of its own."""

    def __init__(self, directory: Path, limits: Limits = LIMITS, **config: Any) -> None:
        self.port = free_port()
        self.options = {"listen": f"127.0.0.1:{self.port}", **config}
        self.capture = LogCapture()
        log = structlog.wrap_logger(
            logging.getLogger("xds"), processors=[self.capture], wrapper_class=structlog.make_filtering_bound_logger(0)
        )
        options, context = XdsConsumer.Config.model_validate(self.options), Context("edge", directory, log)
        self.consumer = XdsConsumer(options, context, limits)
        self.snapshot: Snapshot | None = None

    @property
    def address(self) -> str:
        return str(self.options["listen"])

    async def apply(self, *backends: Backend, revision: int | None = None) -> None:
        state = snapshot(*backends, revision=revision or (self.snapshot.revision + 1 if self.snapshot else 1))
        before, self.snapshot = self.snapshot, state
        await self.consumer.apply(Update(state, before, diff(before, state)))

    def said(self, event: str) -> list[Any]:
        return [entry for entry in self.capture.entries if event in entry["event"]]

    async def nodes(self) -> list[dict[str, Any]]:
        return list((await self.consumer.inspect())["nodes"])

    def figure(self, name: str, **labels: str) -> float:
        return sum(
            each.value
            for each in self.consumer.metrics()
            if each.name == name and labels.items() <= dict(each.labels).items()
        )


@asynccontextmanager
async def driving(limits: Limits = LIMITS, **config: Any) -> AsyncIterator[Driven]:
    with tempfile.TemporaryDirectory() as directory:
        driven = Driven(Path(directory), limits, **config)
        try:
            await driven.consumer.setup()
            yield driven
        finally:
            await driven.consumer.teardown()


class RawClient:
    """A stream of the state-of-the-world or of the delta protocol, without any behaviour of its own."""

    def __init__(self, channel: grpc.aio.Channel, node: str, *, delta: bool) -> None:
        self.node, self.delta = node, delta
        self.request = discovery_pb2.DeltaDiscoveryRequest if delta else discovery_pb2.DiscoveryRequest
        self.response = discovery_pb2.DeltaDiscoveryResponse if delta else discovery_pb2.DiscoveryResponse
        name = "DeltaAggregatedResources" if delta else "StreamAggregatedResources"
        self.call = channel.stream_stream(f"{METHOD}{name}")()

    async def ask(self, kind: Kind, *names: str, nonce: str = "", error: str = "") -> None:
        message = self.request(type_url=TYPE_URLS[kind], response_nonce=nonce)
        message.node.id = self.node
        (message.resource_names_subscribe if self.delta else message.resource_names).extend(names)
        if error:
            message.error_detail.message = error
        await self.call.write(message.SerializeToString())

    async def read(self) -> Any:
        return self.response.FromString(await self.call.read())

    async def ask_and_read(self, kind: Kind, *names: str) -> Any:
        await self.ask(kind, *names)
        return await self.read()

    async def read_and_confirm(self, kind: Kind, *names: str) -> Any:
        message = await self.read()
        assert message.type_url == TYPE_URLS[kind]
        await self.ask(kind, *names, nonce=message.nonce)
        return message


@asynccontextmanager
async def raw_client(
    address: str, *, node: str = "test", delta: bool = False, credentials: grpc.ChannelCredentials | None = None
) -> AsyncIterator[RawClient]:
    options = (("grpc.use_local_subchannel_pool", 1),)
    if credentials is None:
        channel = grpc.aio.insecure_channel(address, options)
    else:
        channel = grpc.aio.secure_channel(
            address, credentials, (*options, ("grpc.ssl_target_name_override", "localhost"))
        )
    async with channel:
        client = RawClient(channel, node, delta=delta)
        yield client
        client.call.cancel()
