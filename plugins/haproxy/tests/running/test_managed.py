"""A managed HAProxy: snapshots, reloads, files and the log."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from haproxy_driver import ConsumerDriver, Drive, wait_until_served
from haproxy_web import Fetch

from discovery import Backend, State
from discovery.testing import backend, eventually, free_port, within
from discovery_haproxy.deployment.digests import FileDigests

Origins = tuple[Backend, ...]


async def test_a_snapshot_is_served_and_the_next_follows(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str
) -> None:
    async with drive(services={"web": {"bind": bind}}) as driver:
        assert driver.all_processes() == []
        await driver.apply(origins[0])
        await wait_until_served(fetch, bind, origins[0])
        await driver.apply(origins[1])
        await wait_until_served(fetch, bind, origins[1])
        await driver.apply()
        assert (await asyncio.to_thread(fetch, f"http://{bind}/")).status == 503
        assert (await driver.consumer.health()).ok
        assert driver.has_logged(f"{bind} -> 0 backends")
    assert driver.all_processes() == []
    assert not driver.has_logged("state file")
    assert {path.name for path in driver.run_dir.iterdir()} == {"haproxy.cfg", "haproxy.cfg.last-good"}


async def test_the_log_shows_a_limited_number_of_services(drive: Drive, origins: Origins, bind: str) -> None:
    def told(driver: ConsumerDriver) -> list[str]:
        return [entry["event"] for entry in driver.log.entries if bind in entry["event"] or "more of" in entry["event"]]

    async with drive(bind=bind) as driver:
        many = [backend(service=f"s{number}", port=origins[0].port) for number in range(100)]
        await driver.apply(*many)
        # Each is reached by two host names.
        assert told(driver)[20:] == ["and 180 more of these"]
        driver.log.entries.clear()
        await driver.apply(*many, backend(service="s7", port=origins[1].port))
        assert told(driver) == [f"s7  http {bind} s7{dots} -> 2 backends" for dots in ("", ".*")]


async def test_an_unchanged_snapshot_causes_no_reload(drive: Drive, origins: Origins, bind: str) -> None:
    async with drive(services={"web": {"bind": bind}}) as driver:
        await driver.apply(origins[0])
        before = await driver.processes()
        await driver.apply(origins[0])
        assert await driver.processes() == before


async def test_a_backend_gets_no_connections_while_draining_and_gets_connections_afterwards(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str
) -> None:
    async with drive(services={"web": {"bind": bind}}) as driver:
        first, second = origins[:2]
        for state in (State.DRAINING, State.ACTIVE):
            await driver.apply(backend(port=first.port, state=state), second)
            answers = {(await asyncio.to_thread(fetch, f"http://{bind}/")).body for _ in range(10)}
            assert (str(first.port) in answers) == (state is State.ACTIVE)


UNINDENTED = """\
{% extends "builtin/haproxy.cfg.j2" %}
{% block service %}
    backend {{ service.name }} # "the servers"
default-server inter 200ms check
{% for backend in service.backends %}
server {{ backend.id }} {{ backend.address }} weight {{ backend.weight }}
{% endfor %}

{% endblock %}
"""
"""A section in the form in which many operators write: HAProxy ignores indentation."""


@pytest.mark.parametrize("template", [None, UNINDENTED], ids=["built-in", "unindented"])
async def test_a_server_that_is_down_stays_down_over_a_reload(
    drive: Drive, origins: Origins, bind: str, tmp_path: Path, template: str | None
) -> None:
    config: dict[str, Any] = {"services": {"web": {"bind": bind, "check": {"interval": "200ms"}}}}
    if template is not None:
        config["template"] = str(tmp_path / "own.cfg.j2")
        Path(config["template"]).write_text(template)
    async with drive(**config) as driver:
        dead = backend(id="dead", port=free_port())
        await driver.apply(origins[0], dead)

        async def found_out() -> bool:
            states = await driver.control.server_states()
            return any(" dead 127.0.0.1 0 " in line for line in states.splitlines())

        await eventually(found_out, "the dead server to be found out")
        await driver.apply(*origins[:2], dead)
        assert await found_out()


WITHOUT_IDS = """{% extends "builtin/haproxy.cfg.j2" %}
{% block service %}
backend {{ service.name }}
    default-server inter 200ms check
{% for backend in service.backends %}
    server {{ backend.id }} {{ backend.address }} weight {{ backend.weight }}
{% endfor %}

