"""What an operator has set on a server stays when the server moves, by commands and by a reload."""

import asyncio
from typing import Any

import pytest
from haproxy_driver import ConsumerDriver, Drive, live_servers, ways
from haproxy_web import Fetch

from discovery import Backend
from discovery.testing import backend, eventually, within
from discovery_haproxy.limits import Limits
from discovery_haproxy.program.control_socket import ControlSocket

Origins = tuple[Backend, ...]
IDS = ("maint", "weighed", "drained", "unchecked")


async def command(driver: ConsumerDriver, text: str) -> None:
    """Send commands to the worker, as an operator does."""
    await ControlSocket(driver.run_dir / "stats.sock", master=False).send_once(text, within(5))


@pytest.mark.parametrize(("by", "initially_down"), [("commands", False), ("reload", False), ("reload", True)])
async def test_what_an_operator_has_set_stays_with_a_server_that_moves(
    drive: Drive, origins: Origins, fetch: Fetch, bind: str, by: str, initially_down: bool
) -> None:
    ports = [each.port for each in origins]
    web: dict[str, Any] = {"bind": bind, "check": {"interval": "100ms"}}
    if initially_down:
        web["check"] = {"interval": "100ms", "path": "/", "init_state": "down"}
    async with drive(services={"web": web}, verify_interval="100ms", limits=Limits(look=0.05)) as driver:
        await driver.apply(*(backend(id=id_, port=port) for id_, port in zip(IDS, ports, strict=True)))

        async def are_up() -> bool:
            return all(row.up for row in (await live_servers(driver)).values())

        await eventually(are_up, "the servers to be up")
        await command(driver, "set server web/maint state maint; set server web/weighed weight 9")
        await command(driver, "set server web/drained state drain; disable health web/unchecked")
        expected = {
            "web/maint": "in maintenance",
            "web/weighed": "weight 9",
            "web/drained": "draining",
            "web/unchecked": "without checks",
        }

        async def is_listed() -> bool:
            return (await driver.consumer.inspect())["operator_changes"] == expected

        await eventually(is_listed, "the changes to be listed")
        if by == "reload":
            assert await driver.consumer.reconfigure(driver.configured(services={"web": {**web, "maxconn": 1000}}))
        moved = dict(zip(IDS, (*ports[1:], ports[0]), strict=True))
        await driver.apply(*(backend(id=id_, port=port) for id_, port in moved.items()))
        assert ways(driver)["reload"] == (by == "reload")
        live = {name: row for (_, name), row in (await live_servers(driver)).items()}
        assert {name: live[name].port for name in IDS} == moved
        assert live["maint"].removed
        assert live["weighed"].weight == 9
        assert live["drained"].draining
        assert (live["unchecked"].check_enabled, live["unchecked"].up) == (False, True)
        await eventually(is_listed, "the changes to be listed again")

        await command(driver, "set server web/maint state ready")

        async def serves() -> bool:
            return (await asyncio.to_thread(fetch, f"http://{bind}/")).body == str(moved["maint"])

        await eventually(serves, "the server to serve")

        async def is_up() -> bool:
            row = (await live_servers(driver))["web", "weighed"]
            assert row.weight == 9
            return row.up

        await eventually(is_up, "the server with another weight to be up")
