"""Host names of backends through the TCP proxy and `forward`: with a hosts file, a name server, and real servers.

Point 8.
"""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from ambassadors import Named, StartCommand, connect, name_at
from daemons import Daemon, RecordFiles, Starter
from naming import Machine, machine

from discovery.testing import eventually_sync, free_port, within

pytestmark = pytest.mark.warm

__all__ = ["machine"]

TIMEOUT = 60.0


def tcpproxy(start: Starter, machine: Machine, url: str, port: int, *sets: str) -> Daemon:
    assignments = [part for each in sets for part in ("--set", f"tcpproxy.{each}")]
    listen = ["--set", f"tcpproxy.listen.web.bind=127.0.0.1:{port}"]
    return start("--registry", url, "--plugin", "tcpproxy", *listen, *assignments, under=machine.under)


def is_carried_to(port: int, *names: str) -> None:
    """Wait until these backends, and no others, are reached through the port."""
    eventually_sync(lambda: {name_at(port) for _ in range(2 * len(names))} == set(names), f"{names}", TIMEOUT)


@pytest.mark.costly
def test_the_tcp_proxy_resolves_host_names_as_the_machine_does(
    start_daemon: Starter, file_registry: RecordFiles, machine: Machine, named: Callable[..., Named]
) -> None:
    """Point 8: localhost of both families, the hosts file, search domains, one name with several ports."""
    url, write = file_registry
    port = free_port()
    one, two, three = named("one"), named("two", "127.0.0.7"), named("three", "127.0.0.8")
    machine.hosts("127.0.0.7 in-hosts")
    machine.server.means = {"searched.corp.test": ["127.0.0.8"]}
    write("web/a", f"localhost:{one.port}")
    write("web/b", f"in-hosts:{two.port}")
    write("web/c", f"in-hosts:{named('also', '127.0.0.7').port}")
    write("web/d", f"searched:{three.port}")
    daemon = tcpproxy(start_daemon, machine, url, port, "listen.web.on_leave=close")
    is_carried_to(port, "one", "two", "also", "three")
    machine.server.dead = True  # and what it said stands
    eventually_sync(lambda: daemon.get("/api/snapshot")[1]["unresolved"], "the outage to be seen", TIMEOUT)
    is_carried_to(port, "one", "two", "also", "three")
    machine.server.dead = False
    write("web/a", "localhost:9")
    write("web/b", "localhost:9")
    write("web/c", "localhost:9")
    is_carried_to(port, "three")
    with connect(port) as client:
        assert client.recv(100) == b"three\n"
        machine.server.means = {"searched.corp.test": ["127.0.0.9"]}
        named("moved", "127.0.0.9", three.port)
        is_carried_to(port, "moved")
        eventually_sync(lambda: is_ended(client), "who was where the name has left to be closed", TIMEOUT)
    assert daemon.get("/healthz")[0] == 200


def is_ended(client: socket.socket) -> bool:
    client.settimeout(0.1)
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


def test_the_addresses_of_one_backend_are_tried_in_turn(
    start_daemon: Starter, file_registry: RecordFiles, machine: Machine, named: Callable[..., Named]
) -> None:
    """Point 8: no client is refused while the address that took connections so far takes none any more."""
    url, write = file_registry
    port = free_port()
    machine.server.means = {"both.test": ["127.0.0.7", "127.0.0.8"]}
    one = named("one", "127.0.0.7")
    other = named("other", "127.0.0.8", one.port)
    write("web/a", f"both.test:{one.port}")
    tcpproxy(start_daemon, machine, url, port, "listen.web.hold=0")
    eventually_sync(lambda: name_at(port), "anyone", TIMEOUT)
    first = name_at(port)
    assert {name_at(port) for _ in range(4)} == {first}
    {"one": one, "other": other}[first].close()
    second = {"one": "other", "other": "one"}[first]
    assert [name_at(port) for _ in range(4)] == [second] * 4


@pytest.mark.costly
def test_forward_resolves_host_names_as_the_machine_does(
    start_command: StartCommand, machine: Machine, named: Callable[..., Named]
) -> None:
    """Point 8: localhost of both families, the hosts file and search domains, without a registry."""
    machine.hosts("127.0.0.7 in-hosts")
    machine.server.means = {"searched.corp.test": ["127.0.0.8"], "late.test": []}
    targets = {
        "one": f"localhost:{named('one').port}",
        "two": f"in-hosts:{named('two', '127.0.0.7').port}",
        "three": f"searched:{named('three', '127.0.0.8').port}",
        "four": f"late.test:{named('four', '127.0.0.9').port}",
    }
    ports = {name: free_port() for name in targets}
    for name, target in targets.items():
        listen = f"127.0.0.1:{ports[name]}"
        start_command("forward", target, "--listen", listen, "--hold", "60", under=machine.under)
    for name in ("one", "two", "three"):
        is_carried_to(ports[name], name)
    with connect(ports["four"]) as held:
        machine.server.means = {**machine.server.means, "late.test": ["127.0.0.9"]}
        assert held.recv(5) == b"four\n"


@pytest.mark.costly
def test_forward_keeps_the_last_addresses_over_a_restart_while_the_name_server_is_silent(
    start_command: StartCommand, machine: Machine, named: Callable[..., Named], short_path: Path
) -> None:
    """Points 8 and 14: after a crash, when it is told to workers that were taken over, and after a stop."""
    machine.server.means = {"db.test": ["127.0.0.7"]}
    port, one = free_port(), named("one", "127.0.0.7")
    arguments = ("forward", f"db.test:{one.port}", "--listen", f"127.0.0.1:{port}", "--hold", "0")
    first = start_command(*arguments, under=machine.under)
    is_carried_to(port, "one")
    eventually_sync(lambda: [*short_path.glob("run/*/names.json")], "the addresses to be kept", TIMEOUT)
    machine.server.dead = True
    first.process.kill()
    first.process.wait(within(TIMEOUT))
    second = start_command(*arguments, under=machine.under)
    second.logs("took over a worker of an earlier daemon")
    second.logs("listening")
    assert name_at(port) == "one"
    assert second.stop() == 0
    third = start_command(*arguments, under=machine.under)
    third.logs("listening")
    assert name_at(port) == "one"
