"""The example for RabbitMQ with real nodes: Debian's RabbitMQ."""

import os
import re
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from haproxy_example import Example
from stand_ins import asking

from discovery.testing import eventually_sync, free_port, require_program, within

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

TIMEOUT = 120.0
"""Seconds that a condition is awaited: a node needs 5 s of processor time to start."""
SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"
"""The program itself: the command of that name on PATH changes the user."""
_HEADER = b"AMQP\x00\x00\x09\x01"
"""The protocol header of AMQP 0-9-1, which the server answers with `Connection.Start`."""


class Node:
    """A node of RabbitMQ, with an Erlang port mapper at `mapper`."""

    def __init__(self, example: Example, directory: Path, mapper: int, number: int) -> None:
        self.name, self.host = f"rabbit{number}", f"127.0.0.4{number}"
        self.port = example.ports[5672]
        plugins = directory / "plugins"
        plugins.write_text("[].\n")
        environment = {
            "HOME": directory,
            "ERL_EPMD_PORT": mapper,
            "RABBITMQ_NODENAME": f"{self.name}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": self.host,
            "RABBITMQ_NODE_PORT": self.port,
            "RABBITMQ_DIST_PORT": free_port(),
            "RABBITMQ_MNESIA_BASE": directory,
            "RABBITMQ_LOG_BASE": directory,
            "RABBITMQ_ENABLED_PLUGINS_FILE": plugins,
            "RABBITMQ_CONFIG_FILE": directory / "none",
        }
        with (directory / f"{self.name}.log").open("wb") as log:
            self._process = subprocess.Popen(
                [SERVER],
                env={**os.environ, **{name: str(value) for name, value in environment.items()}},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        example.register("rabbitmq", self.name, f"{self.host}:{self.port}")

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


StartNode = Callable[[Example, int], Node]


@pytest.fixture
def node() -> Iterator[StartNode]:
    """Return a function that starts a node."""
    require_program("rabbitmq-server", wheel=False)
    mapper = free_port()
    with tempfile.TemporaryDirectory(prefix="rabbit-", ignore_cleanup_errors=True) as path, ExitStack() as stack:
        epmd = subprocess.Popen([require_program("epmd", wheel=False), "-port", str(mapper), "-address", "127.0.0.1"])
        stack.callback(epmd.wait)
        stack.callback(epmd.kill)

        def start(example: Example, number: int) -> Node:
            started = Node(example, Path(path), mapper, number)
            stack.callback(started.kill)
            return started

        yield start
        for log in sorted(Path(path).glob("*.log")):
            print(f"--- {log.name}\n{log.read_text(errors='replace')}")


def connect(port: int) -> tuple[socket.socket, str]:
    """Return a connection, and the name of the node that has answered the header of the protocol. Raises OSError."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=within(20))
    connection.sendall(_HEADER)
    answer = connection.recv(10_000)
    found = re.search(rb"(rabbit\d)@", answer)
    if found is None:
        connection.close()
        raise ConnectionError(f"no node has answered: {answer!r}")
    return connection, found[1].decode()


def node_at(port: int) -> str:
    """Return the name of the node that answers; empty if none does."""
    try:
        connection, name = connect(port)
    except OSError:
        return ""
    connection.close()
    return name


def connection_to(node: Node, port: int) -> socket.socket | None:
    """Return a new connection, if the node has it. Raises OSError."""
    connection, name = connect(port)
    if name == node.name:
        return connection
    connection.close()
    return None


def test_a_fail_over_of_rabbitmq(example: Callable[..., Example], node: StartNode) -> None:
    edge = example("rabbitmq.toml")
    edge.run()
    one = node(edge, 1)
    port = edge.ports[5672]
    eventually_sync(lambda: node_at(port) == one.name, "the first node", TIMEOUT)
    with asking(lambda: node_at(port), every=0.05) as answers:
        two = node(edge, 2)
        eventually_sync(lambda: answers[two.name] > 5, "the second node", TIMEOUT)
        connection = eventually_sync(lambda: connection_to(one, port), "a connection to the first node", TIMEOUT)
        one.kill()
        assert connection is not None
        assert connection.recv(1) == b""
        eventually_sync(lambda: {node_at(port) for _ in range(10)} == {two.name}, "the second node alone", TIMEOUT)
    connection.close()
    assert edge.changes()["reload"] == 0
