"""The probe of addresses for an external HAProxy: what this process cannot know is left to the reload."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from haproxy_driver import Drive

from discovery import ApplyError, Backend, Snapshot, Update, diff
from discovery.testing import cannot_run, eventually_sync, free_port, require_program, within
from discovery_haproxy.program.control_socket import ControlError, ControlSocket
from discovery_haproxy.program.process import find_processes

Origins = tuple[Backend, ...]
StartHAProxy = Callable[..., Path]
"""Starts HAProxy in master-worker mode behind other words of the command line; returns the path of its file."""

AS_NOBODY = """
import asyncio, os, sys
from pathlib import Path
from haproxy_driver import ConsumerDriver
from discovery import ApplyError
from discovery.testing import backend

async def main():
    directory, *binds = sys.argv[1:]
    services = {f"s{number}": {"bind": bind} for number, bind in enumerate(binds)}
    table = {"path": f"{directory}/haproxy.cfg", "command": ["/bin/true"], "validate": "none"}
    driver = ConsumerDriver(Path(directory), Path(directory, "state"), services={}, external=table)
    await driver.consumer.setup()
    await driver.apply()
    driver.consumer.config = driver.configured(services={"warm": {"bind": "198.51.100.1:80"}})
    try:
        await driver.apply(backend("warm"))  # loads every module that a failed probe needs
    except ApplyError:
        pass
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
    driver.consumer.config = driver.configured(services=services)
    await driver.apply(*(backend(name) for name in services))

asyncio.run(main())
"""


@pytest.fixture
def start(haproxy: Path, run_dir: Path) -> Iterator[StartHAProxy]:
    with ExitStack() as stack:

        def start(*before: str, name: str = "external") -> Path:
            config, master = run_dir / f"{name}.cfg", run_dir / f"{name}.sock"
            config.write_text("defaults\n    mode http\n    timeout client 5s\n")
            command = [*before, str(haproxy), "-W", "-S", f"{master},mode,600", "-f", str(config)]
            process = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
            stack.callback(_kill, process, f"{master},mode,600")

            def answers() -> bool:
                with suppress(ControlError):
                    return asyncio.run(ControlSocket(master).processes()).reloads == 0
                return False

            eventually_sync(answers, "HAProxy to be ready")
            return config

        yield start


def _kill(process: subprocess.Popen[bytes], argument: str) -> None:
    for each in find_processes(argument):
        with suppress(ProcessLookupError):
            os.kill(each.pid, signal.SIGKILL)
    process.kill()


def options(config: Path, *binds: str) -> dict[str, Any]:
    return {
        "services": {"web": {"bind": list(binds)}},
        "external": {"path": config, "adopt": True, "master_socket": config.with_suffix(".sock")},
    }


@pytest.fixture
def elsewhere() -> tuple[str, ...]:
    """Return a command that runs another command in a network of its own, which has the address 198.51.100.1."""
    setup = 'ip link set lo up && ip addr add 198.51.100.1/32 dev lo && exec "$@"'
    command = ("unshare", "--net", "sh", "-c", setup, "sh")
    for each in ("ip", "unshare"):
        require_program(each, wheel=False)
    if os.geteuid() != 0 or subprocess.run([*command, "true"], check=False).returncode:
        cannot_run("a network namespace takes root")
    return command


async def test_addresses_of_another_network_are_left_to_the_reload(
    drive: Drive, start: StartHAProxy, origins: Origins, elsewhere: tuple[str, ...]
) -> None:
    config = await asyncio.to_thread(start, *elsewhere)
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        async with drive(**options(config, f"127.0.0.1:{port}", f"198.51.100.1:{free_port()}")) as driver:
            await driver.apply(origins[0])
            await driver.apply(origins[1])


async def test_a_reload_in_another_network_that_fails_is_reported(
    drive: Drive, start: StartHAProxy, origins: Origins, elsewhere: tuple[str, ...]
) -> None:
    config = await asyncio.to_thread(start, *elsewhere)
    async with drive(**options(config, "198.51.100.2:8000")) as driver:
        with pytest.raises(ApplyError, match="HAProxy cannot load the new configuration"):
            await driver.apply(origins[0])


async def test_addresses_of_the_same_network_are_checked(drive: Drive, start: StartHAProxy, origins: Origins) -> None:
    config = await asyncio.to_thread(start)
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        bind = f"127.0.0.1:{stranger.getsockname()[1]}"
        async with drive(**options(config, bind)) as driver:
            with pytest.raises(ApplyError, match=rf"bind {bind} is in use by \S+ \(process {os.getpid()}\)"):
                await driver.apply(origins[0])
        async with drive(**options(config, "198.51.100.2:80")) as driver:
            with pytest.raises(ApplyError, match=r"bind 198.51.100.2:80 is not an address of this machine"):
                await driver.apply(origins[0])
        async with drive(**options(config, f"{config.parent}/no/web.sock")) as driver:
            with pytest.raises(ApplyError, match="no/web.sock cannot be made"):
                await driver.apply(origins[0])


async def test_another_haproxy_of_the_machine_is_a_stranger(
    drive: Drive, start: StartHAProxy, origins: Origins
) -> None:
    config, other = await asyncio.to_thread(start), await asyncio.to_thread(lambda: start(name="other"))
    bind = f"127.0.0.1:{free_port()}"
    async with drive(**options(other, bind)) as driver:
        await driver.apply(origins[0])
        await driver.apply(origins[1])  # this HAProxy's own address
        async with drive(**options(config, bind)) as another:
            with pytest.raises(ApplyError, match=f"bind {bind} is in use by haproxy"):
                await another.apply(origins[0])


async def test_nothing_is_known_of_a_haproxy_without_a_socket(drive: Drive, tmp_path: Path, origins: Origins) -> None:
    """The command may reload a HAProxy on another machine."""
    config = {**options(tmp_path / "haproxy.cfg"), "external": {"path": tmp_path / "haproxy.cfg", "command": ["true"]}}
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        binds = [f"127.0.0.1:{stranger.getsockname()[1]}", "198.51.100.2:80", f"{tmp_path}/no/web.sock"]
        async with drive(**{**config, "services": {"web": {"bind": binds}}}) as driver:
            await driver.apply(origins[0])
            snapshot = Snapshot.of(1, origins[:1])
            found = await driver.consumer.validate(Update(snapshot, None, diff(None, snapshot)))
            assert found.faults == ()
            assert f"{tmp_path}/no is not a directory" in "".join(found.unchecked)


@pytest.mark.costly
def test_an_unprivileged_user_leaves_privileged_ports_to_the_reload(run_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hidden:
        binds = ["127.0.0.1:1", f"127.0.0.1:{hidden.getsockname()[1]}"]
        run_dir.chmod(0o777)
        command = [sys.executable, "-c", AS_NOBODY, str(run_dir), *binds]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "support")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=within(60), check=False)
        assert done.returncode == 0, done.stderr
