"""Slots: an operator allows access to a stats socket alone, and backends get the servers that the file has for them."""

import asyncio
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from external_haproxy import ExternalProcess, run_external
from haproxy_driver import ConsumerDriver, Drive, StartLoad, wait_until_served, ways
from haproxy_web import Fetch

from discovery import ApplyError, Backend, State
from discovery.testing import backend, eventually
from discovery_haproxy.program.control_socket import ControlSocket
from discovery_haproxy.runtime_api.planner import Move, Remove, Revive, SetWeight
from discovery_haproxy.runtime_api.slots import Slot, fill, parse_slots

Origins = tuple[Backend, ...]
OWN = """\
global
    stats socket {directory}/stats.sock mode 600 level admin
    stats socket {directory}/operator.sock mode 600 level operator
    server-state-file {directory}/states
defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
    option redispatch
    option idle-close-on-response
    load-server-state-from-file global
frontend edge
    bind {bind}
    default_backend web
backend web
    retry-on conn-failure empty-response
    default-server check inter 200ms fall 2 rise 1
    server-template web 3 {address} disabled
"""

NAME = "slot.invalid:80 init-addr last,127.0.0.1"
"""Address of a slot for which HAProxy restores the address of a backend."""


@pytest.fixture
def edge(request: pytest.FixtureRequest, haproxy: Path, run_dir: Path, bind: str) -> Iterator[ExternalProcess]:
    """Run the operator's HAProxy with three slots, which have the parameter's address or a name."""
    own = run_dir / "own.cfg"
    address = getattr(request, "param", NAME)
    own.write_text(OWN.format(directory=run_dir, bind=bind, address=address))
    with run_external(haproxy, run_dir, (own,)) as external:
        yield external


def options(edge: ExternalProcess, **more: Any) -> dict[str, Any]:
    external = {"slots": True, "stats_socket": edge.stats_socket, "state_file": edge.directory / "states", **more}
    return {"external": external}


async def slots(edge: ExternalProcess) -> list[Slot]:
    return parse_slots(await ControlSocket(edge.stats_socket, master=False).server_states())["web"]


async def used(edge: ExternalProcess) -> dict[int, str]:
    """Return the names of the slots in use by their ports."""
    return {slot.place[1]: slot.key[1] for slot in await slots(edge) if not slot.is_free and slot.place is not None}


async def wait_until_up(edge: ExternalProcess, *origins: Backend) -> None:
    """Wait until HAProxy's checks of these backends, and of no others, have passed."""

    async def are_up() -> bool:
        return {slot.place[1] for slot in await slots(edge) if slot.is_up and slot.place} == {o.port for o in origins}

    await eventually(are_up, "the slots to be up")


async def apply_after_request(driver: ConsumerDriver) -> None:
    """Wait until the health check asks for a deployment, and deploy."""

    async def is_requested() -> bool:
        await driver.consumer.health()
        return await driver.is_apply_requested()

    await eventually(is_requested, "a request for a deployment")
    driver.apply_requested.clear()
    await driver.apply_again()


async def test_backends_get_slots_and_keep_them(
    drive: Drive, edge: ExternalProcess, origins: Origins, load: StartLoad, fetch: Fetch, bind: str
) -> None:
    first, second, third, fourth = origins
    async with drive(**options(edge)) as driver:
        await driver.apply(first)
        await wait_until_served(fetch, bind, first)
        running = load(f"http://{bind}/")
        await driver.apply(first, second)
        await wait_until_up(edge, first, second)
        before = await used(edge)
        await driver.apply(second, third)
        await wait_until_up(edge, second, third)
        assert (await used(edge))[second.port] == before[second.port]
        await driver.apply(backend(port=third.port, weight=7), backend(port=second.port, state=State.DRAINING), fourth)
        weights = {slot.place[1]: slot.weight for slot in await slots(edge) if slot.place and not slot.is_free}
        assert weights == {third.port: 7, second.port: 0, fourth.port: 1}
        await wait_until_up(edge, second, third, fourth)
        _, failed = await asyncio.to_thread(running.stop)
        assert failed == 0
        before = await used(edge)
        assert await edge.reloads() == 0
    async with drive(**options(edge)) as driver:  # a new daemon changes nothing
        await driver.apply(backend(port=third.port, weight=7), backend(port=second.port, state=State.DRAINING), fourth)
        assert (await used(edge), ways(driver)) == (before, {"runtime": 0})


