"""Host names on one event loop: what is followed, what comes first, and what is passed on when. Point 8."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import structlog

from discovery.consuming.names import Names, first_reachable
from discovery.consuming.resolving import PATIENCE, Resolved, SnapshotResolver
from discovery.model import Backend, Snapshot, diff
from discovery.plugin import Update
from discovery.testing import backend, eventually, free_port, snapshot, within

NOWHERE = "no-such-name.invalid"


@contextmanager
def listening(*hosts: str) -> Iterator[int]:
    port = free_port()
    with ExitStack() as stack:
        for host in hosts:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            stack.enter_context(socket.create_server((host, port), family=family))
        yield port


@pytest.mark.parametrize(("host", "named"), [("10.0.0.1", False), ("fd00::1", False), ("db", True), ("1.db-2", True)])
def test_what_is_a_host_name(host: str, named: bool) -> None:
    assert backend(host=host).is_named is named


def test_a_consumer_is_given_addresses_and_without_any_lookup_what_the_registry_says() -> None:
    state = snapshot(backend(host="a.test"), backend(host="b.test"), backend(host="fd00::1"))
    a, b, literal = state.backends()
    update = Update(state, None, diff(None, state), {("a.test", 8080): ("10.0.0.1", "fd00::2")})
    assert [update.addresses_of(each) for each in (a, b, literal)] == [("10.0.0.1", "fd00::2"), (), ("fd00::1",)]
    third_party = Update(state, None, diff(None, state))
    assert [third_party.addresses_of(each) for each in (a, literal)] == [("a.test",), ("fd00::1",)]


def test_the_first_address_that_takes_a_connection_is_reached() -> None:
    with listening("127.0.0.3", "127.0.0.4") as port:
        assert asyncio.run(first_reachable(["127.0.0.2", "127.0.0.3", "127.0.0.4"], port)) == "127.0.0.3"
        assert asyncio.run(first_reachable(["127.0.0.4", "127.0.0.3"], port)) == "127.0.0.4"
        assert asyncio.run(first_reachable(["::1", "127.0.0.2"], port)) is None


async def test_an_endpoint_is_followed_as_long_as_a_backend_has_it() -> None:
    names = Names(lambda: None)
    assert names.add(("localhost", 80))
    assert not names.add(("localhost", 80))
    await names.settled(60)
    assert "127.0.0.1" in names.addresses["localhost", 80]
    same = names.addresses
    assert names.add(("localhost", 81))
    assert names.addresses["localhost", 81]  # what is known is not asked for first
    names.discard(("localhost", 81))
    assert names.addresses == same
    names.discard(("localhost", 80))
    assert "localhost" in names
    names.discard(("localhost", 80))
    assert "localhost" not in names
    assert not names.addresses
    names.add(("localhost", 80))
    names.add(("localhost", 80))
    async with asyncio.timeout(within(60)):
        await names.close()


async def test_what_an_earlier_run_found_stands_until_the_name_is_looked_up() -> None:
    names = Names(lambda: None)
    names.remembered = {NOWHERE: ("10.0.0.1",), "localhost": ("10.0.0.2",)}
    names.follow([(NOWHERE, 80), ("localhost", 80)])
    assert names.addresses == {(NOWHERE, 80): ("10.0.0.1",), ("localhost", 80): ("10.0.0.2",)}
    await eventually(lambda: NOWHERE in names.problems, timeout=60)
    await eventually(lambda: "10.0.0.2" not in names.addresses["localhost", 80], timeout=60)
    assert names.addresses[NOWHERE, 80] == ("10.0.0.1",)
    await names.close()


async def test_a_snapshot_is_passed_on_at_once_unless_it_brings_new_names() -> None:
    passed: list[Resolved] = []
    resolving = SnapshotResolver(structlog.get_logger(), passed.append)
    first = snapshot(backend(id="a"))
    resolving.take(first)
    assert [each.snapshot for each in passed] == [first]
    second = Snapshot.of(2, [*first.backends(), Backend("web", "b", "localhost", 80)])
    resolving.take(second)
    assert len(passed) == 1
    await eventually(lambda: len(passed) == 2, timeout=60)
    assert "127.0.0.1" in passed[-1].addresses["localhost", 80]
    third = Snapshot.of(3, [*second.backends(), Backend("web", "c", "localhost", 80)])
    resolving.take(third)  # whose names are known
    assert passed[-1].snapshot is third
    assert passed[-1].addresses is passed[-2].addresses
    await resolving.close()
    assert resolving.latest is None


async def test_a_name_that_takes_long_does_not_hold_a_snapshot_up() -> None:
    passed: list[Resolved] = []
    resolving = SnapshotResolver(structlog.get_logger(), passed.append)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    resolving.take(snapshot(backend(id="a"), backend(id="b", host=NOWHERE)))
    await eventually(lambda: passed, timeout=60)
    assert loop.time() - begun < 40 * PATIENCE
    assert passed[0].addresses == {}
    await eventually(lambda: ("web", "b") in resolving.problems, timeout=60)
    await resolving.close()
