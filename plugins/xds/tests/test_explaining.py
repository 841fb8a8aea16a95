"""What the consumer tells of single backends, and what its clients say of them over real gRPC."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from xds_clients import Kind
from xds_driving import Driven, RawClient, driving, raw_client

from discovery import Backend, LeftOut, Update, diff
from discovery.testing import backend, eventually, snapshot
from discovery_xds.protocol.catalog import Catalog

A, B = backend(id="a", host="10.0.0.1", port=80), backend(id="b", host="10.0.0.2", port=80, weight=3)


async def told(driven: Driven, *backends: Backend) -> dict[str, Sequence[str]]:
    """What the consumer tells of each of the backends, by its id."""
    found = await driven.consumer.explain(backends)
    return {key.partition("/")[2]: lines for key, lines in found.items()}


def version(driven: Driven, name: str = "web") -> str:
    """The version of the endpoints."""
    catalog: Catalog | None = driven.consumer._server.catalog if driven.consumer._server is not None else None
    assert catalog is not None
    return catalog.of(Kind.ENDPOINTS)[name].version


async def says(driven: Driven, line: str) -> None:
    """Wait until the last line about the backend `a` is this one."""

    async def is_told() -> bool:
        assert driven.snapshot is not None
        lines = (await told(driven, *driven.snapshot.services["web"].backends))["a"]
        return lines[-1] == f"endpoints web at version {version(driven)}: {line}"

    await eventually(is_told, line, timeout=30)


async def test_the_endpoint_of_a_backend_with_weight_priority_and_locality() -> None:
    async with driving(locality={"region": "region", "zone": "zone"}) as driven:
        assert await told(driven, A) == {}, "nothing is known before the first snapshot"
        here = backend(id="here", host="10.0.0.3", port=80, labels={"region": "eu", "zone": "eu-1"})
        await driven.apply(A, B, here)
        found = await told(driven, A, B, here)
        assert [lines[0] for lines in found.values()] == [
            "cluster web: endpoint 10.0.0.1:80 weight 1 priority 0",
            "cluster web: endpoint 10.0.0.2:80 weight 3 priority 0",
            "cluster web: endpoint 10.0.0.3:80 weight 1 priority 0 locality eu/eu-1",
        ]
        nobody = f"endpoints web at version {version(driven)}: no connected client asks for them"
        assert {lines[1:] for lines in map(tuple, found.values())} == {(nobody,)}


async def test_a_backend_without_an_endpoint_or_with_one_that_others_share() -> None:
    drains = backend(id="d", host="10.0.0.5", state="draining")
    named = backend(id="n", host="db.example.com")
    twin = backend(id="twin", host=A.host, port=A.port, weight=4)
    async with driving() as driven:
        await driven.apply(A, twin, drains)
        found = await told(driven, A, twin, drains)
        shared = "cluster web: endpoint 10.0.0.1:80 weight 5 priority 0, one for all backends at this address"
        assert (found["a"][0], found["twin"][0]) == (shared, shared)
        assert found["d"][0] == "cluster web: no endpoint: it gets no new work"
        state = snapshot(named, revision=2)
        await driven.consumer.apply(Update(state, None, diff(None, state), {}))
        lines = (await told(driven, named))["n"]
        assert lines[:2] == (
            "cluster web: no endpoint: no address is known for db.example.com",
            "cluster web: no address is known for db.example.com",
        )


@pytest.mark.parametrize("delta", [False, True])
async def test_clients_that_acknowledge_refuse_and_do_not_answer_are_told(delta: bool) -> None:
    async def ask_again(client: RawClient, message: Any, error: str = "") -> None:
        names = () if delta else ("web",)
        await client.ask(Kind.ENDPOINTS, *names, nonce=message.nonce, error=error)

    async with driving() as driven, raw_client(driven.address, node="edge-1", delta=delta) as client:
        await driven.apply(A)
        await client.ask(Kind.ENDPOINTS, "web")
        first = await client.read()
        await says(driven, "sent to edge-1, not answered yet")
        await ask_again(client, first)
        await says(driven, "acknowledged by edge-1")
        await driven.apply(A, B)
        second = await client.read()
        await says(driven, "sent to edge-1, not answered yet")
        await ask_again(client, second, error="bad\x1b address")
        await says(driven, "rejected by edge-1, which goes on with what it had: bad\\x1b address")
        await driven.apply(A)
        await ask_again(client, await client.read())
        await says(driven, "acknowledged by edge-1")
        async with raw_client(driven.address, node="edge-1", delta=delta) as other:
            await other.ask(Kind.ENDPOINTS, "web")
            await ask_again(other, await other.read())
            await says(driven, "acknowledged by edge-1 (2 streams)")
        await says(driven, "acknowledged by edge-1")


async def test_a_refused_cluster_is_told_beside_the_endpoints() -> None:
    async with driving() as driven, raw_client(driven.address, node="edge-1") as client:
        await driven.apply(A)
        await client.ask(Kind.CLUSTER)
        message = await client.read()
        await client.ask(Kind.CLUSTER, nonce=message.nonce, error="cluster web: no such policy")
        why = "cluster web: rejected by edge-1, which goes on with what it had: cluster web: no such policy"

        async def is_told() -> bool:
            return why in (await told(driven, A))["a"]

        await eventually(is_told, timeout=30)


async def test_what_waits_for_an_answer_is_not_sent_yet() -> None:
    async with driving() as driven, raw_client(driven.address, node="edge-1") as client:
        await driven.apply(A)
        await client.ask(Kind.ENDPOINTS, "web")
        await client.read()
        await driven.apply(A, B)  # while the client has not answered
        await says(driven, "not sent yet to edge-1")


async def test_many_clients_are_told_by_their_number() -> None:
    async with driving() as driven, AsyncExitStack() as clients:
        await driven.apply(A)
        for number in range(7):
            client = await clients.enter_async_context(raw_client(driven.address, node=f"edge-{number}"))
            await client.ask(Kind.ENDPOINTS, "web")
            await client.read_and_confirm(Kind.ENDPOINTS, "web")
        await says(driven, "acknowledged by edge-0, edge-1, edge-2, edge-3, edge-4 and 2 more")


async def test_a_backend_that_no_service_takes_is_left_out_with_the_reason() -> None:
    services = {"blue": {"service": "web", "labels": {"colour": ["blue", "navy"]}}, "api": {"hosts": "api"}}
    async with driving(services=services) as driven:
        blue = backend(id="blue", host="10.0.0.9", port=80, labels={"colour": "blue"})
        other = backend("other", id="o")
        await driven.apply(A, blue, other)
        found = await told(driven, A, blue, other)
        assert found["blue"][0] == "cluster blue: endpoint 10.0.0.9:80 weight 1 priority 0"
        left_out = found["a"], found["o"]
        assert [each.reason for each in left_out if isinstance(each, LeftOut)] == [
            "service blue takes backends with the labels colour=blue|navy",
            "'services' has no entry for 'other', but for web, api",
        ]
