"""A HAProxy that another program runs: the plugin writes its file and requests reloads, and does nothing else."""

import asyncio
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from external_haproxy import EMPTY, ExternalProcess
from haproxy_driver import Drive, wait_until_socket_served
from haproxy_web import Fetch
from sampling import sampled

from discovery import ApplyError, Backend
from discovery.testing import eventually, free_port, within
from discovery_haproxy.deployment.reloading import reload_through_master
from discovery_haproxy.program.control_socket import ControlSocket

Options = dict[str, Any]
"""Options of the table `external`."""


@pytest.fixture(params=sampled(["master socket", "command", "systemd"]))
def way(
    request: pytest.FixtureRequest, external: ExternalProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Options:
    """Return the options of each way to reload an external HAProxy."""
    pid = str(external.process.pid)
    if request.param == "master socket":
        return {"master_socket": external.master_socket}
    if request.param == "command":
        return {"command": ["kill", "-USR2", pid], "stats_socket": external.stats_socket}
    # systemd, as far as we use it.
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f'#!/bin/sh\n[ "$*" = "reload haproxy.service" ] && kill -USR2 {pid}\n')
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return {"systemd_unit": "haproxy.service", "stats_socket": external.stats_socket}


async def test_an_external_haproxy_follows_the_registry_and_is_left_running(
    drive: Drive, fetch: Fetch, external: ExternalProcess, way: Options, origins: tuple[Backend, ...]
) -> None:
    bind = f"127.0.0.1:{free_port()}"

    async def serves(origin: Backend) -> None:
        async def check() -> bool:
            return bool((await asyncio.to_thread(fetch, f"http://{bind}/")).body == str(origin.port))

        await eventually(check, "the bind to be answered")

    async with drive(
        services={"web": {"bind": bind}},
        external={"path": external.config, "adopt": True, **way},
    ) as driver:
        assert not driver.consumer.resident
        for origin in origins[:2]:
            await driver.apply(origin)
            await serves(origin)
        assert (await driver.consumer.health()).ok
        reloads = await external.reloads()
        await driver.apply(origins[1])
        assert await external.reloads() == reloads
    async with drive(
        services={"web": {"bind": bind}},
        external={"path": external.config, "adopt": True, **way},
    ) as driver:
        await driver.apply(origins[1])
        assert await external.reloads() == reloads
    await serves(origins[1])
    assert stat.S_IMODE(external.config.stat().st_mode) == 0o640
    assert external.process.poll() is None


async def test_a_socket_follows_the_registry(
    drive: Drive, external: ExternalProcess, way: Options, origins: tuple[Backend, ...]
) -> None:
    path = external.directory / "web"
    text = EMPTY.format(stats=external.stats_socket)
    external.config.write_text(f"{text}frontend web\n    bind {path}\n    http-request return status 200\n")
    await reload_through_master(ControlSocket(external.master_socket), None)
    async with drive(
        services={"web": {"bind": str(path)}},
        external={"path": external.config, "adopt": True, **way},
    ) as driver:
        for origin in origins:
            await driver.apply(origin)
            await wait_until_socket_served(path, origin)


async def test_a_reload_that_haproxy_forgets_is_requested_again(
    drive: Drive, fetch: Fetch, external: ExternalProcess, origins: tuple[Backend, ...], tmp_path: Path
) -> None:
    forgets = tmp_path / "reload"
    forgets.write_text(f"#!/bin/sh\nmkdir {tmp_path}/asked 2>/dev/null || kill -USR2 {external.process.pid}\n")
    forgets.chmod(0o755)
    bind = f"127.0.0.1:{free_port()}"
    way = {"command": [str(forgets)], "stats_socket": external.stats_socket, "timeout": within(6)}
    async with drive(
        services={"web": {"bind": bind}}, external={"path": external.config, "adopt": True, **way}
    ) as driver:
        await driver.apply(origins[0])
        assert (await asyncio.to_thread(fetch, f"http://{bind}/")).body == str(origins[0].port)
        assert await external.reloads() == 1


