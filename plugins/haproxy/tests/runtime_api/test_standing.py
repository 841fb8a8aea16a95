"""The connection that stands ready for a change: whom it serves, and when it ends."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest
from stats_socket import StatsSocket, listening

from discovery.testing import eventually
from discovery_haproxy.runtime_api.connection import Connection, RuntimeApiError, Worker, open_connection
from discovery_haproxy.runtime_api.execution import Changes, send
from discovery_haproxy.runtime_api.planner import Plan, SetWeight
from discovery_haproxy.runtime_api.standing import StandingConnection
from discovery_haproxy.text.configuration import Configuration
from discovery_haproxy.text.server_line import Server

WORKER = Worker(7, (2, 8, 25), "", "5")
QUESTIONS = ["show info", "show cli level"]
SERVER = Server(ip_address("10.0.0.1"), 80, 3, {})
WEIGHT = "set server web/a weight 3"


@asynccontextmanager
async def standing(path: Path) -> AsyncIterator[tuple[StandingConnection, StatsSocket]]:
    """Keep a connection on which the worker has answered."""
    async with listening(path) as socket:
        socket.answers["show info"] = "Version: 2.8.25\nPid: 7\nStopping: 0\nStart_time_sec: 5"
        socket.answers["show cli level"] = "admin"
        kept = StandingConnection(lambda: open_connection(path))
        opened = await open_connection(path)
        assert await opened.worker() == WORKER
        kept.keep(opened)
        try:
            yield kept, socket
        finally:
            kept.close()


async def change(kept: StandingConnection, worker: Worker) -> None:
    """Send the commands of a change of the weight."""
    plan = Plan(Configuration(()), (SetWeight(("web", "a"), SERVER),), "")
    await send(lambda: kept.to(worker), Changes(plan, worker, frozenset()), 0.0)


async def lent(kept: StandingConnection, worker: Worker = WORKER) -> Connection:
    """Return the connection that is lent to a change."""
    async with kept.to(worker) as connection:
        return connection


async def test_a_change_sends_its_commands_at_once_on_a_connection_whose_worker_is_known(path: Path) -> None:
    async with standing(path) as (kept, socket):
        for _ in range(3):
            await change(kept, WORKER)
        assert socket.commands == [*QUESTIONS, WEIGHT, WEIGHT, WEIGHT]


async def test_a_change_of_another_worker_has_a_new_connection_and_asks(path: Path) -> None:
    async with standing(path) as (kept, socket):
        first = await lent(kept)
        with pytest.raises(RuntimeApiError, match="was replaced by 7"):
            await change(kept, WORKER._replace(pid=8))
        assert socket.commands == [*QUESTIONS, *QUESTIONS, WEIGHT]
        assert not first.is_open


async def test_a_connection_that_haproxy_has_closed_is_lent_to_nobody(path: Path) -> None:
    async with standing(path) as (kept, socket):
        first = await lent(kept)
        assert first.is_open
        socket.close()
        await eventually(lambda: not first.is_open)
        second = await lent(kept)
        assert second is not first
        assert second.answered_by is None
        await change(kept, WORKER)
        assert socket.commands == [*QUESTIONS, *QUESTIONS, WEIGHT]


async def test_a_connection_is_kept_unless_something_was_raised(path: Path) -> None:
    async with standing(path) as (kept, _):
        first = await lent(kept)
        assert await lent(kept) is first
        with pytest.raises(RuntimeApiError):
            async with kept.to(WORKER):
                raise RuntimeApiError
        assert not first.is_open
        assert await lent(kept) is not first
