"""Routes that change in the running HAProxy, without a reload."""

import asyncio
import random
from pathlib import Path
from typing import Any

from haproxy_driver import ConsumerDriver, Drive, ways
from haproxy_web import Fetch

from discovery import Backend
from discovery.testing import backend
from discovery_haproxy.runtime_api.maps import Entry, parse_map, parse_shown

Origins = tuple[Backend, ...]
NAMES = ("a", "b", "c")
STEPS = 25
"""Changes of a history: enough for each kind of change to follow each other kind, in a second."""


def services(bind: str, routes: dict[str, list[str]]) -> dict[str, Any]:
    """Return services on one address with these hosts."""
    return {name: {"bind": bind, "hosts": hosts, "check": False} for name, hosts in routes.items()}


def backends(origins: Origins) -> list[Backend]:
    return [backend(service=name, id=name, port=each.port) for name, each in zip(NAMES, origins, strict=False)]


async def change(driver: ConsumerDriver, bind: str, routes: dict[str, list[str]]) -> None:
    assert await driver.consumer.reconfigure(driver.configured(services=services(bind, routes)))
    await driver.apply_again()


async def live_map(driver: ConsumerDriver) -> list[Entry]:
    return sorted(parse_shown(await driver.control.send_once(f"@1 show map {map_file(driver)}", 5)))


def map_file(driver: ConsumerDriver) -> Path:
    return driver.run_dir / "haproxy.routes.map"


async def test_a_history_of_routes_needs_no_reload_and_no_request_meets_a_half_changed_map(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str
) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    hosts = [f"h{number}.example" for number in range(12)]
    routes = {name: [host] for name, host in zip(NAMES, ("stays.example", "*.org", "x.*"), strict=True)}
    async with drive(services=services(bind, routes)) as driver:
        await driver.apply(*backends(origins))
        before = await driver.processes()
        done = asyncio.Event()

        async def requests() -> set[str]:
            """Return the answers to requests whose routes are there before and after each change."""
            answers = set()
            while not done.is_set():
                answers.add((await asyncio.to_thread(fetch, f"http://{bind}/", Host="stays.example")).body)
            return answers

        load = asyncio.create_task(requests())
        for step in range(STEPS):
            owners = {host: dice.choice((*NAMES, "")) for host in dice.sample(hosts, dice.choice((1, 1, 3, 12)))}
            for host, owner in owners.items():
                for name in NAMES:
                    routes[name] = [each for each in routes[name] if each != host] + [host] * (name == owner)
            await change(driver, bind, routes)
            wanted = sorted(parse_map(map_file(driver).read_text()))
            assert await live_map(driver) == wanted, (seed, step)
            asked = dice.choice(hosts)
            owner = next((name for name in NAMES if asked in routes[name]), None)
            answer = await asyncio.to_thread(fetch, f"http://{bind}/", Host=asked)
            assert answer.body == str(origins[NAMES.index(owner)].port) if owner else answer.status == 503
        done.set()
        assert await load == {str(origins[0].port)}
        assert await driver.processes() == before
        assert ways(driver)["reload"] == 0
        assert driver.has_logged(f"new contents of {map_file(driver)}")


async def test_a_route_goes_to_another_service_together_with_new_servers(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str
) -> None:
    async with drive(services=services(bind, {"a": ["x.example"], "b": ["y.example"]})) as driver:
        await driver.apply(backends(origins)[0])
        after = services(bind, {"a": ["y.example"], "b": ["x.example", "z.example"]})
        assert await driver.consumer.reconfigure(driver.configured(services=after))
        await driver.apply(backends(origins)[1])
        for host, status in (("x.example", 200), ("z.example", 200), ("y.example", 503)):
            assert (await asyncio.to_thread(fetch, f"http://{bind}/", Host=host)).status == status
        assert ways(driver) == {"runtime": 1, "reload": 0}
        # A service of its own is a section of its own.
        more = services(bind, {"a": ["y.example"], "b": ["x.example"], "c": ["z.example"]})
        assert await driver.consumer.reconfigure(driver.configured(services=more))
        await driver.apply(*backends(origins))
        assert (await asyncio.to_thread(fetch, f"http://{bind}/", Host="z.example")).body == str(origins[2].port)
        assert ways(driver) == {"runtime": 1, "reload": 1}


async def test_a_map_of_many_routes_and_strange_paths_is_replaced(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str
) -> None:
    def many(shift: int) -> dict[str, Any]:
        paths = [f"/{number + shift}/~!$&'()*+,;=:@%20-" for number in range(1500)]
        return {
            "a": {"bind": bind, "path_prefix": paths, "check": False},
            "b": {"bind": bind, "path_prefix": "/b;'", "check": False},
        }

    async with drive(services=many(0)) as driver:
        await driver.apply(*backends(origins)[:2])
        for shift in (1, 700):
            assert await driver.consumer.reconfigure(driver.configured(services=many(shift)))
            await driver.apply_again()
            assert await live_map(driver) == sorted(parse_map(map_file(driver).read_text()))
            found = await asyncio.to_thread(fetch, f"http://{bind}/{shift}/~!$&'()*+,;=:@%20-/x")
            assert found.body == str(origins[0].port)
            assert (await asyncio.to_thread(fetch, f"http://{bind}/0/~!$&'()*+,;=:@%20-")).status == 503
        assert ways(driver) == {"runtime": 2, "reload": 0}
