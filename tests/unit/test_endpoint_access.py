"""A port that a reload replaces asks for what it asked for, until its end."""

import asyncio
from pathlib import Path

import pytest
from aiohttp import ClientSession
from structlog import get_logger

from discovery.admin.access import AccessSettings
from discovery.admin.port import AdminPort
from discovery.admin.sources import Sources
from discovery.admin.status import DaemonStatus
from discovery.daemon.config import load_settings
from discovery.daemon.endpoint import AdminEndpoint
from discovery.daemon.settings import Overrides
from discovery.testing import free_port


async def test_a_port_that_makes_way_for_one_without_a_token_still_asks_for_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("t" * 32)
    first, second = free_port(), free_port()
    before = load_settings(None, Overrides())._replace(
        admin=("127.0.0.1", first), admin_is_default=False, admin_access=AccessSettings(token)
    )
    endpoint = AdminEndpoint(Sources(lambda: DaemonStatus("memory://")), get_logger())
    begun, go, start = asyncio.Event(), asyncio.Event(), AdminPort.start

    async def start_later(port: AdminPort, host: str, number: int) -> None:
        begun.set()
        await go.wait()
        await start(port, host, number)

    async def status(session: ClientSession, port: int) -> int:
        async with session.get(f"http://127.0.0.1:{port}/api/status") as answer:
            return answer.status

    await endpoint.open(before)
    try:
        async with ClientSession() as session:
            assert await status(session, first) == 401
            monkeypatch.setattr(AdminPort, "start", start_later)
            after = before._replace(admin=("127.0.0.1", second), admin_access=AccessSettings())
            opening = asyncio.create_task(endpoint.open(after))
            await begun.wait()
            assert await status(session, first) == 401
            go.set()
            await opening
            assert await status(session, second) == 200
            await endpoint.open(after._replace(admin_access=AccessSettings(token)))
            assert await status(session, second) == 401
    finally:
        await endpoint.close()
