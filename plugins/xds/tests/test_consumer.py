"""The consumer, asked by real gRPC clients: the resources it sends, its figures about clients, and the xDS port."""

import asyncio
import socket
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import grpc
import pytest
from xds_clients import Kind
from xds_driving import Driven, driving, raw_client

from discovery import ApplyError, Context, Snapshot, Update, diff
from discovery.testing import ConsumerContract, backend, eventually, free_port, within
from discovery_xds.config import XdsConfig
from discovery_xds.consumer import XdsConsumer
from discovery_xds.limits import Limits


@pytest.mark.parametrize("delta", [False, True])
async def test_a_client_gets_what_it_names_and_then_only_changes(delta: bool) -> None:
    async with driving() as driven, raw_client(driven.address, delta=delta) as client:
        await driven.apply(backend(), backend(service="api"))
        await client.ask(Kind.ENDPOINTS, "web", "api")
        first = await client.read_and_confirm(Kind.ENDPOINTS, *([] if delta else ["web", "api"]))
        assert len(first.resources) == 2
        await driven.apply(backend(port=81), backend(service="api"))
        second = await client.read_and_confirm(Kind.ENDPOINTS, *([] if delta else ["web", "api"]))
        assert len(second.resources) == 1
        await eventually(lambda: driven.figure("acks", kind="eds") == 2)
        (node,) = await driven.nodes()
        assert (node["node"], node["live_revision"], node["up_to_date"]) == ("test", 2, True)
        assert node["protocol"] == ("delta" if delta else "sotw")
        assert driven.figure("pushes", kind="eds") == 2
        assert driven.figure("streams_behind") == 0


async def test_a_change_is_on_its_way_when_apply_returns() -> None:
    async with driving() as driven, raw_client(driven.address) as client:
        await driven.apply(backend())
        await client.ask(Kind.ENDPOINTS, "web")
        await client.read_and_confirm(Kind.ENDPOINTS, "web")
        await eventually(lambda: driven.figure("acks", kind="eds") == 1)
        await driven.apply(backend(port=81))
        assert driven.consumer._server is not None
        (stream,) = driven.consumer._server.streams
        assert stream.subscriptions[Kind.ENDPOINTS].unconfirmed is not None


async def test_no_client_is_answered_before_the_first_snapshot() -> None:
    async with driving() as driven, raw_client(driven.address) as client:
        await client.ask(Kind.CLUSTER)
        await eventually(lambda: driven.figure("streams") == 1)
        reading = asyncio.ensure_future(client.read())
        await driven.apply(backend())
        async with asyncio.timeout(within(20)):
            assert [each.type_url for each in (await reading).resources]


async def test_a_rejection_is_told_in_log_health_and_inspect_until_it_is_over() -> None:
    async with driving() as driven, raw_client(driven.address, node="edge-1") as client:
        await driven.apply(backend())
        await client.ask(Kind.ENDPOINTS, "web")
        first = await client.read()
        await client.ask(Kind.ENDPOINTS, "web", nonce=first.nonce, error="bad address\nin\x1b web")
        await eventually(lambda: driven.figure("nacks", kind="eds") == 1)
        health = await driven.consumer.health()
        assert health.problems == {"eds web": "rejected by edge-1: bad address in\\x1b web"}
        assert health.state == "degraded"
        (entry,) = driven.said("a client rejects")
        assert (entry["node"], entry["reason"]) == ("edge-1", "bad address in\\x1b web")
        (node,) = await driven.nodes()
        assert node["rejected"] == {"eds web": "bad address in\\x1b web"}
        assert node["live_revision"] is None
        assert driven.figure("streams_rejecting") == 1
        await driven.apply(backend(port=81))
        await client.read_and_confirm(Kind.ENDPOINTS, "web")
        await eventually(lambda: driven.figure("acks", kind="eds") == 1)
        assert (await driven.consumer.health()).state == "ok"
        assert (await driven.nodes())[0]["live_revision"] == 2


async def test_a_client_that_reads_nothing_delays_no_other() -> None:
    async with driving() as driven, raw_client(driven.address) as stuck, raw_client(driven.address) as other:
        many = [backend(id=f"b{number}", host=f"10.0.{number // 250}.{number % 250}") for number in range(5000)]
        await driven.apply(*many)
        for client in (stuck, other):
            await client.ask(Kind.ENDPOINTS, "web")
        for number in range(1, 6):
            await driven.apply(*many[number:])
            async with asyncio.timeout(within(20)):
                while (await other.read_and_confirm(Kind.ENDPOINTS, "web")).version_info != driven_version(driven):
                    pass


def driven_version(driven: Driven) -> str:
    """The version of a response with the endpoints of `web` alone, as they are now."""
    from discovery_xds.protocol.catalog import version_of

    server = driven.consumer._server
    assert server is not None
    assert server.catalog is not None
    return version_of(f"web={server.catalog.of(Kind.ENDPOINTS)['web'].version};".encode())


async def test_streams_that_end_are_forgotten() -> None:
    async with driving() as driven:
        await driven.apply(backend())
        async with raw_client(driven.address) as client:
            await client.ask(Kind.CLUSTER)
            await client.read()
            await eventually(lambda: driven.figure("streams") == 1)
        await eventually(lambda: driven.figure("streams") == 0)


