"""Every route of the admin endpoint asks for credentials, but those that are listed here."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession

from discovery.admin.access import Access
from discovery.admin.port import AdminPort
from discovery.admin.server import Admin
from discovery.admin.sources import Sources
from discovery.admin.status import DaemonStatus
from discovery.errors import ConfigError
from discovery.testing import free_port

TOKEN = "t" * 32
OPEN = {"/healthz": 200, "/readyz": 200, "/login": 200, "/logout": 303}
"""What is told to who has no credentials. A new route does not belong here unless it tells nothing."""


def sources(access: Access) -> Sources:
    return Sources(lambda: DaemonStatus("memory://"), access=lambda: access)


@asynccontextmanager
async def served(access: Access, host: str = "127.0.0.1") -> AsyncIterator[str]:
    port, admin = free_port(), AdminPort(sources(access))
    await admin.start(host, port)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await admin.close()


def paths() -> list[str]:
    """The paths of all routes, with a name in place of each variable part."""
    router = Admin(sources(Access(TOKEN))).application("127.0.0.1").router
    return sorted(
        {route.resource.canonical.replace("{", "").replace("}", "") for route in router.routes() if route.resource}
    )


async def test_every_route_asks_who_it_is() -> None:
    every = paths()
    assert {"/", "/api/status", "/metrics", "/api/consumers/name"} <= set(every)
    async with served(Access(TOKEN)) as url, ClientSession() as session:

        async def status(path: str, method: str = "GET", **headers: str) -> int:
            async with session.request(method, url + path, headers=headers, allow_redirects=False) as answer:
                return answer.status

        for path in [*every, "/unknown", "/api/unknown", "//api/status", "/api/%73tatus", "/./api/status"]:
            for method in ("GET", "HEAD"):
                assert await status(path, method) == OPEN.get(path, 401), path
        for path in every:
            assert await status(path, Authorization=f"Bearer {TOKEN}") != 401, path


async def test_without_a_token_everything_is_open_at_loopback_alone() -> None:
    async with served(Access()) as url, ClientSession() as session, session.get(f"{url}/api/status") as answer:
        assert answer.status == 200
    with pytest.raises(ConfigError, match="admin_token_file"):
        async with served(Access(), "0.0.0.0"):
            pass
    async with served(Access(TOKEN), "0.0.0.0") as url, ClientSession() as session, session.get(url) as answer:
        assert answer.status == 401


async def test_a_stranger_who_guesses_holds_nobody_up() -> None:
    """Wrong attempts wait; meanwhile others are answered, and a client that is refused costs no time."""
    async with served(Access(TOKEN)) as url, ClientSession() as session:

        async def guess() -> int:
            async with session.get(f"{url}/api", headers={"Authorization": "Bearer no"}) as answer:
                return answer.status

        guesses = [asyncio.ensure_future(guess()) for _ in range(20)]
        async with session.get(f"{url}/healthz") as answer:
            assert answer.status == 200
        assert set(await asyncio.gather(*guesses)) == {401, 429}
