"""Removed servers: their connections, their deletion, and the limit of their number."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from haproxy_driver import ConsumerDriver, Drive, assert_true, live_servers, wait_until_served, ways
from haproxy_web import Fetch
from sampling import sampled

from discovery import Backend
from discovery.testing import backend, eventually
from discovery_haproxy.limits import Limits
from discovery_haproxy.program.binary import locate
from discovery_haproxy.runtime_api.defects import Broken, defect

Origins = tuple[Backend, ...]
OWN_TEMPLATE = """\
{% extends "builtin/haproxy.cfg.j2" %}
{% block service %}
backend {{ service.name }}
{% for backend in service.backends %}
    server {{ backend.id }} {{ backend.address }} weight {{ backend.weight }}
{% endfor %}
{% endblock %}
"""


def waiting(driver: ConsumerDriver) -> float:
    """Return the number of servers that wait for their deletion."""
    [count] = [each.value for each in driver.consumer.metrics() if each.name == "servers_waiting_for_deletion"]
    return count


class SlowOrigin:
    """An origin that answers when `go_on` is set."""

    def __init__(self) -> None:
        self.arrived, self.go_on = asyncio.Event(), asyncio.Event()
        self.backend = backend(id="slow")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        if await reader.read(1000):
            self.arrived.set()
            await self.go_on.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow")
        writer.close()


@asynccontextmanager
async def slow_origin() -> AsyncIterator[SlowOrigin]:
    """Serve a slow origin."""
    origin = SlowOrigin()
    async with await asyncio.start_server(origin.serve, "127.0.0.1", 0) as server:
        origin.backend = backend(id="slow", port=server.sockets[0].getsockname()[1])
        yield origin


async def test_a_removed_server_keeps_its_request_and_returns_at_another_address(
    drive: Drive, origins: Origins, fetch: Fetch, bind: str
) -> None:
    async with slow_origin() as slow, drive(services={"web": {"bind": bind, "check": False}}) as driver:
        await driver.apply(slow.backend)
        request = asyncio.create_task(asyncio.to_thread(fetch, f"http://{bind}/"))
        await slow.arrived.wait()
        await driver.apply(origins[0])
        await wait_until_served(fetch, bind, origins[0])
        assert waiting(driver) == 1
        details = await driver.consumer.inspect()
        assert details["servers_waiting_for_deletion"] == ["web/slow"]
        assert details["last_change"]["way"] == "runtime"
        assert details["last_change"]["reason"] == "web: 1 server added, web: 1 server removed"
        await driver.apply(backend(id="slow", port=origins[1].port))
        await wait_until_served(fetch, bind, origins[1])
        await assert_true(driver)
        slow.go_on.set()
        assert (await request).body == "slow"
        assert ways(driver) == {"runtime": 2, "reload": 0}


@pytest.mark.parametrize("own_template", sampled([False, True]))
async def test_a_removed_server_is_deleted_where_haproxy_can_delete_servers(
    drive: Drive,
    origins: Origins,
    bind: str,
    haproxy: Path,
    tmp_path: Path,
    own_template: bool,
) -> None:
    template = tmp_path / "mine.cfg.j2"
    template.write_text(OWN_TEMPLATE)
    more = {"template": template} if own_template else {}
    async with drive(services={"web": {"bind": bind, "check": False}}, limits=Limits(deletion=0.05), **more) as driver:
        await driver.apply(origins[0], origins[2])
        await driver.apply(*origins[:2])
        await driver.apply(origins[0])
        if defect(Broken.DELETION, (await locate(haproxy)).version) is None:
            await eventually(lambda: waiting(driver) == 0, "the removed server to be deleted")
            assert ways(driver) == {"runtime": 2, "reload": 0}
        else:
            await eventually(lambda: driver.has_logged("removed servers stay until a reload"), "the reason in the log")
            assert waiting(driver) == 2
            options = {"bind": bind, "check": False, "maxconn": 1000}
            assert await driver.consumer.reconfigure(driver.configured(services={"web": options}, **more))
            await driver.apply(origins[0])
            assert waiting(driver) == 0
        assert set(await live_servers(driver)) == {("web", origins[0].id)}


async def test_the_number_of_removed_servers_is_limited_by_a_reload(drive: Drive, origins: Origins, bind: str) -> None:
    limits = Limits(removed_servers=2)
    async with drive(services={"web": {"bind": bind, "check": False}}, limits=limits) as driver:
        await driver.apply(*origins)
        await driver.apply(*origins[:2])
        assert waiting(driver) == 2
        await driver.apply(origins[0])
        assert waiting(driver) == 0
        assert driver.has_logged("more than 2 removed servers")
        assert ways(driver) == {"runtime": 1, "reload": 1}
        assert set(await live_servers(driver)) == {("web", origins[0].id)}


async def test_a_removed_server_that_another_line_names_is_found_by_the_check(
    drive: Drive, origins: Origins, bind: str, haproxy: Path
) -> None:
    named = backend(id="named", port=origins[0].port)
    options = {"web": {"bind": bind, "backend_lines": ["use-server named if { path /named }"]}}
    async with drive(services=options) as driver:
        await driver.apply(named, origins[1])
        await driver.apply(origins[1])
        check = await asyncio.create_subprocess_exec(haproxy, "-c", "-f", driver.run_dir / "haproxy.cfg")
        assert await check.wait() == 0
        await driver.apply(origins[1], origins[2])
        assert ("web", origins[2].id) in await live_servers(driver)