async def test_a_forgotten_reload_is_requested_again_as_soon_as_the_master_shows_it(
    drive: Drive, external: ExternalProcess, origins: tuple[Backend, ...], tmp_path: Path
) -> None:
    """After a few reloads' time, and not after a third of the timeout, which may be minutes."""
    asked = tmp_path / "asked"
    forgets = tmp_path / "reload"  # each second request
    forgets.write_text(f"#!/bin/sh\necho >>{asked}\n[ $(wc -l <{asked}) = 2 ] || kill -USR2 {external.process.pid}\n")
    forgets.chmod(0o755)
    way = {"command": [str(forgets)], "stats_socket": external.stats_socket, "timeout": 600}
    services = {"web": {"bind": f"127.0.0.1:{free_port()}"}}
    async with drive(services=services, external={"path": external.config, "adopt": True, **way}) as driver:
        await driver.apply(origins[0])
        assert await driver.consumer.reconfigure(driver.configured(services={**services, "more": {}}))
        async with asyncio.timeout(within(60)):  # a third of the timeout is 200 s
            await driver.apply(origins[0])
    assert len(asked.read_text()) == 3
    assert await external.reloads() == 2


FAILURES: dict[str, tuple[dict[str, Any], str]] = {
    "no master": ({"master_socket": "{dir}/nobody.sock", "timeout": 0.5}, "nobody.sock.*is HAProxy running with -W -S"),
    "exit status": ({"command": [sys.executable, "-c", "print('one\\ntwo'); exit(3)"]}, "failed with exit 3: two"),
    "no program": ({"command": ["/no/such/program"]}, "/no/such/program cannot be run: No such file"),
    "no end": ({"command": ["sleep", "60"], "timeout": 0.2}, "sleep 60 did not end within 0.2 s"),
    "no proof": ({"command": ["true"], "stats_socket": "{dir}/stats.sock", "timeout": 0.5}, "did not take up the new"),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_failed_reload_restores_the_old_file(
    drive: Drive, external: ExternalProcess, origins: tuple[Backend, ...], failure: str
) -> None:
    way, reason = FAILURES[failure]
    way = {key: value.format(dir=external.directory) if isinstance(value, str) else value for key, value in way.items()}
    before = external.config.read_text()
    services = {"web": {"bind": f"127.0.0.1:{free_port()}"}}
    async with drive(services=services, external={"path": external.config, "adopt": True, **way}) as driver:
        with pytest.raises(ApplyError, match=reason) as error:
            await driver.apply(origins[0])
        assert "\n" not in str(error.value)
        assert external.config.read_text() == before
    assert external.process.poll() is None


async def test_a_configuration_that_an_external_haproxy_cannot_load_is_undone(
    drive: Drive, external: ExternalProcess, origins: tuple[Backend, ...]
) -> None:
    before = external.config.read_text()
    config = {
        "services": {"web": {"bind": f"127.0.0.1:{free_port()}", "frontend_lines": 'bind "192.0.2.1:${P}"'}},
        "global_lines": "setenv P 8000",
        "external": {
            "path": external.config,
            "adopt": True,
            "master_socket": external.master_socket,
            "timeout": 60,  # a busy machine needs ten times the 2 s for which HAProxy tries a bind again and again
        },
    }
    async with drive(**config) as driver:
        with pytest.raises(ApplyError, match="HAProxy cannot load the new configuration"):
            await driver.apply(origins[0])
        assert external.config.read_text() == before
        processes = await ControlSocket(external.master_socket).processes()
        assert len(processes.workers) == 1
        good = driver.configured(services={"web": {"bind": f"127.0.0.1:{free_port()}"}})
        assert await driver.consumer.reconfigure(good)
        await driver.apply(origins[0])
