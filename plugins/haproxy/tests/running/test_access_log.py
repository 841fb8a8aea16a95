"""The access log: no line is lost without being counted, and HAProxy writes to a syslog server itself."""

import asyncio
import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from haproxy_driver import ConsumerDriver, Drive
from haproxy_web import Fetch
from sampling import sampled
from syslog_receiver import SyslogReceiver

from discovery import Backend, Snapshot, Update, diff
from discovery.testing import eventually, free_port, require_program, within
from discovery_haproxy.program.log_drops import LogDrops

MARKER = "/marked"


def full_load(bind: str) -> None:
    """Request as fast as this machine can, for two seconds."""
    wrk = require_program("wrk", wheel=False)
    command = [str(wrk), "-t1", "-c32", "-d2s", f"http://{bind}{MARKER}"]
    subprocess.run(command, check=True, capture_output=True, timeout=within(60))


async def requests(driver: ConsumerDriver) -> int:
    """Return the number of whole requests that HAProxy has received.

    A connection that ends before one counts as a request and as an error: wrk's first does, and on a busy machine
    others that wrk has opened and not used.
    """
    rows = csv.DictReader((await driver.control.send("@1 show stat")).lstrip("# ").splitlines())
    return sum(int(row["req_tot"]) - int(row["ereq"]) for row in rows if row["svname"] == "FRONTEND")


async def dropped(driver: ConsumerDriver) -> int:
    """Return the metric of dropped lines after a health check."""
    assert (await driver.consumer.health()).ok
    (sample,) = [each for each in driver.consumer.metrics() if each.name == "log_lines_dropped"]
    return int(sample.value)


@pytest.mark.parametrize("target", sampled(["unix", "udp"]))
async def test_every_request_reaches_a_syslog_server_or_is_counted(
    drive: Drive, run_dir: Path, origins: tuple[Backend, ...], target: str
) -> None:
    bind = f"127.0.0.1:{free_port()}"
    services = {"web": {"bind": bind, "check": False}}
    with SyslogReceiver(run_dir / "log" if target == "unix" else None) as receiver:
        async with drive(services=services, access_log=receiver.address) as driver:
            await driver.apply(*origins)
            while receiver.requests(MARKER) <= 1000:  # a busy machine makes few at a time
                await asyncio.to_thread(full_load, bind)

            async def is_complete() -> bool:
                accounted = receiver.requests(MARKER), receiver.lost, await dropped(driver)
                assert sum(accounted) == await requests(driver), accounted
                return True

            await eventually(is_complete, "every request to be logged or counted")
            print("received", receiver.requests(MARKER), "lost", receiver.lost, "dropped", await dropped(driver))
            assert target == "unix" or await dropped(driver) == 0
            assert not driver.has_logged(MARKER)  # no line passes through the daemon


async def test_lines_that_the_daemon_reads_too_slowly_are_counted_with_the_way_out(
    drive: Drive, origins: tuple[Backend, ...]
) -> None:
    bind = f"127.0.0.1:{free_port()}"
    async with drive(services={"web": {"bind": bind, "check": False}}, access_log=True) as driver:
        await driver.apply(*origins)
        while await dropped(driver) == 0:  # a busy machine makes few at a time
            full_load(bind)  # on this thread, so that the daemon has no time for the log

        async def is_complete() -> bool:
            logged = sum(MARKER in str(entry.get("line")) for entry in driver.log.entries)
            accounted = logged, await dropped(driver)
            assert sum(accounted) == await requests(driver), accounted
            return True

        await eventually(is_complete, "every request to be logged or counted")
        warnings = [entry for entry in driver.log.entries if "dropped lines" in entry["event"]]
        assert len(warnings) == 1
        assert 'access_log = "127.0.0.1:514"' in warnings[0]["event"]
        assert warnings[0]["log_level"] == "warning"
        before = await dropped(driver)
        worker = (await driver.processes()).workers
        await driver.consumer.reconfigure(driver.configured(access_log=True, retries=5))
        await driver.apply_again()
        assert (await driver.processes()).workers != worker  # which counts from zero
        assert await dropped(driver) == before


async def test_a_syslog_socket_that_is_missing_is_a_warning(
    drive: Drive, run_dir: Path, origins: tuple[Backend, ...], fetch: Fetch
) -> None:
    bind = f"127.0.0.1:{free_port()}"
    async with drive(services={"web": {"bind": bind}}, access_log=str(run_dir / "missing")) as driver:
        await driver.apply(*origins)
        assert (await asyncio.to_thread(fetch, f"http://{bind}/")).status == 200

        def warnings() -> list[Any]:
            return [each for each in driver.log.entries if "failed in logger" in str(each.get("line"))]

        await eventually(lambda: warnings() != [])
        assert warnings()[0]["log_level"] == "warning"


async def test_a_log_format_arrives_as_written(drive: Drive, origins: tuple[Backend, ...], fetch: Fetch) -> None:
    web, own, tcp = (f"127.0.0.1:{free_port()}" for _ in range(3))
    services = {
        "web": {"bind": web},
        "own": {"bind": own, "log_format": r"""own '"#{}$HOME ${HOME} \x41 é %HM %ST"""},
        "tcp": {"mode": "tcp", "bind": tcp},
    }
    backends = [Backend(name, each.id, each.host, each.port) for name in services for each in origins]
    log_format = '{"path":%{+Q}HP,"status":%ST,"by":"%s"}'
    with SyslogReceiver() as receiver:
        async with drive(services=services, access_log=receiver.address, log_format=log_format) as driver:
            await driver.apply(*backends)
            for bind in (web, own, tcp):
                assert (await asyncio.to_thread(fetch, f"http://{bind}/a?b")).status == 200
            arrived = [f"]: {text}" for text in ("{", "own ", "127.0.0.1:")]
            await eventually(lambda: all(map(receiver.requests, arrived)), "a line of each service")
            record = json.loads(receiver.line(arrived[0]))
            assert (record["path"], record["status"]) == ("/a", 200)
            assert receiver.line(arrived[1]) == r"""own '"#{}$HOME ${HOME} \x41 é GET 200"""
            assert "frontend:tcp tcp/" in receiver.line(arrived[2])


def test_counts_of_ended_workers_stay() -> None:
    drops = LogDrops(None)  # type: ignore[arg-type] - nothing is reported
    drops.update({1: 5})
    drops.update({1: 7, 2: 1})
    drops.update({2: 1})
    drops.update({2: 4})
    assert drops.total == 11


async def test_a_syslog_server_that_is_missing_is_told_by_its_path(drive: Drive, bind: str, run_dir: Path) -> None:
    path = run_dir / "log"
    services = {"web": {"bind": bind, "check": False}}
    async with drive(services=services, access_log=str(path)) as driver:
        await driver.apply()
        nothing = Snapshot.of(1, ())
        found = await driver.consumer.validate(Update(nothing, None, diff(None, nothing)))
        assert found.faults == ()
        told = f"access_log {path}: there is no such socket, so that lines are lost"
        assert told in found.unchecked
        health = await driver.consumer.health()
        assert (health.ok, health.detail) == (True, told)
        with SyslogReceiver(path):
            assert (await driver.consumer.health()).detail == ""
        assert "no program reads there" in (await driver.consumer.health()).detail
