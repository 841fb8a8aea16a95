"""The examples for databases and queues: traffic, a change of the registry, and a fail-over.

No client reaches a member that it must not reach.
"""

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from haproxy_example import TIMEOUT, Example
from stand_ins import Servers, Session, asking, greeting

from discovery.testing import eventually_sync, require_program, within

pytestmark = pytest.mark.warm

Prepare = Callable[..., Example]


class PatroniMember:
    """A stand-in for a member of a Patroni cluster: Patroni's REST API, and a server that tells its name and role."""

    def __init__(self, servers: Servers, example: Example, number: int, role: str) -> None:
        self.name, self.role = f"pg{number}", role
        host = f"127.0.0.1{number}"
        self._database = servers.tcp(f"{host}:{example.ports[5432]}", lambda: f"{self.name} {self.role}")
        self._api = servers.http(f"{host}:{example.ports[8008]}", self._answer)
        example.register("pg", self.name, f"{host}:{example.ports[5432]}")

    def kill(self) -> None:
        self._database.kill()
        self._api.kill()

    def _answer(self, path: str) -> tuple[int, str]:
        if path == f"/{self.role}":
            return 200, ""
        # The input is a slow answer: a client meets this member if HAProxy uses the member before its first check.
        time.sleep(0.3)
        return 503, ""


def test_patroni(example: Prepare, servers: Servers) -> None:
    edge = example("patroni.toml")
    one, two = PatroniMember(servers, edge, 1, "primary"), PatroniMember(servers, edge, 2, "replica")
    primary, replicas = edge.ports[5432], edge.ports[5433]
    with asking(lambda: greeting(primary)) as greetings:
        edge.run()
        wait_for_greetings(primary, "pg1 primary")
        wait_for_greetings(replicas, "pg2 replica")
        before = edge.changes()
        three = PatroniMember(servers, edge, 3, "replica")
        wait_for_greetings(replicas, "pg2 replica", "pg3 replica")
        one.kill()
        two.role = "primary"
        wait_for_greetings(primary, "pg2 primary")
        wait_for_greetings(replicas, "pg3 replica")
    assert {text.partition(" ")[2] for text in greetings if text} == {"primary"}
    session = Session(primary)
    two.role, three.role = "replica", "primary"  # as `patronictl switchover`
    wait_for_greetings(primary, "pg3 primary")
    assert session.is_cut()
    edge.assert_no_reload(before)


class GaleraNode:
    """A stand-in for a node of a Galera cluster: `clustercheck`, and a server that tells its name and state."""

    def __init__(self, servers: Servers, example: Example, number: int, **labels: str) -> None:
        self.name, self.state = f"db{number}", "synced"
        host = f"127.0.0.2{number}"
        servers.tcp(f"{host}:{example.ports[3306]}", lambda: f"{self.name} {self.state}")
        servers.http(f"{host}:{example.ports[9200]}", self._answer)
        example.register("galera", self.name, f"{host}:{example.ports[3306]}", **labels)

    def _answer(self, path: str) -> tuple[int, str]:
        return (200 if self.state == "synced" else 503), f"Galera node is {self.state}\r\n"


def test_galera(example: Prepare, servers: Servers) -> None:
    edge = example("galera.toml")
    one = GaleraNode(servers, edge, 1, role="writer")
    GaleraNode(servers, edge, 2)
    edge.run()
    writes, reads = edge.ports[3306], edge.ports[3307]
    wait_for_greetings(writes, "db1 synced")
    wait_for_greetings(reads, "db1 synced", "db2 synced")
    before = edge.changes()
    GaleraNode(servers, edge, 3)
    wait_for_greetings(reads, "db1 synced", "db2 synced", "db3 synced")
    session = Session(writes)
    assert session.greeting == "db1 synced"
    one.state = "donor"
    wait_for_greetings(writes, "db2 synced")
    wait_for_greetings(reads, "db2 synced", "db3 synced")
    assert session.is_cut()
    session = Session(writes)
    with asking(lambda: greeting(writes)) as greetings:
        one.state = "synced"
        wait_for_greetings(writes, "db1 synced")
    assert set(greetings) <= {"db2 synced", "db1 synced", ""}
    assert session.is_cut()
    edge.assert_no_reload(before)


