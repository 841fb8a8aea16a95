"""Who has a token of a daemon believes no answer that does not prove that it comes from one with the same token."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from discovery.admin.access import Access
from discovery.admin.port import AdminPort
from discovery.admin.sources import Sources
from discovery.admin.status import DaemonStatus
from discovery.cli.asking import AdminAddress, NoDaemonError, ask
from discovery.testing import free_port

TOKEN = "t" * 32


@asynccontextmanager
async def serving(access: Access, host: str = "127.0.0.1") -> AsyncIterator[int]:
    port = free_port()
    admin = AdminPort(Sources(lambda: DaemonStatus("memory://"), access=lambda: access))
    await admin.start(host, port)
    try:
        yield port
    finally:
        await admin.close()


async def test_an_answer_that_is_given_before_any_proof_is_not_believed() -> None:
    """Anybody on this machine can listen where no daemon does, and need not ask for the token."""
    async with serving(Access()) as port:
        with pytest.raises(NoDaemonError, match=r"does not ask for the token.*not to be believed.*reload"):
            await asyncio.to_thread(ask, AdminAddress("127.0.0.1", port, TOKEN), "/api/status")
        assert await asyncio.to_thread(ask, AdminAddress("127.0.0.1", port), "/api/status")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "0:0:0:0:0:0:0:1", "localhost", "LOCALHOST"])
async def test_a_daemon_is_asked_by_any_form_of_its_address(host: str) -> None:
    async with serving(Access(TOKEN), host) as port:
        assert await asyncio.to_thread(ask, AdminAddress(host, port, TOKEN), "/api/status")


async def test_a_daemon_at_all_addresses_is_asked_by_another_form_of_one() -> None:
    async with serving(Access(TOKEN), "::") as port:
        assert await asyncio.to_thread(ask, AdminAddress("0:0::1", port, TOKEN), "/api/status")
