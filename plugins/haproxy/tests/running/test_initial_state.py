"""Servers that get no traffic before their first check, `check.init_state = "down"`."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from haproxy_driver import ConsumerDriver, Drive, live_servers, wait_until_healthy, ways
from haproxy_web import Fetch
from stand_ins import Servers

from discovery import Backend
from discovery.testing import backend, eventually, within


@dataclass
class Member:
    """A server whose checks have no answer until `decide` is called. Every other request is answered at once."""

    backend: Backend
    decided: threading.Event = field(default_factory=threading.Event)
    status: int = 200

    def decide(self, status: int = 200) -> None:
        """Answer the checks with this status."""
        self.status = status
        self.decided.set()


class Members:
    """Starts members with the ids `m1`, `m2` and so on."""

    def __init__(self) -> None:
        self.servers = Servers()
        self.all: list[Member] = []

    def start(self, **labels: str) -> Member:
        number = len(self.all) + 1
        member = Member(backend())

        def answer(path: str) -> tuple[int, str]:
            if path != "/role":
                return 200, f"m{number}"
            member.decided.wait()
            return member.status, ""

        port = int(self.servers.http("127.0.0.1:0", answer).address.rpartition(":")[2])
        member.backend = replace(backend(port=port), id=f"m{number}", labels=labels)
        self.all.append(member)
        return member


@pytest.fixture
def members() -> Iterator[Members]:
    started = Members()
    yield started
    for each in started.all:
        each.decide()
    started.servers.kill()


def service(bind: str, **options: object) -> dict[str, object]:
    """Return the service `web`, with checks of the role."""
    check = {"path": "/role", "status": 200, "interval": "200ms", "rise": 1, "init_state": "down"}
    return {"web": {"bind": bind, "timeouts": {"check": "10s"}, "check": check, **options}}


async def test_servers_are_down_until_their_first_check_after_a_start_an_addition_and_a_reload(
    drive: Drive, members: Members, fetch: Fetch, bind: str
) -> None:
    first, second, third, backup = members.start(), members.start(), members.start(), members.start(zone="far")

    async def answers() -> set[str]:
        found = [await asyncio.to_thread(fetch, f"http://{bind}/") for _ in range(6)]
        return {each.body if each.status == 200 else "" for each in found}

    backups = {"label": "zone", "is": "far"}
    async with drive(services=service(bind, backup=backups)) as driver:
        await driver.apply(first.backend, second.backend)
        assert await answers() == {""}
        await driver.apply(first.backend, second.backend, third.backend)
        assert ways(driver) == {"runtime": 1, "reload": 0}
        assert await answers() == {""}
        before = await driver.processes()
        await driver.control.send_once("reload", within(30))  # as another program does
        await eventually(lambda: is_replaced(driver, before.workers), "another worker")
        assert await answers() == {""}
        first.decide()
        second.decide(503)
        await eventually(lambda: is_up(driver, "m1"), "the check to pass")
        assert await answers() == {"m1"}
        far = replace(third.backend, labels={"zone": "far"})
        await driver.apply(first.backend, second.backend, far, backup.backend)
        assert ways(driver) == {"runtime": 1, "reload": 1}
        assert await answers() == {"m1"}
        first.decide(503)
        await eventually(lambda: is_down(driver, "m1"), "the check to fail")
        assert await answers() == {""}
        third.decide()
        await eventually(lambda: is_up(driver, "m3"), "the check of the backup to pass")
        assert await answers() == {"m3"}


async def test_servers_are_down_after_haproxy_was_killed(
    drive: Drive, members: Members, fetch: Fetch, bind: str
) -> None:
    member = members.start()
    async with drive(services=service(bind)) as driver:
        await driver.apply(member.backend)
        master = driver.master
        os.kill(master, signal.SIGKILL)
        await eventually(lambda: driver.master != master, "another master")
        await wait_until_healthy(driver)
        assert (await asyncio.to_thread(fetch, f"http://{bind}/")).status == 503
        member.decide()
        await eventually(lambda: is_up(driver, "m1"), "the check to pass")
        assert (await asyncio.to_thread(fetch, f"http://{bind}/")).body == "m1"


async def is_replaced(driver: ConsumerDriver, workers: tuple[int, ...]) -> bool:
    found = await driver.processes()
    return bool(found.workers) and found.workers != workers


async def is_up(driver: ConsumerDriver, name: str) -> bool:
    return (await live_servers(driver))["web", name].up


async def is_down(driver: ConsumerDriver, name: str) -> bool:
    return not await is_up(driver, name)
