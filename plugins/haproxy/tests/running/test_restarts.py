"""A managed HAProxy that ends, hangs, or is replaced by another program."""

import asyncio
import dataclasses
import os
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from haproxy_driver import Drive, wait_until_healthy, wait_until_served
from haproxy_web import Fetch
from sampling import sampled

from discovery import ApplyError, Backend
from discovery.testing import backend, eventually, free_port, within
from discovery_haproxy.consumer import HAProxyConsumer
from discovery_haproxy.program.process import masters

Origins = tuple[Backend, ...]


@pytest.mark.parametrize("victim", sampled(["master", "worker"]))
async def test_haproxy_is_restarted_after_a_crash(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str, victim: str
) -> None:
    async with drive(services={"web": {"bind": bind}}) as driver:
        await driver.apply(origins[0])
        master = driver.master
        os.kill(master if victim == "master" else (await driver.processes()).workers[0], signal.SIGKILL)
        await eventually(lambda: driver.master != master, "another master")
        await wait_until_served(fetch, bind, origins[0])
        await wait_until_healthy(driver)
        assert driver.has_logged("ended unexpectedly")
        await driver.apply(origins[1])
        await wait_until_served(fetch, bind, origins[1])


async def test_a_restart_that_fails_is_followed_by_a_deployment_without_the_address_that_was_taken(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str
) -> None:
    taken = free_port()
    services = {"web": {"bind": bind}, "more": {"bind": f"127.0.0.1:{taken}"}}
    async with drive(services=services) as driver:
        await driver.apply(origins[0])
        # After two ends in a row the restart has a delay, in which another process takes the address.
        master = driver.master
        os.kill(master, signal.SIGKILL)
        await eventually(lambda: driver.master != master, "another master")
        await wait_until_healthy(driver)
        for each in driver.all_processes():
            os.kill(each.pid, signal.SIGKILL)
        with await eventually_bound(taken):
            await asyncio.wait_for(driver.apply_requested.wait(), within(20))
            await driver.apply_again()
            await wait_until_served(fetch, bind, origins[0])
            assert "is in use" in (await driver.consumer.health()).detail


async def eventually_bound(port: int) -> socket.socket:
    """Return a socket that listens on the port as soon as no other socket does."""
    sockets: list[socket.socket] = []

    def is_bound() -> bool:
        with suppress(OSError):
            sockets.append(socket.create_server(("127.0.0.1", port)))
        return bool(sockets)

    await eventually(is_bound, f"port {port} to be free")
    return sockets[0]


@pytest.mark.parametrize("contents", sampled([b"nonsense\n", b"# \xff\n"]))
async def test_a_restart_with_a_file_that_another_program_broke_is_followed_by_a_deployment(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str, contents: bytes
) -> None:
    async with drive(services={"web": {"bind": bind}}) as driver:
        await driver.apply(origins[0])
        config = driver.run_dir / "haproxy.cfg"
        config.write_bytes(contents)
        os.kill(driver.master, signal.SIGKILL)
        await asyncio.wait_for(driver.apply_requested.wait(), within(20))
        await driver.apply_again()
        await wait_until_served(fetch, bind, origins[0])
        await wait_until_healthy(driver)


async def test_another_binary_replaces_the_running_one(
    drive: Drive, other_haproxy: Path, fetch: Fetch, origins: Origins, bind: str
) -> None:
    async with drive(services={"web": {"bind": bind}}) as driver:
        await driver.apply(origins[0])
        master = driver.master
        config = driver.configured(services={"web": {"bind": bind}}, binary=other_haproxy)
        assert await driver.consumer.reconfigure(config)
        await driver.apply(origins[1])
        await eventually(
            lambda: [process.pid for process in masters(driver.all_processes())] != [master], "the new one"
        )
        await eventually(lambda: driver.master != master, "the old one to be gone")
        assert {process.program for process in driver.all_processes()} == {os.path.realpath(str(other_haproxy))}
        await wait_until_served(fetch, bind, origins[1])
        await wait_until_healthy(driver)


async def test_a_haproxy_without_a_master_socket_is_replaced(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str, run_dir: Path
) -> None:
    async with drive(services={"web": {"bind": bind}}) as driver:
        await driver.apply(origins[0])
        before = driver.master
        (run_dir / "master.sock").unlink()
        assert not (await driver.consumer.health()).ok
        await driver.apply(origins[1])
        await eventually(lambda: driver.master != before, "the old one to be gone")
        await wait_until_served(fetch, bind, origins[1])
        assert (await driver.consumer.health()).ok


@pytest.mark.parametrize("name", sampled(["stats.sock", "log.pipe"]))
async def test_a_haproxy_without_one_of_its_files_is_replaced_and_the_log_has_the_reason(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str, run_dir: Path, name: str
) -> None:
    async with drive(services={"web": {"bind": bind}}) as driver:
        await driver.apply(origins[0])
        before = driver.master
        (run_dir / name).unlink()
        await driver.consumer.health()
        assert await driver.is_apply_requested()
        await driver.apply_again()
        await eventually(lambda: driver.master != before, "the old one to be gone")
        assert driver.has_logged(f"{name} is missing")
        await wait_until_served(fetch, bind, origins[0])
        await wait_until_healthy(driver)


