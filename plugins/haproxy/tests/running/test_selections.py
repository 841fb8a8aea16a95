"""Sections that select the backends of one service by labels: traffic follows the labels."""

import asyncio
import random
from dataclasses import replace

import pytest
from haproxy_driver import Drive, StartLoad, assert_true, live_servers, wait_until_served, ways
from haproxy_web import Fetch
from sampling import sampled

from discovery import Backend
from discovery.testing import free_port

Origins = tuple[Backend, ...]


def member(origin: Backend, role: str) -> Backend:
    """Return an origin as a member of a Patroni cluster."""
    return replace(origin, service="pg", labels={"role": role})


def services(primary: str, replicas: str, **options: object) -> dict[str, object]:
    """Return sections for the primary and for the replicas of `pg`."""
    shared = {"service": "pg", "mode": "tcp", **options}
    return {
        "pg-primary": {**shared, "bind": primary, "labels": {"role": "primary"}},
        "pg-replicas": {**shared, "bind": replicas, "labels": {"role": "replica"}},
    }


async def test_a_fail_over_moves_the_traffic_without_a_reload(
    drive: Drive, origins: Origins, load: StartLoad, fetch: Fetch, bind: str
) -> None:
    replicas, (first, second, third, _) = f"127.0.0.1:{free_port()}", origins
    async with drive(services=services(bind, replicas)) as driver:
        await driver.apply(member(first, "primary"), member(second, "replica"), member(third, "replica"))
        await wait_until_served(fetch, bind, first)
        before, loads = (
            await driver.processes(),
            [load(f"http://{each}/", keep_alive=False) for each in (bind, replicas)],
        )
        for primary in (second, third, first):
            await driver.apply(*(member(each, "primary" if each is primary else "replica") for each in origins[:3]))
            await assert_true(driver)
            assert await answers(fetch, bind) == {str(primary.port)}
            assert await answers(fetch, replicas) == {str(each.port) for each in origins[:3] if each is not primary}
        counts = [await asyncio.to_thread(each.stop) for each in loads]
        assert [failed for _, failed in counts] == [0, 0]
        assert ways(driver) == {"runtime": 3, "reload": 0}
        assert await driver.processes() == before


async def test_a_server_that_changed_its_section_is_in_maintenance_in_the_section_that_names_it(
    drive: Drive, origins: Origins, fetch: Fetch, bind: str
) -> None:
    first, second = origins[:2]
    table = services(bind, f"127.0.0.1:{free_port()}", check=False)
    table["pg-primary"] = {**table["pg-primary"], "backend_lines": f"use-server {first.id} if {{ src 192.0.2.1 }}"}  # type: ignore[dict-item]
    async with drive(services=table) as driver:
        await driver.apply(member(first, "primary"), member(second, "replica"))
        await driver.apply(member(first, "replica"), member(second, "primary"))
        assert {key[0] for key in await live_servers(driver) if key[1] == first.id} == {"pg-primary", "pg-replicas"}
        assert await answers(fetch, bind) == {str(second.port)}
        assert driver.has_logged("'pg-primary' refused, served with the servers that its lines name and that have left")


@pytest.mark.parametrize("role", sampled(["primry", "primary"]))
async def test_a_typing_error_in_a_selection_is_seen(drive: Drive, origins: Origins, bind: str, role: str) -> None:
    web = {"service": "pg", "labels": {"role": role}, "bind": bind}
    async with drive(services={"web": web}) as driver:
        await driver.apply(member(origins[0], "primary"))
        problem = f"service 'web' has no backends: no backend of 'pg' has role={role}"
        assert driver.has_logged(problem) == (role == "primry")
        preview = await driver.preview(member(origins[0], "primary"))
        assert preview.startswith(f"# {problem}\n") == (role == "primry")
        assert (await driver.consumer.health()).ok
        assert driver.has_logged(f"backend{'s' if role == 'primry' else ''} of pg with role={role}")


async def answers(fetch: Fetch, bind: str) -> set[str]:
    """Return the bodies of some requests."""
    return {(await asyncio.to_thread(fetch, f"http://{bind}/")).body for _ in range(8)}


async def test_backups_and_weights_of_labels_change_at_run_time(
    drive: Drive, origins: Origins, fetch: Fetch, bind: str
) -> None:
    def zoned(origin: Backend, zone: str, **labels: str) -> Backend:
        return replace(origin, weight=10, labels={"zone": zone, **labels})

    first, second, third, _ = origins
    web = {
        "bind": bind,
        "backup": {"label": "zone", "not": "eu-1"},
        "weight_factor": {"label": "capacity"},
        "check": {"port": {"label": "check_port"}},
    }
    async with drive(services={"web": web}) as driver:
        await driver.apply(zoned(first, "eu-1"))
        before = await driver.processes()
        await driver.apply(zoned(first, "eu-1"), zoned(second, "eu-2", check_port=str(third.port)))
        await assert_true(driver)
        assert await answers(fetch, bind) == {str(first.port)}
        await driver.apply(zoned(first, "eu-1", capacity="2"), zoned(second, "eu-2", check_port=str(third.port)))
        assert (await live_servers(driver))["web", first.id].weight == 20
        await driver.apply(zoned(second, "eu-2", check_port=str(third.port)))
        await assert_true(driver)
        assert await answers(fetch, bind) == {str(second.port)}
        assert await driver.processes() == before
        # Only a reload changes whether a server is a backup.
        await driver.apply(zoned(second, "eu-1", check_port=str(third.port)), zoned(third, "eu-2"))
        assert ways(driver) == {"runtime": 3, "reload": 1}
        assert await answers(fetch, bind) == {str(second.port)}
        # The first backup of the file serves, also if it comes later than others.
        await driver.apply(zoned(third, "eu-2"), replace(zoned(first, "eu-2"), id="0"))
        assert await answers(fetch, bind) == {str(first.port)}


async def test_a_random_history_of_labels(drive: Drive, origins: Origins, fetch: Fetch, bind: str) -> None:
    """After each change the sections have the servers and weights that the labels say, without a reload."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    binds = {"primary": bind, "replica": f"127.0.0.1:{free_port()}"}
    table = services(*binds.values(), weight_factor={"label": "capacity"}, check={"interval": "200ms"})
    members = dict.fromkeys(origins, ("", ""))
    async with drive(services=table) as driver:
        await driver.apply(member(origins[0], "none"))
        for step in range(40):
            changed = dice.choice(origins)
            members[changed] = dice.choice(("primary", "replica", "")), dice.choice(("", "2", "0.5", "x"))
            backends = {
                replace(origin, service="pg", weight=10, labels={"role": role, "capacity": capacity}): role
                for origin, (role, capacity) in members.items()
            }
            await driver.apply(*backends)
            weights = {"2": 20, "0.5": 5}
            expected = {
                (f"pg-{role}{'s' if role == 'replica' else ''}", each.id): weights.get(each.labels["capacity"], 10)
                for each, role in backends.items()
                if role
            }
            live = {key: row.weight for key, row in (await live_servers(driver)).items() if not row.removed}
            assert live == expected, (seed, step)
            for role, address in binds.items():
                ports = {str(each.port) for each in backends if each.labels["role"] == role}
                if ports:
                    assert await answers(fetch, address) <= ports, (seed, step, role)
        assert ways(driver)["reload"] == 0, seed
