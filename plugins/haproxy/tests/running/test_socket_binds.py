"""A bind that is a Unix socket: HAProxy binds a temporary name, and renames the file."""

import re
import socket
from pathlib import Path

import pytest
from haproxy_driver import Drive, wait_until_socket_served

from discovery import Backend

Origins = tuple[Backend, ...]


@pytest.fixture
def path(run_dir: Path) -> Path:
    """Return the path of a socket for HAProxy."""
    return run_dir / "web"


async def test_a_socket_follows_the_registry_after_an_adoption(drive: Drive, origins: Origins, path: Path) -> None:
    async with drive(services={"web": {"bind": str(path)}}) as before:
        await before.apply(origins[0])
        master, processes = before.master, await before.processes()
        await before.consumer.hand_over()
        async with drive(services={"web": {"bind": str(path)}}) as driver:
            await driver.apply(origins[0])
            assert await driver.processes() == processes
            for origin in origins:
                await driver.apply(origin)
                await wait_until_socket_served(path, origin)
            assert driver.master == master


async def test_a_socket_follows_the_registry_after_a_failed_reload(drive: Drive, origins: Origins, path: Path) -> None:
    good, refused = {"bind": str(path)}, {"bind": str(path), "frontend_lines": 'bind "192.0.2.1:${PORT}"'}
    async with drive(services={"web": good}, global_lines="setenv PORT 8000") as driver:
        await driver.apply(origins[0])
        assert await driver.consumer.reconfigure(driver.configured(services={"web": refused}))
        # The service keeps its accepted lines, and follows the registry.
        await driver.apply(origins[1])
        await wait_until_socket_served(path, origins[1])
        assert "192.0.2.1:8000" in (await driver.consumer.health()).detail
        assert await driver.consumer.reconfigure(driver.configured(services={"web": good}))
        for origin in origins:
            await driver.apply(origin)
            await wait_until_socket_served(path, origin)


async def test_a_socket_that_another_program_took_from_haproxy_is_reported(
    drive: Drive, origins: Origins, path: Path
) -> None:
    services = {"web": {"bind": str(path)}}
    async with drive(services=services) as before:
        await before.apply(origins[0])
        await before.consumer.hand_over()
        path.unlink()
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.bind(str(path))
            stranger.listen()
            async with drive(services=services) as driver:
                # HAProxy still has the socket of the removed file, by its temporary name.
                await driver.apply(origins[1])
                health = await driver.consumer.health()
                assert re.search(r"web is in use by \S+ \(process \d+\)", health.detail)
                assert not health.ok
