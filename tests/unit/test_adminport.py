"""The admin endpoint's server is loaded when a first client has come; that it cannot be is not the end of it."""

import asyncio
import json
import sys

import pytest
import structlog

from discovery.admin.port import AdminPort
from discovery.admin.sources import Sources
from discovery.admin.status import DaemonStatus
from discovery.registry import RegistryURL
from discovery.testing import eventually, free_port, within

URL = RegistryURL.parse("etcd://127.0.0.1:2379")


async def answer(port: int) -> object:
    """What a client reads, however long it takes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
    text = await reader.read()
    writer.close()
    return json.loads(text.partition(b"\r\n\r\n")[2])["status"]


def port_of_nothing() -> AdminPort:
    return AdminPort(Sources(lambda: DaemonStatus(str(URL))))


async def test_a_server_that_cannot_be_loaded_is_loaded_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points 21 and 30: a first client that comes while no descriptor is free, say, does not end the endpoint."""
    port, admin = free_port(), port_of_nothing()
    await admin.start("127.0.0.1", port)
    with monkeypatch.context() as broken, structlog.testing.capture_logs() as log:
        broken.setitem(sys.modules, "discovery.admin.server", None)  # an import of it fails
        first = asyncio.ensure_future(answer(port))
        await eventually(lambda: any("cannot be served" in each["event"] for each in log), timeout=60)
    assert await asyncio.wait_for(first, within(60)) == "ok"
    assert await asyncio.wait_for(answer(port), within(60)) == "ok"
    await admin.close()


async def test_it_is_closed_at_once_while_the_server_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points 21 and 30."""
    port, admin = free_port(), port_of_nothing()
    await admin.start("127.0.0.1", port)
    monkeypatch.setitem(sys.modules, "discovery.admin.server", None)
    with structlog.testing.capture_logs() as log:
        client = asyncio.ensure_future(answer(port))
        await eventually(lambda: log, timeout=60)
        await asyncio.wait_for(admin.close(), within(60))
    client.cancel()
    await asyncio.gather(client, return_exceptions=True)