{% endblock %}
"""
"""The server lines that the plugin wrote before it gave servers ids."""


@pytest.mark.parametrize("balance", ["roundrobin", "first"])
async def test_servers_that_get_ids_keep_their_states(
    drive: Drive, origins: Origins, bind: str, tmp_path: Path, balance: str
) -> None:
    """Issue 10, A4: an upgrade under a running HAProxy, whose rows have other ids."""
    service = {"bind": bind, "check": {"interval": "200ms"}, "balance": balance}
    template = tmp_path / "without-ids.cfg.j2"
    template.write_text(WITHOUT_IDS)
    ports = [each.port for each in origins]
    halved, maintained, up = (
        backend(id=name, port=port, weight=10)
        for name, port in zip(("halved", "maintained", "up"), ports[:3], strict=True)
    )
    dead = backend(id="dead", port=free_port())

    async def states(driver: ConsumerDriver) -> dict[str, list[str]]:
        """Return the operational state, the administrative state and the weight of each server."""
        rows = [line.split() for line in (await driver.control.server_states()).splitlines()]
        return {row[3]: row[5:8] for row in rows if len(row) > 8 and row[1] == "web"}

    async with drive(services={"web": service}, template=str(template)) as driver:
        await driver.apply(halved, maintained, up, dead)
        for command in ("web/halved weight 5", "web/maintained state maint"):
            await driver.control.send_once(f"@1 set server {command}", within(5))

        async def dead_is_down() -> bool:
            return (await states(driver))["dead"] == ["0", "0", "1"]

        await eventually(dead_is_down, "the dead server to be found out")
        before = await states(driver)
        await driver.consumer.hand_over()
    async with drive(services={"web": service}) as driver:
        assert driver.has_logged("took over")
        await driver.apply(halved, maintained, up, dead, backend(id="additional", port=ports[3]))
        after = await states(driver)
        assert after.pop("additional")[1:] == ["0", "1"]
        assert after == before
        assert (after["halved"][2], after["maintained"][1]) == ("5", "1")


async def test_new_options_are_applied_by_a_reload(drive: Drive, fetch: Fetch, origins: Origins, bind: str) -> None:
    other = f"127.0.0.1:{free_port()}"
    async with drive(services={"web": {"bind": bind}}) as driver:
        await driver.apply(origins[0])
        master = driver.master
        assert await driver.consumer.reconfigure(driver.configured(services={"web": {"bind": other}}))
        await driver.apply_again()
        await wait_until_served(fetch, other, origins[0])
        assert driver.master == master


async def test_a_configuration_is_checked_before_a_reload_and_not_before_the_first_start(
    drive: Drive, haproxy: Path, origins: Origins, bind: str, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    wrapper = tmp_path / "haproxy"
    wrapper.write_text(f'#!/bin/sh\necho "$1" >> {calls}\nexec {haproxy} "$@"\n')
    wrapper.chmod(0o755)

    async with drive(services={"web": {"bind": bind}}, binary=wrapper) as driver:
        await driver.apply(origins[0])
        assert calls.read_text().split() == ["-v", "-W"]
        # HAProxy checks the commands for servers itself.
        await driver.apply(origins[1])
        assert calls.read_text().split() == ["-v", "-W"]
        assert await driver.consumer.reconfigure(driver.configured(services={"web": {"bind": bind, "maxconn": 1000}}))
        await driver.apply(origins[1])
        assert calls.read_text().split() == ["-v", "-W", "-c"]


def test_a_file_that_is_changed_in_place_within_a_second_has_a_new_digest(tmp_path: Path) -> None:
    file = tmp_path / "site.pem"
    digests = FileDigests()
    file.write_text("one")
    before = digests.read([file])
    times = file.stat()
    file.write_text("two")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert digests.changed([file])
    assert digests.read([file]) != before


async def test_a_preview_is_a_diff_and_writes_nothing(drive: Drive, run_dir: Path, origins: Origins, bind: str) -> None:
    async with drive(services={"web": {"bind": bind}}) as driver:
        await driver.apply(origins[0])
        assert await driver.preview(origins[0]) == ""
        before = {path.name: path.stat().st_mtime_ns for path in run_dir.iterdir()}
        changed = await driver.preview(origins[1])
        assert f"+    server {origins[1].id}" in changed
        assert f"-    server {origins[0].id}" in changed
        way = "# through the runtime API, without a reload: web: 1 server added, web: 1 server removed\n"
        assert changed.startswith(way)
        assert {path.name: path.stat().st_mtime_ns for path in run_dir.iterdir()} == before
    # The daemon has ended, and its HAProxy as well.
    another = await driver.preview(origins[1])
    assert another.startswith(way)
    another = await driver.preview(origins[0], services={"web": {"bind": bind, "maxconn": 5}})
    assert another.startswith("# by a reload: the line 'maxconn' of frontend ")


async def test_haproxys_log_is_forwarded(drive: Drive, bind: str) -> None:
    async with drive(services={"web": {"bind": bind, "check": {"interval": "100ms"}}}) as driver:
        await driver.apply(backend(id="dead", port=free_port()))
        await eventually(lambda: driver.has_logged("Server web/dead is DOWN"), "the log to tell")
        levels = {entry["log_level"] for entry in driver.log.entries if "Server web/dead is DOWN" in str(entry)}
        assert "warning" in levels