async def test_another_configuration_is_adopted_on_the_open_streams() -> None:
    async with driving() as driven, raw_client(driven.address) as client:
        await driven.apply(backend())
        await client.ask(Kind.LISTENER)
        assert len((await client.read_and_confirm(Kind.LISTENER)).resources) == 1
        bind = ["127.0.0.1:8080", "127.0.0.1:8081"]
        config = XdsConsumer.Config.model_validate({**driven.options, "bind": bind})
        assert await driven.consumer.reconfigure(config)
        await driven.apply(backend(), revision=1)
        assert len((await client.read_and_confirm(Kind.LISTENER)).resources) == 2
        other = XdsConsumer.Config.model_validate({**driven.options, "listen": f"127.0.0.1:{free_port()}"})
        assert not await driven.consumer.reconfigure(other)


async def test_a_port_in_use_is_refused_with_its_holder(tmp_path: Path) -> None:
    driven = Driven(tmp_path / "edge")
    with socket.create_server(("127.0.0.1", driven.port)):
        validation = await driven.consumer.validate(Update(Snapshot.of(0, ()), None, diff(None, Snapshot.of(0, ()))))
        assert f"cannot listen on {driven.address}: address already in use over TCP by" in validation.faults[0]
        with pytest.raises(ApplyError, match="address already in use"):
            await driven.consumer.setup()
    await driven.consumer.setup()
    await driven.consumer.teardown()


async def test_files_on_the_machine_of_envoy_are_unchecked(tmp_path: Path) -> None:
    bind = {"address": "127.0.0.1:1", "certificate": ["/a.pem", "/b.pem"], "client_ca": "/ca.pem"}
    services = {"web": {"bind": bind, "backend_tls": {"ca": "/ca.pem", "name": "web"}}}
    driven = Driven(tmp_path / "edge", services=services)
    validation = await driven.consumer.validate(Update(Snapshot.of(0, ()), None, diff(None, Snapshot.of(0, ()))))
    assert validation.faults == ()
    names = "/a.pem", "/b.pem", "/ca.pem"
    assert validation.unchecked == tuple(f"{name} is a file on Envoy's machine" for name in names)


async def test_the_predecessor_listens_until_the_successor_does(tmp_path: Path) -> None:
    async with driving() as driven:
        await driven.apply(backend())
        sockets = await driven.consumer.hand_over()
        ending = asyncio.ensure_future(driven.consumer.teardown())
        await asyncio.wait((ending,), timeout=0.1)  # a server that waits for no successor ends within this time
        socket.create_connection(("127.0.0.1", driven.port)).close()
        successor = XdsConsumer(
            driven.consumer.config, Context("edge", tmp_path, driven.consumer.context.log, inherited=sockets)
        )
        await successor.setup()
        assert [each.fileno() for each in sockets] == [-1]  # the successor uses it
        async with asyncio.timeout(within(5)):
            await ending
        state = driven.snapshot
        assert state is not None
        await successor.apply(Update(state, None, diff(None, state)))
        async with raw_client(driven.address) as client:
            await client.ask(Kind.CLUSTER)
            assert (await client.read()).resources
        await successor.teardown()


async def test_a_predecessor_waits_for_no_successor_when_it_is_told_to_stop(tmp_path: Path) -> None:
    driven = Driven(tmp_path / "edge", Limits(successor=1000))
    await driven.consumer.setup()
    for each in await driven.consumer.hand_over():
        each.close()
    ending = asyncio.ensure_future(driven.consumer.teardown())
    await driven.consumer.end_drain()
    async with asyncio.timeout(within(30)):
        await ending


async def test_the_socket_of_a_predecessor_that_has_ended_is_taken_too(tmp_path: Path) -> None:
    async with driving() as driven:
        sockets = await driven.consumer.hand_over()
        await driven.consumer.end_drain()
        await driven.consumer.teardown()
        successor = XdsConsumer(
            driven.consumer.config, Context("edge", tmp_path, driven.consumer.context.log, inherited=sockets)
        )
        await successor.setup()
        assert [each.fileno() for each in sockets] == [-1]
        await successor.teardown()


async def test_an_unknown_method_and_junk_end_their_own_call_alone() -> None:
    async with driving() as driven, raw_client(driven.address) as good, raw_client(driven.address) as bad:
        await driven.apply(backend())
        await bad.call.write(b"\xff\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError):
            await bad.read()
        await good.ask(Kind.CLUSTER)
        assert (await good.read()).resources


class ImpatientConsumer(XdsConsumer):
    """The consumer, whose predecessor waits shortly: the contract ends a predecessor before the successor begins."""

    def __init__(self, config: XdsConfig, context: Context) -> None:
        super().__init__(config, context, Limits(successor=0.1))


class TestXdsConsumer(ConsumerContract):
    consumer = ImpatientConsumer
    config: ClassVar[Mapping[str, Any]] = {"listen": f"127.0.0.1:{free_port()}"}
    driven: ClassVar[list[XdsConsumer]] = []

    def _make(self, run_dir: Path, state_dir: Path | None = None) -> Any:
        made = super()._make(run_dir, state_dir)
        self.driven.append(made)
        return made

    def world(self, run_dir: Path) -> object:
        """The version of each resource that is served."""
        server = self.driven[-1]._server
        catalog = server.catalog if server is not None else None
        return catalog and {(kind, name): each.version for kind in Kind for name, each in catalog.of(kind).items()}

    def sabotage(self, run_dir: Path) -> AbstractContextManager[object]:
        """No resource can be built."""

        @contextmanager
        def broken() -> Iterator[None]:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("discovery_xds.resources.builder.Builder.build", None)
                yield

        return broken()