async def test_another_binary_replaces_haproxy_even_if_nothing_else_changed(
    drive: Drive, other_haproxy: Path, origins: Origins, bind: str, tmp_path: Path
) -> None:
    async with drive(services={"web": {"bind": bind}}) as driver:
        await driver.apply(origins[0])
        assert await driver.consumer.reconfigure(driver.configured(binary=other_haproxy))
        await driver.apply_again()
        programs = {os.path.realpath(str(other_haproxy))}
        await eventually(lambda: {process.program for process in driver.all_processes()} == programs, "the other")


async def test_a_missing_binary_does_not_stop_the_running_haproxy(
    drive: Drive, haproxy: Path, fetch: Fetch, origins: Origins, bind: str, tmp_path: Path
) -> None:
    async with drive(services={"web": {"bind": bind}}) as driver:
        await driver.apply(origins[0])
        master = driver.master
        assert await driver.consumer.reconfigure(driver.configured(binary=tmp_path / "nothing"))
        with pytest.raises(ApplyError, match=r"haproxy.binary is .*/nothing, which is not a program"):
            await driver.apply(origins[1])
        await wait_until_served(fetch, bind, origins[0])
        assert await driver.consumer.reconfigure(driver.configured(binary=haproxy))
        await driver.apply(origins[1])
        await wait_until_served(fetch, bind, origins[1])
        assert driver.master == master


async def test_a_crash_during_a_reload_restarts_haproxy_with_the_old_configuration(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str, run_dir: Path
) -> None:
    config = run_dir / "haproxy.cfg"
    async with drive(services={"web": {"bind": bind}}) as driver:
        await driver.apply(origins[0])
        master, served, before = driver.master, config.read_text(), config.stat().st_ino
        # So many take a while to load.
        other = {"bind": f"127.0.0.1:{free_port()}", "check": False}
        many = [backend(service="other", port=port) for port in range(2000, 5000)]
        driver.consumer.config = driver.configured(services={"web": {"bind": bind}, "other": other})
        applying = asyncio.create_task(driver.apply(origins[1], *many))
        while config.stat().st_ino == before:  # noqa: ASYNC110 - a file wakes nobody
            await asyncio.sleep(0.001)
        os.kill(master, signal.SIGKILL)
        with pytest.raises(ApplyError, match="HAProxy ended while it loaded"):
            await asyncio.wait_for(applying, within(30))
        assert config.read_text() == served
        await wait_until_served(fetch, bind, origins[0])
        await driver.apply(origins[1])
        await wait_until_served(fetch, bind, origins[1])


async def test_an_orphan_is_found_by_another_path_to_its_run_directory(
    drive: Drive, origins: Origins, bind: str, tmp_path: Path
) -> None:
    """Point 14. As /var/run is to /run: `discovery stop` ends it, and the next daemon replaces it."""

    async with drive(services={"web": {"bind": bind}}) as driver:
        await driver.apply(origins[0])
        master = driver.master
        await driver.consumer.hand_over()
        other = tmp_path / "other"
        other.symlink_to(driver.run_dir)
        context = dataclasses.replace(driver.consumer.context, run_dir=other)
        assert await HAProxyConsumer.end_orphans(context) == {master: "HAProxy"}
    assert driver.all_processes() == []


async def test_many_processes_of_earlier_daemons_are_replaced_with_few_free_descriptors(
    drive: Drive, origins: Origins, bind: str, run_dir: Path
) -> None:
    argument = f"{run_dir}/master.sock,mode,600"
    command = ["tail", "-f", "/dev/null", argument]
    others = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(20)]  # noqa: ASYNC220 - it takes a ms
    try:
        async with drive(services={"web": {"bind": bind}}, maxconn=10) as driver:
            with free_descriptors(12):
                await driver.apply(origins[0])
            for other in others:
                assert await asyncio.to_thread(other.wait, within(5)) == -signal.SIGUSR1
            await wait_until_healthy(driver)
    finally:
        for other in others:
            other.kill()
            other.wait()


@contextmanager
def free_descriptors(count: int) -> Iterator[None]:
    """Let this process open at most `count` more descriptors."""
    descriptors = [os.dup(0) for _ in range(count)]
    for descriptor in descriptors:
        os.close(descriptor)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(descriptors) + 1, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("starts", [4, pytest.param(15, marks=pytest.mark.exhaustive)])
async def test_external_checks_are_not_taken_for_an_earlier_haproxy(
    drive: Drive, origins: Origins, bind: str, starts: int
) -> None:
    # A check is a process that HAProxy's worker forks: until it runs its command it has the command line of HAProxy.
    options = {
        "services": {
            "web": {
                "bind": bind,
                "check": {"interval": "10ms"},
                "backend_lines": ["option external-check", "external-check command /bin/true"],
            }
        },
        "global_lines": ["external-check", "insecure-fork-wanted"],
    }
    async with drive(**options) as driver:
        await driver.apply(*(backend("web", f"web-{number}", port=origins[0].port) for number in range(60)))
        for _ in range(starts):
            await driver.consumer.hand_over()
            driver.replace_consumer()
            await driver.consumer.setup()
        assert driver.has_logged("took over the HAProxy")
        assert not driver.has_logged("replaced the HAProxy")