async def test_backends_without_a_slot_wait(
    drive: Drive, edge: ExternalProcess, origins: Origins, fetch: Fetch, bind: str
) -> None:
    async with drive(**options(edge)) as driver:
        await driver.apply(*origins)
        assert len(await used(edge)) == 3
        told = "service 'web' has 4 backends, and HAProxy 3 slots: 1 wait"
        health = await driver.consumer.health()
        assert (health.ok, health.detail, driver.has_logged(told)) == (False, told, True)
        assert (await driver.consumer.inspect())["backends_without_slot"] == {"web": 1}
        assert not await driver.is_apply_requested()
        await driver.apply(*origins[1:])
        assert set(await used(edge)) == {origin.port for origin in origins[1:]}
        assert (await driver.consumer.inspect())["backends_without_slot"] == {}
        await driver.apply(*origins[1:], backend(service="other"))
        assert "no backend 'other' with slots: add `server-template other" in (await driver.consumer.health()).detail


async def test_a_service_that_is_gone_leaves_its_slots(drive: Drive, edge: ExternalProcess, origins: Origins) -> None:
    async with drive(**options(edge)) as driver:
        await driver.apply(*origins)
        await driver.apply()
        assert await used(edge) == {}
        health = await driver.consumer.health()
        assert (health.ok, health.detail) == (True, "")
        assert (await driver.consumer.inspect())["backends_without_slot"] == {}
        await driver.apply(origins[0])
        assert set(await used(edge)) == {origins[0].port}
    async with drive(**options(edge)) as driver:  # the service went while no daemon ran
        await driver.apply()
        assert await used(edge) == {}


@pytest.mark.parametrize("edge", [NAME, "127.0.0.1:80"], indirect=True)
async def test_a_reload_by_the_operator_keeps_the_slots(
    drive: Drive, edge: ExternalProcess, origins: Origins, fetch: Fetch, bind: str
) -> None:
    restores = (await slots(edge))[0].is_restorable
    async with drive(**options(edge)) as driver:
        await driver.apply(*origins[:2])
        await wait_until_up(edge, *origins[:2])
        await driver.consumer.health()
        before = await used(edge)
        await edge.reload()
        if restores:

            async def is_restored() -> bool:
                return await used(edge) == before

            await eventually(is_restored, "the slots as before")
            assert (await driver.consumer.health()).ok
            assert not await driver.is_apply_requested()
        else:
            assert "a reload empties the slots of 'web'" in (await driver.consumer.health()).detail
            await apply_after_request(driver)
        await wait_until_up(edge, *origins[:2])
        assert set(await used(edge)) == set(before)


async def test_slots_that_another_program_has_changed_are_filled_again(
    drive: Drive, edge: ExternalProcess, origins: Origins
) -> None:
    async with drive(**options(edge)) as driver:
        await driver.apply(*origins[:2])
        await wait_until_up(edge, *origins[:2])
        name = (await used(edge))[origins[0].port]
        await ControlSocket(edge.stats_socket, master=False).send_once(f"set server web/{name} addr 127.0.0.9", 5)
        await apply_after_request(driver)
        await wait_until_up(edge, *origins[:2])


async def test_a_socket_that_lets_clients_read_alone_is_refused(
    drive: Drive, edge: ExternalProcess, origins: Origins
) -> None:
    async with drive(**options(edge, stats_socket=edge.directory / "operator.sock")) as driver:
        with pytest.raises(ApplyError, match=r"operator.sock lets discovery only read: add `level admin`"):
            await driver.apply(*origins)


def slot(name: str, port: int, *, free: bool = False, up: bool = True, weight: int = 1, checked: bool = False) -> Slot:
    """Return a slot at a port of 192.0.2.1."""
    check = 6 if checked else 8
    row = (
        f"2 web 1 {name} 192.0.2.1 {2 if up else 0} {int(free)} {weight} 1 5 1 0 0 {check} 0 0 0 slot.invalid {port} -"
    )
    return Slot(("web", name), tuple(row.split()))


def test_slots_are_filled_in_order_and_those_that_are_vacated_last() -> None:
    address = ip_address("192.0.2.1")
    found = fill([slot("a", 1), slot("b", 2, free=True), slot("c", 3)], {(address, 3): 1, (address, 4): 5})
    assert [(type(step), step.key[1]) for step in found.steps] == [(Revive, "b"), (Remove, "a")]
    found = fill([slot("a", 1), slot("c", 3)], {(address, 3): 2, (address, 4): 5, (address, 5): 1})
    assert [(type(step), step.key[1]) for step in found.steps] == [(SetWeight, "c"), (Move, "a"), (SetWeight, "a")]
    assert found.waiting == 1


def test_a_slot_with_a_check_gets_traffic_at_once_only_if_no_other_serves() -> None:
    address = ip_address("192.0.2.1")
    free = slot("b", 2, free=True, checked=True)
    assert fill([slot("a", 1), free], {(address, 1): 1, (address, 4): 1}).up == frozenset()
    assert fill([slot("a", 1, up=False), free], {(address, 1): 1, (address, 4): 1}).up == {("web", "b")}
    assert fill([slot("a", 1), free], {(address, 4): 1}).up == {("web", "b")}