class Redis:
    """A real Redis server."""

    def __init__(self, example: Example, number: int, directory: Path, *arguments: str) -> None:
        self.name, self.host, self.port = f"redis{number}", f"127.0.0.3{number}", example.ports[6379]
        settings = ("--save", "", "--repl-diskless-sync-delay", "0", "--dir", str(directory))
        address = ("--bind", self.host, "--port", str(self.port))
        program = require_program("redis-server", wheel=False)
        self._process = subprocess.Popen([program, *address, *settings, *arguments], stdout=subprocess.DEVNULL)
        example.register("redis", self.name, f"{self.host}:{self.port}")

    def command(self, text: str) -> str:
        return command(self.host, self.port, text)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Callable[..., Redis]]:
    with ExitStack() as stack:

        def start(example: Example, number: int, *arguments: str) -> Redis:
            server = Redis(example, number, tmp_path, *arguments)
            stack.callback(server.kill)
            return server

        yield start


def test_redis(example: Prepare, redis: Callable[..., Redis]) -> None:
    edge = example("redis.toml")
    one = redis(edge, 1)
    two = redis(edge, 2, "--replicaof", one.host, str(one.port))
    primary, replicas = edge.ports[6379], edge.ports[6380]

    with asking(lambda: command("127.0.0.1", primary, "SET key 2")) as answers, asking(lambda: role(replicas)) as roles:
        edge.run()
        eventually_sync(lambda: command("127.0.0.1", replicas, "GET key") == "$1\r\n2", "a write", TIMEOUT)
        before = edge.changes()
        three = redis(edge, 3, "--replicaof", one.host, str(one.port))
        eventually_sync(lambda: "connected_slaves:2" in one.command("INFO replication"), "replicas", TIMEOUT)
        one.kill()
        assert two.command("REPLICAOF NO ONE") == "+OK"
        assert three.command(f"REPLICAOF {two.host} {two.port}").startswith("+OK")
        answered = answers["+OK"]
        eventually_sync(lambda: answers["+OK"] > answered + 10, "writes to the new primary", TIMEOUT)
        read = roles["slave"]
        eventually_sync(lambda: roles["slave"] > read + 10, "reads from the other replica", TIMEOUT)
    assert set(answers) == {"+OK", ""}
    assert "role:master" in two.command("INFO replication")
    edge.assert_no_reload(before)


def role(port: int) -> str:
    """Return the role of the Redis server behind a port, empty if there is none."""
    lines = command("127.0.0.1", port, "INFO replication").splitlines()
    return next((line.removeprefix("role:") for line in lines if line.startswith("role:")), "")


def command(host: str, port: int, text: str) -> str:
    """Return Redis's answer to a command, empty if there is none."""
    try:
        with socket.create_connection((host, port), timeout=within(20)) as client:
            client.sendall(f"{text}\r\n".encode())
            client.shutdown(socket.SHUT_WR)
            with client.makefile("rb") as answer:
                return answer.read().decode().strip()
    except OSError:
        return ""


def test_rabbitmq(example: Prepare, servers: Servers) -> None:
    """Stand-ins for the nodes: servers that tell their names, since the check is a connection."""
    edge = example("rabbitmq.toml")

    def node(number: int) -> Callable[[], None]:
        host, name = f"127.0.0.4{number}", f"rabbit{number}"
        amqp = servers.tcp(f"{host}:{edge.ports[5672]}", lambda: name)
        servers.http(f"{host}:{edge.ports[15672]}", lambda path: (200, name))
        edge.register("rabbitmq", name, f"{host}:{edge.ports[5672]}")
        edge.register("rabbitmq-management", name, f"{host}:{edge.ports[15672]}")
        return amqp.kill

    kill_one = node(1)
    edge.run()
    port = edge.ports[5672]
    wait_for_greetings(port, "rabbit1")
    before, session = edge.changes(), Session(port)
    with asking(lambda: greeting(port)) as greetings:
        node(2)
        wait_for_greetings(port, "rabbit1", "rabbit2")
        edge.register("rabbitmq", "rabbit1", f"127.0.0.41:{port}", state="draining")
        wait_for_greetings(port, "rabbit2")
        assert session.is_open()
        kill_one()
        assert session.is_cut()
        wait_for_greetings(port, "rabbit2")
    assert set(greetings) <= {"rabbit1", "rabbit2"}
    edge.assert_no_reload(before)


def wait_for_greetings(port: int, *expected: str) -> None:
    """Wait until ten clients in a row get these greetings, each of them at least once."""
    eventually_sync(lambda: {greeting(port) for _ in range(10)} == set(expected), f"{expected} at {port}", TIMEOUT)
