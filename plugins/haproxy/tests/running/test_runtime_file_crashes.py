"""A daemon that is killed during new contents of a certificate or of the map of routes: the next daemon goes on."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
import trustme
from haproxy_driver import Drive, ways
from haproxy_web import Fetch
from sampling import sampled

from discovery import Backend
from discovery.testing import backend, within
from discovery_haproxy.program.control_socket import ControlSocket
from discovery_haproxy.runtime_api.connection import connect

Origins = tuple[Backend, ...]

DAEMON = """
import asyncio, json, os, signal, sys
from pathlib import Path
from discovery.model import Snapshot, diff
from discovery.plugin import Context, Update
from discovery.testing import backend
from discovery_haproxy import HAProxyConsumer
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.runtime_api.connection import Connection
import structlog

obey = Connection.obey

async def main(moment, run_dir, state_dir, one, two, configurations):
    async def die(self, command):
        if command.text.startswith(moment):
            os.kill(os.getpid(), signal.SIGKILL)
        return await obey(self, command)

    Connection.obey = die
    first, second = map(HAProxyConfig.model_validate, json.loads(configurations))
    consumer = HAProxyConsumer(first, Context("edge", Path(run_dir), structlog.get_logger(), state_dir=Path(state_dir)))
    await consumer.setup()
    ports = (("one", int(one)), ("two", int(two)))
    snapshot = Snapshot.of(1, [backend(service=name, id=name, port=port) for name, port in ports])
    await consumer.apply(Update(snapshot, None, diff(None, snapshot)))
    renewed = Path(run_dir, "renewed.pem")
    if renewed.exists():
        renewed.replace(Path(run_dir, "site.pem"))
    await consumer.reconfigure(second)
    await consumer.apply(Update(snapshot, snapshot, diff(snapshot, snapshot)))

asyncio.run(main(*sys.argv[1:]))
"""


def of_both(origins: Origins) -> list[Backend]:
    """Return a backend of each service, which the daemon has registered."""
    return [backend(service=name, id=name, port=each.port) for name, each in zip(("one", "two"), origins, strict=False)]


async def die_at(
    moment: str, run_dir: Path, state_dir: Path, origins: Origins, *configurations: dict[str, object]
) -> None:
    """Run a daemon that changes from one configuration to another until the daemon sends the command `moment`."""
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DAEMON, moment, run_dir, state_dir, *(str(each.port) for each in origins[:2]),
        json.dumps(configurations),
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert await asyncio.wait_for(daemon.wait(), within(30)) < 0


def issue(authority: trustme.CA, path: Path) -> None:
    authority.issue_cert("site.example").private_key_and_cert_chain_pem.write_to_path(path)


@pytest.mark.costly
@pytest.mark.parametrize("moment", sampled(["set ssl cert", "commit ssl cert"]))
async def test_a_renewal_that_a_killed_daemon_left_is_completed_without_a_reload(
    run_dir: Path, tmp_path: Path, haproxy: Path, drive: Drive, origins: Origins, bind: str, moment: str
) -> None:
    authority, certificate = trustme.CA(), run_dir / "site.pem"
    issue(authority, certificate)
    issue(authority, run_dir / "renewed.pem")
    bind_ = {"address": bind, "certificate": str(certificate)}
    services = {name: {"bind": bind_, "path_prefix": f"/{name}"} for name in ("one", "two")}
    config: dict[str, object] = {"services": services, "binary": str(haproxy)}
    await die_at(moment, run_dir, tmp_path / "state", origins, config, config)
    before = await ControlSocket(run_dir / "master.sock").processes()

    async def fingerprint() -> str:
        async with connect(run_dir / "stats.sock") as connection:
            shown = await connection.ask(f"show ssl cert {certificate}")
        return next(line for line in shown.splitlines() if "FingerPrint" in line)

    old = await fingerprint()
    async with drive(services=services) as driver:
        assert driver.has_logged("took over")
        await driver.apply(*of_both(origins))
        assert await fingerprint() != old
        assert ways(driver) == {"runtime": 1, "reload": 0}
        issue(authority, certificate)  # another, while no daemon runs
        await driver.consumer.hand_over()
    async with drive(services=services) as driver:
        middle = await fingerprint()
        await driver.apply(*of_both(origins))
        assert await fingerprint() != middle
        await driver.apply(*of_both(origins))
        assert ways(driver) == {"runtime": 1, "reload": 0}
        assert await driver.processes() == before


@pytest.mark.costly
@pytest.mark.parametrize("moment", sampled(["prepare map", "commit map"]))
async def test_routes_that_a_killed_daemon_left_are_completed_without_a_reload(
    run_dir: Path,
    tmp_path: Path,
    haproxy: Path,
    drive: Drive,
    fetch: Fetch,
    origins: Origins,
    bind: str,
    moment: str,
) -> None:
    def config(*prefixes: str) -> dict[str, object]:
        services = {
            name: {"bind": bind, "path_prefix": prefix, "check": False}
            for name, prefix in zip(("one", "two"), prefixes, strict=True)
        }
        return {"services": services, "binary": str(haproxy)}

    before, after = config("/one", "/two"), config("/two", "/one")
    await die_at(moment, run_dir, tmp_path / "state", origins, before, after)
    processes = await ControlSocket(run_dir / "master.sock").processes()
    assert (await asyncio.to_thread(fetch, f"http://{bind}/one")).body == str(origins[0].port)
    async with drive(**after) as driver:
        await driver.apply(*of_both(origins))
        assert (await asyncio.to_thread(fetch, f"http://{bind}/one")).body == str(origins[1].port)
        assert ways(driver) == {"runtime": 1, "reload": 0}
        assert await driver.processes() == processes
