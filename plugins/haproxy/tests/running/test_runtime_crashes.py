"""A daemon that is killed during a change of servers: the next daemon finds out what HAProxy serves."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from haproxy_driver import Drive, assert_true, haproxy_processes, live_servers, ways
from sampling import sampled

from discovery import Backend, State
from discovery.testing import backend, within
from discovery_haproxy.program.control_socket import ControlSocket

Origins = tuple[Backend, ...]

DAEMON = """
import asyncio, os, signal, sys
from pathlib import Path
from discovery.model import Snapshot, State, diff
from discovery.plugin import Context, Update
from discovery.testing import backend
from discovery_haproxy import HAProxyConsumer
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.runtime_api.connection import Connection
from discovery_haproxy.runtime_api.live_servers import LiveServers
import structlog

def die():
    os.kill(os.getpid(), signal.SIGKILL)

execute, changed = Connection.execute, LiveServers.execute

async def before(self, groups, seconds, worker):
    die()

async def during(self, groups, seconds, worker):
    await execute(self, groups[:1], seconds, worker)
    die()

async def after(self, changes):
    await changed(self, changes)
    die()

async def main(binary, run_dir, bind, moment, *ports):
    first, second, third = map(int, ports)
    if moment == "after":
        LiveServers.execute = after
    else:
        Connection.execute = {"before": before, "during": during}[moment]
    config = HAProxyConfig.model_validate({"services": {"web": {"bind": bind}}, "binary": binary})
    consumer = HAProxyConsumer(config, Context("edge", Path(run_dir), structlog.get_logger()))
    await consumer.setup()
    previous = None
    for backends in (
        [backend(port=first), backend(port=second)],
        [backend(port=second, state=State.DRAINING), backend(port=third)],
    ):
        snapshot = Snapshot.of(1, backends)
        await consumer.apply(Update(snapshot, previous, diff(previous, snapshot)))
        previous = snapshot

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.costly
@pytest.mark.parametrize(
    ("moment", "expected"),
    sampled(
        [
            pytest.param("before", {"runtime": 1, "reload": 0}),
            pytest.param("during", {"runtime": 0, "reload": 0}),
            pytest.param("after", {"runtime": 0, "reload": 0}),
        ]
    ),
)
async def test_a_change_that_a_killed_daemon_left_is_completed(
    run_dir: Path, haproxy: Path, drive: Drive, origins: Origins, bind: str, moment: str, expected: dict[str, int]
) -> None:
    first, second, third = (each.port for each in origins[:3])
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DAEMON, haproxy, run_dir, bind, moment, *map(str, (first, second, third)),
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert await asyncio.wait_for(daemon.wait(), within(30)) < 0
    assert haproxy_processes(run_dir)
    before = await ControlSocket(run_dir / "master.sock").processes()
    async with drive(services={"web": {"bind": bind}}) as driver:
        assert driver.has_logged("took over")
        await driver.apply(backend(port=second, state=State.DRAINING), backend(port=third))
        await assert_true(driver)
        assert ways(driver) == expected
        assert (await driver.processes()) == before
        serving = {row.port: row.weight for row in (await live_servers(driver)).values() if not row.removed}
        assert serving == {second: 0, third: 1}
        await driver.apply(origins[0])
        await assert_true(driver)
        assert ways(driver) == {**expected, "runtime": expected["runtime"] + 1}


async def test_an_operators_maintenance_and_weight_survive_a_reload_of_unknown_servers(
    drive: Drive, origins: Origins, bind: str
) -> None:
    first, second, third = origins[:3]
    async with drive(services={"web": {"bind": bind}}) as driver:
        await driver.apply(first, second, third)
        await driver.consumer.hand_over()
        path = f"web/{first.id}"
        # A server that was deleted and added with another id is a case for a reload.
        for command in (
            f"set server {path} state maint",
            f"del server {path}",
            f"add server {path} 127.0.0.1:{first.port} id 7 check",
            f"enable server {path}",
            f"set server web/{second.id} state maint",
            f"set server web/{third.id} weight 9",
        ):
            await driver.control.send_once(f"@1 {command}", within(5))
        driver.replace_consumer()
        await driver.consumer.setup()
        await driver.apply(first, second, third)
        assert ways(driver) == {"runtime": 0, "reload": 1}
        live = await live_servers(driver)
        assert {name: (row.removed, row.weight) for (_, name), row in live.items()} == {
            first.id: (False, 1),
            second.id: (True, 1),
            third.id: (False, 9),
        }
