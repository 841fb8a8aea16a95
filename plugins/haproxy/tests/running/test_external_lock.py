"""Two daemons with one external file: one of both writes the file, and the other says so."""

import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from haproxy_driver import ConsumerDriver

from discovery import ApplyError, Backend
from discovery.testing import free_port
from discovery_haproxy.external.file_lock import FileLock

Daemon = Callable[[str], AbstractAsyncContextManager[ConsumerDriver]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "etc" / "haproxy.cfg"


@pytest.fixture
def daemon(haproxy: Path, tmp_path: Path, path: Path) -> Daemon:
    """Return a function that sets up the consumer of a daemon with this name, for a block."""
    path.parent.mkdir()
    options: dict[str, Any] = {
        "binary": haproxy,
        "services": {"web": {"bind": f"127.0.0.1:{free_port()}", "check": False}},
        "external": {"path": path, "command": ["true"]},
    }

    @asynccontextmanager
    async def daemon(name: str) -> AsyncIterator[ConsumerDriver]:
        driver = ConsumerDriver(tmp_path / name, tmp_path / f"{name}-state", **options)
        await driver.consumer.setup()
        try:
            yield driver
        finally:
            await driver.consumer.teardown()

    return daemon


async def test_a_second_daemon_does_not_overwrite_the_file_and_says_so(
    daemon: Daemon, path: Path, origins: tuple[Backend, ...]
) -> None:
    async with daemon("one") as one, daemon("other") as other:
        await one.apply(origins[0])
        text = path.read_text()
        with pytest.raises(ApplyError, match=rf"{path} is in use by .*\(process {os.getpid()}\): .* external.path "):
            await other.apply(origins[1])
        assert path.read_text() == text
        await one.apply(origins[2])
        await one.consumer.hand_over()
        await other.apply(origins[1])
        assert f"127.0.0.1:{origins[1].port}" in path.read_text()
    assert [each for each in path.parent.iterdir() if "lock" in each.name] == []


async def test_a_second_daemon_with_the_same_fragment_names_that_option(tmp_path: Path) -> None:
    fragment = tmp_path / "services.cfg"
    first, second = FileLock(fragment, "fragment"), FileLock(fragment, "fragment")
    await first.take()
    with pytest.raises(ApplyError, match=r"set external\.fragment to another file"):
        await second.take()
    first.release()


async def test_a_removed_lock_is_made_again(daemon: Daemon, path: Path, origins: tuple[Backend, ...]) -> None:
    async with daemon("one") as one, daemon("other") as other:
        await one.apply(origins[0])
        path.with_name("haproxy.cfg.lock").unlink()
        await one.apply(origins[1])
        with pytest.raises(ApplyError, match="is in use by "):
            await other.apply(origins[2])


async def test_the_lock_of_a_daemon_that_was_killed_is_free(
    daemon: Daemon, path: Path, origins: tuple[Backend, ...]
) -> None:
    path.with_name("haproxy.cfg.lock").write_text("1\n")
    async with daemon("one") as one:
        await one.apply(origins[0])
    assert path.exists()


async def test_a_directory_that_this_user_may_not_write_to_is_told() -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(ApplyError, match=r"haproxy\.cfg\.lock cannot be made: Permission denied"):
                await FileLock(Path(directory, "haproxy.cfg"), "path").take()
        finally:
            os.seteuid(user)
