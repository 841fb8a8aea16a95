"""Host names of backends through HAProxy: with a hosts file and a name server of its own, and real servers.

Point 8.
"""

import re
import time
import urllib.error
import urllib.request

import pytest
from daemons import Daemon, RecordFiles, Starter
from naming import Machine, machine
from sites import StartSite, site

from discovery.testing import eventually_sync, free_port, require_program, within

pytestmark = pytest.mark.warm

__all__ = ["machine", "site"]

TIMEOUT = 60.0
OUTAGE = 45.0
"""Seconds: more than the 33 after which HAProxy believes that a name is gone."""


def start_haproxy(start: Starter, machine: Machine, url: str, port: int, *sets: str) -> Daemon:
    require_program("haproxy")
    assignments = [part for each in sets for part in ("--set", f"haproxy.{each}")]
    bind = ["--set", f"haproxy.services.web.bind=127.0.0.1:{port}"]
    return start("--registry", url, "--plugin", "haproxy", *bind, *assignments, under=machine.under)


def answer(port: int) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=within(10)) as got:
            return got.status, got.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def is_served_by(port: int, *names: str) -> None:
    """Wait until these web servers, and no others, answer at the port."""
    eventually_sync(lambda: {answer(port) for _ in range(4)} == {(200, name) for name in names}, f"{names}", TIMEOUT)


@pytest.mark.costly
def test_haproxy_reaches_host_names_as_the_machine_does(
    start_daemon: Starter, file_registry: RecordFiles, machine: Machine, site: StartSite
) -> None:
    """Point 8: localhost of both families, the hosts file, search domains, one name with several ports."""
    url, write = file_registry
    port = free_port()
    one, two, three = site("one").port, site("two", "127.0.0.7").port, site("three", "127.0.0.8").port
    write("web/a", f"localhost:{one}")
    daemon = start_haproxy(start_daemon, machine, url, port)
    is_served_by(port, "one")
    machine.hosts("127.0.0.7 in-hosts")
    machine.server.means = {"searched.corp.test": ["127.0.0.8"]}
    write("web/b", f"in-hosts:{two}")
    write("web/c", f"searched:{three}")
    is_served_by(port, "one", "two", "three")
    also = site("also", "127.0.0.7").port
    write("web/d", f"in-hosts:{also}")
    is_served_by(port, "one", "two", "three", "also")
    machine.server.means = {"searched.corp.test": ["127.0.0.9"]}  # moves to another address
    moved = site("moved", "127.0.0.9", three).port
    assert moved == three
    is_served_by(port, "one", "two", "moved", "also")
    assert daemon.get("/healthz")[0] == 200


@pytest.mark.costly
def test_a_host_name_without_an_address_keeps_its_server_in_maintenance(
    start_daemon: Starter, file_registry: RecordFiles, machine: Machine, site: StartSite
) -> None:
    """Point 8: one backend stays one server, and no other one changes its place."""
    url, write = file_registry
    port = free_port()
    one, two = site("one").port, site("two", "127.0.0.7").port
    machine.server.dead = True
    write("web/a", f"late.test:{two}")
    write("web/b", f"127.0.0.1:{one}")
    daemon = start_haproxy(start_daemon, machine, url, port)
    is_served_by(port, "one")

    def servers() -> list[str]:
        text = (daemon.run_dir / "haproxy" / "haproxy.cfg").read_text()
        lines = [line.strip() for line in text.splitlines() if line.startswith("    server ")]
        return [re.sub(r" id \d+", "", line) for line in lines]

    assert servers() == [f"server a late.test:{two} weight 1 disabled", f"server b 127.0.0.1:{one} weight 1"]
    machine.server.means = {"late.test": ["127.0.0.7"]}
    machine.server.dead = False
    is_served_by(port, "one", "two")
    assert servers() == [f"server a 127.0.0.7:{two} weight 1", f"server b 127.0.0.1:{one} weight 1"]


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_a_dns_outage_longer_than_haproxys_hold_times_removes_no_living_server(
    start_daemon: Starter, file_registry: RecordFiles, machine: Machine, site: StartSite
) -> None:
    """Point 8: HAProxy's own resolver took living servers out after 33 s."""
    url, write = file_registry
    port = free_port()
    machine.server.means = {"one.test": ["127.0.0.1"], "two.test": ["127.0.0.7"]}
    one, two = site("one").port, site("two", "127.0.0.7").port
    write("web/a", f"one.test:{one}")
    write("web/b", f"two.test:{two}")
    daemon = start_haproxy(start_daemon, machine, url, port)
    is_served_by(port, "one", "two")
    machine.server.dead = True
    machine.server.asked.clear()
    since = time.monotonic()
    failed = 0

    def is_over() -> bool:
        nonlocal failed
        failed += answer(port)[0] != 200
        return time.monotonic() - since > OUTAGE

    eventually_sync(is_over, "the outage to be over", 2 * OUTAGE)
    assert failed == 0
    assert machine.server.asked
    is_served_by(port, "one", "two")
    write("web/c", f"127.0.0.1:{site('three').port}")
    is_served_by(port, "one", "two", "three")
    assert len(daemon.get("/api/snapshot")[1]["unresolved"]) == 2


@pytest.mark.costly
def test_haproxys_own_resolver_can_be_used(
    start_daemon: Starter, file_registry: RecordFiles, machine: Machine, site: StartSite
) -> None:
    """Point 8: it is asked for, and then serves several backends of one name as well."""
    url, write = file_registry
    port = free_port()
    machine.server.means = {"one.test": ["127.0.0.1"]}
    write("web/a", f"one.test:{site('one').port}")
    write("web/b", f"one.test:{site('two').port}")
    daemon = start_haproxy(start_daemon, machine, url, port, "resolve=haproxy")
    is_served_by(port, "one", "two")
    assert " one.test:" in (daemon.run_dir / "haproxy" / "haproxy.cfg").read_text()
