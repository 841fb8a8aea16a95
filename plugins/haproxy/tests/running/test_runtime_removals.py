"""Servers that are removed from the running HAProxy: they keep their connections, and are deleted afterwards."""

import asyncio
from pathlib import Path

import pytest
from haproxy_driver import ConsumerDriver, Drive, assert_true, live_servers, same_worker, wait_until_served
from haproxy_web import Fetch

from discovery import Backend
from discovery.testing import backend, eventually

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


@pytest.mark.parametrize("own_template", [False, True])
async def test_a_removed_server_is_deleted_although_haproxy_got_it_from_the_file(
    drive: Drive, origins: Origins, bind: str, tmp_path: Path, own_template: bool
) -> None:
    template = tmp_path / "mine.cfg.j2"
    template.write_text(OWN_TEMPLATE)
    async with drive(services={"web": {"bind": bind}}, **({"template": template} if own_template else {})) as driver:
        await driver.apply(*origins[:2])
        async with same_worker(driver):
            await driver.apply(origins[1])

            async def is_deleted() -> bool:
                return set(await live_servers(driver)) == {("web", origins[1].id)}

            await eventually(is_deleted, "the removed server to be deleted")


async def test_a_removed_server_keeps_its_request_and_returns_at_another_address(
    drive: Drive, origins: Origins, fetch: Fetch, bind: str
) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1000):
            arrived.set()
            await go_on.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow")
        writer.close()

    def waiting(driver: ConsumerDriver) -> float:
        [count] = [each.value for each in driver.consumer.metrics() if each.name == "servers_waiting_for_deletion"]
        return count

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        slow = backend(id="slow", port=server.sockets[0].getsockname()[1])
        async with drive(services={"web": {"bind": bind, "check": False}}) as driver:
            await driver.apply(slow)
            async with same_worker(driver):
                request = asyncio.create_task(asyncio.to_thread(fetch, f"http://{bind}/"))
                await arrived.wait()
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
                go_on.set()
                assert (await request).body == "slow"
                await eventually(lambda: waiting(driver) == 0, "the removed server to be deleted")
            assert set(await live_servers(driver)) == {("web", "slow")}


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
