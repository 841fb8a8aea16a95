"""The units of `deploy/systemd`, booted: started, restarted and killed under load, and what of it clients notice."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from booted import DEPLOY, Booted, control_groups, registry_url, unit_files
from docker_fixtures import _engine, _etcd, _requirements, docker_engine, etcd, registry
from docker_lab import DockerEngine
from histories import RegistryHistory
from requesting import Load, Requests

from discovery.testing import eventually_sync, require_program

__all__ = ["_engine", "_etcd", "_requirements", "docker_engine", "etcd", "registry", "registry_url"]

pytestmark = [pytest.mark.docker, pytest.mark.timeout(240)]

UNITS = "/etc/systemd/system"
PLACES = {"external": 80, "managed": 81, "proxy": 82, "ambassador": 83}
"""What serves the page: HAProxy as a unit, HAProxy and the proxy of the daemon, and an ambassador; with their ports."""
SERVICES = ("discovery", "discovery-ambassador@web", "discovery-register@web", "discovery-haproxy")
DAEMON, AMBASSADOR, REGISTRATION, HAPROXY = SERVICES
CONSUMERS = """
[consumers.managed]
plugin = "haproxy"
services.web = { bind = "0.0.0.0:81" }

[consumers.proxy]
plugin = "tcpproxy"
listen.web = "0.0.0.0:82"
"""


TIMES = pytest.mark.parametrize("times", [1, pytest.param(8, marks=pytest.mark.exhaustive)])


def example(name: str) -> str:
    return (DEPLOY / "systemd/examples" / name).read_text()


@pytest.fixture
def machine(docker_engine: DockerEngine, registry_url: str) -> Iterator[Booted]:
    """Boot a machine with every unit, configured as the README says, and one backend, a web server on port 8001."""
    require_program("haproxy", wheel=False)
    files = unit_files() | {
        "/etc/discovery/environment": f"DISCOVERY_REGISTRY={registry_url}\n",
        "/etc/discovery/discovery.toml": example("discovery-external.toml") + CONSUMERS,
        "/etc/discovery/ambassador/web.env": "PORT=83\n",
        f"{UNITS}/discovery-ambassador@web.socket.d/listen.conf": "[Socket]\nListenStream=0.0.0.0:83\n",
        # Longer than a start takes on a busy machine.
        "/etc/discovery/register/web.env": "SERVICE=web\nADDRESS=127.0.0.1:8001\nOPTIONS=--check tcp --ttl 60s\n",
        "/etc/discovery-haproxy/haproxy.cfg": example("haproxy.cfg"),
        f"{UNITS}/web.service": "[Service]\nExecStart=/bin/busybox httpd -f -p 8001 -h /srv\n",
        "/srv/index.html": "hello\n",
    }
    with Booted(docker_engine, files) as booted:
        yield booted


@pytest.fixture
def load(machine: Booted) -> Load:
    """Start every unit, and wait until each place serves the page."""
    machine.systemctl("start", "web", *SERVICES)
    load = Load({name: Requests((machine.address, port), "web") for name, port in PLACES.items()})
    for name, requests in load.places.items():
        eventually_sync(requests.serves, f"{name} to serve", timeout=60)
    return load


def withdrawn(registry: RegistryHistory) -> list[str]:
    return [change.key for change in list(registry.changes) if change.value is None]


@pytest.mark.parametrize("version", [1, 2])
def test_a_machine_takes_over_only_control_groups_that_exist(tmp_path: Path, version: int) -> None:
    (tmp_path / ("systemd" if version == 1 else "cgroup.controllers")).mkdir()
    groups = control_groups(tmp_path)
    assert groups.namespace == ("host" if version == 1 else "private")
    assert list(groups.volumes) == list(map(str, tmp_path.glob("systemd")))
    assert list(groups.tmpfs) == [str(tmp_path)] * (version == 1)


@TIMES
def test_a_restart_of_any_unit_fails_no_request_and_ends_no_connection(
    machine: Booted, load: Load, registry: RegistryHistory, times: int
) -> None:
    with load.running():
        load.goes_on()
        for unit, place in ((DAEMON, "proxy"), (AMBASSADOR, "ambassador"), (REGISTRATION, "proxy")) * times:
            before = machine.main_pid(unit)
            with load.places[place].begin() as begun:
                machine.systemctl("restart", unit)
                assert machine.main_pid(unit) != before
                load.goes_on()
                load.places[place].finish(begun)
            assert (unit, load.failures) == (unit, {})
    assert withdrawn(registry) == []


@TIMES
def test_haproxys_unit_refuses_nobody_when_it_is_reloaded_or_restarted(machine: Booted, load: Load, times: int) -> None:
    with load.running():
        for _ in range(times):
            before = machine.main_pid(HAPROXY)
            for _ in range(2):
                machine.systemctl("reload", HAPROXY)
                load.goes_on()
            assert machine.main_pid(HAPROXY) == before
            machine.systemctl("restart", HAPROXY)
            load.goes_on()
            assert machine.main_pid(HAPROXY) != before
    assert load.failures == {}


def test_a_crash_fails_no_request_and_a_stop_leaves_nothing_behind(
    machine: Booted, load: Load, registry: RegistryHistory
) -> None:
    with load.running():
        for unit in (DAEMON, AMBASSADOR, REGISTRATION):
            before = machine.main_pid(unit)
            machine.run("kill", "-KILL", str(before))
            eventually_sync(lambda unit=unit, before=before: machine.runs_anew(unit, before), f"{unit}", timeout=90)
            load.goes_on()
            assert (unit, load.failures) == (unit, {})
    assert withdrawn(registry) == []
    machine.systemctl("stop", REGISTRATION)
    registry.wait(lambda change: (change.key, change.value) == ("web/127.0.0.1:8001", None))
    machine.systemctl("stop", DAEMON, AMBASSADOR)
    assert machine.users_with_processes() & {"discovery", "discovery-ambassador"} == set()
    machine.systemctl("start", DAEMON)
    machine.systemctl("reload", DAEMON)
    eventually_sync(lambda: machine.is_active(DAEMON), "the reload to end", timeout=60)
