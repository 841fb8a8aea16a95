"""A HAProxy program whose file is replaced under the running daemon, as by a package manager."""

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from haproxy_driver import ConsumerDriver, Drive, StartLoad, wait_until_healthy, wait_until_served
from haproxy_web import Fetch

from discovery import Backend
from discovery.testing import eventually
from discovery_haproxy.limits import Limits
from discovery_haproxy.program.process import read_process

Origins = tuple[Backend, ...]
Install = Callable[[Path], Path]
"""Type of the fixture `install`: copies a program beside the place of HAProxy, and returns the copy's path."""


@pytest.fixture
def install(tmp_path: Path, haproxy: Path, other_haproxy: Path | None) -> Install:
    for program in filter(None, (haproxy, other_haproxy)):
        if (libraries := program.resolve().parent / "lib").is_dir() and (libraries / "libcrypt.so.2").exists():
            (tmp_path / "lib").symlink_to(libraries)  # the wheel's program finds its libraries beside itself

    def install(source: Path) -> Path:
        return Path(shutil.copy2(source, tmp_path / "haproxy.new"))

    return install


@pytest.fixture
def program(tmp_path: Path, haproxy: Path, install: Install) -> Path:
    """Return the path of a copy of HAProxy."""
    return install(haproxy).rename(tmp_path / "haproxy")


async def notice(driver: ConsumerDriver) -> None:
    """Ask for the health, as the core does every 2 s, until the consumer asks for an apply."""

    async def is_noticed() -> bool:
        await driver.consumer.health()
        return await driver.is_apply_requested()

    await eventually(is_noticed, "the replacement to be noticed")
    driver.apply_requested.clear()


async def test_an_upgrade_replaces_the_running_haproxy_without_a_lost_request(
    drive: Drive, load: StartLoad, fetch: Fetch, origins: Origins, bind: str,
    program: Path, install: Install, other_haproxy: Path,
) -> None:  # fmt: skip
    async with drive(services={"web": {"bind": bind}}, binary=program) as driver:
        await driver.apply(*origins)
        master = driver.master
        clients = load(f"http://{bind}/")
        await driver.consumer.health()
        assert not await driver.is_apply_requested()
        install(other_haproxy).replace(program)
        await notice(driver)
        await driver.apply_again()
        await eventually(lambda: driver.master != master, "the old HAProxy to be gone")
        answered, failed = clients.stop()
        assert answered
        assert failed == 0
        new = read_process(driver.master)
        assert new is not None
        assert new.program == str(program)  # not "haproxy (deleted)"
        assert driver.has_logged("the HAProxy program was replaced")
        await wait_until_healthy(driver)
        before = await driver.processes()
        await driver.consumer.health()
        assert not await driver.is_apply_requested()
        await driver.apply_again()
        assert await driver.processes() == before


async def test_the_next_change_uses_the_new_program_before_a_health_check_notices(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str, program: Path, install: Install, other_haproxy: Path
) -> None:
    async with drive(services={"web": {"bind": bind}}, binary=program) as driver:
        await driver.apply(origins[0])
        master = driver.master
        install(other_haproxy).replace(program)
        await driver.apply(origins[1])
        await wait_until_served(fetch, bind, origins[1])
        await eventually(lambda: driver.master != master, "the old HAProxy to be gone")


async def test_a_file_that_is_replaced_in_two_steps_causes_no_error(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str, program: Path, install: Install, haproxy: Path
) -> None:
    tried = program.with_name("tried")
    async with drive(services={"web": {"bind": bind}}, binary=program) as driver:
        await driver.apply(origins[0])
        new = install(haproxy).read_bytes()
        program.unlink()
        for _ in range(3):
            assert (await driver.consumer.health()).ok
        assert not await driver.is_apply_requested()
        applying = asyncio.create_task(driver.apply(origins[1]))
        await asyncio.sleep(0)
        # The first part does not run as HAProxy, as the beginning of a program does not, and shows that it was tried.
        program.write_text(f"#!/bin/sh\n: > '{tried}'\nexit 127\n")
        program.chmod(0o755)
        await eventually(tried.exists, "the incomplete file to be tried")
        assert not applying.done()
        program.write_bytes(new)
        await applying
        await wait_until_served(fetch, bind, origins[1])
        await wait_until_healthy(driver)
        assert not [entry for entry in driver.log.entries if entry["log_level"] == "error"]


async def test_a_replacement_that_does_not_run_keeps_no_server_from_following_the_registry(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str, program: Path, install: Install, other_haproxy: Path
) -> None:
    limits = Limits(replacement=0.5)
    async with drive(services={"web": {"bind": bind}}, binary=program, limits=limits) as driver:
        await driver.apply(origins[0])
        master = driver.master
        broken = program.with_name("broken")
        broken.write_text("#!/bin/sh\necho 'libcrypt.so.9: no such file' >&2\nexit 127\n")
        broken.chmod(0o755)
        broken.replace(program)
        await notice(driver)
        await driver.apply(origins[1])
        await wait_until_served(fetch, bind, origins[1])
        assert driver.master == master
        health = await driver.consumer.health()
        assert not health.ok
        assert "was replaced, and cannot be used" in health.detail
        assert "libcrypt.so.9" in health.detail
        assert not await driver.is_apply_requested()
        install(other_haproxy).replace(program)
        await notice(driver)
        await driver.apply(origins[2])
        await wait_until_served(fetch, bind, origins[2])
        await eventually(lambda: driver.master != master, "the old HAProxy to be gone")
        await wait_until_healthy(driver)


async def test_an_upgrade_while_no_daemon_runs_replaces_the_running_haproxy(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str, program: Path, install: Install, other_haproxy: Path
) -> None:
    async with drive(services={"web": {"bind": bind}}, binary=program) as before:
        await before.apply(origins[0])
        master = before.master
        await before.consumer.hand_over()
        install(other_haproxy).replace(program)
        async with drive(services={"web": {"bind": bind}}, binary=program) as driver:
            await driver.apply(origins[1])
            await wait_until_served(fetch, bind, origins[1])
            await eventually(lambda: driver.master != master, "the old HAProxy to be gone")


async def test_a_file_that_only_gets_another_name_or_mode_is_no_other_program(
    drive: Drive, origins: Origins, bind: str, program: Path
) -> None:
    async with drive(services={"web": {"bind": bind}}, binary=program) as driver:
        await driver.apply(origins[0])
        before = await driver.processes()
        os.link(program, program.with_name("haproxy.backup"))
        program.chmod(0o555)
        for _ in range(3):
            await driver.consumer.health()
        assert not await driver.is_apply_requested()
        await driver.apply_again()
        assert await driver.processes() == before
