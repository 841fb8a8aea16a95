"""Fixtures of the tests of bars: workers, backends, and clients."""

import asyncio
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest
from daemons import start_daemon, tmp_path

from .load import Clients, KeepBusy, Origin, Plane, StartOrigin, StartPlane

__all__ = ["start_daemon", "tmp_path"]


@pytest.fixture(scope="session", autouse=True)
def _many_descriptors() -> None:
    """As many open files as the machine allows, here and in what is started from here."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@pytest.fixture(scope="module")
def planes() -> Iterator[StartPlane]:
    """Starts workers; takes the options of their listener."""
    with ExitStack() as stack:

        def plane(**listen: Any) -> Plane:
            started = Plane(**listen)
            stack.callback(started.close)
            return started

        yield plane


@pytest.fixture
def origins() -> Iterator[StartOrigin]:
    """Starts backends."""
    with ExitStack() as stack:

        def origin(name: str) -> Origin:
            started = Origin(name)
            stack.callback(started.kill)
            return started

        yield origin


@pytest.fixture
def clients() -> KeepBusy:
    """Keeps so many clients busy on a port for a block."""

    @asynccontextmanager
    async def busy(port: int, count: int = 64) -> AsyncIterator[Clients]:
        load = Clients(port)
        tasks = [asyncio.create_task(load.run(number)) for number in range(count)]
        try:
            yield load
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(each, asyncio.CancelledError) for each in outcomes), outcomes

    return busy
