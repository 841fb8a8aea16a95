"""`discovery forward`, used as simple-amb was."""

import fcntl
import socket
import tempfile
from pathlib import Path

import pytest
from ambassadors import StartCommand, connect, connect_unix, name_at
from proxies import Serve, answers

from discovery.testing import free_port

HOSTS = """
import os, socket
_ask = socket.getaddrinfo

def getaddrinfo(host, *rest, **more):
    if host == "db.example":
        with open(os.environ["HOSTS"]) as file:
            if not (host := file.read()):
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return _ask(host, *rest, **more)

socket.getaddrinfo = getaddrinfo
"""


def test_forward_uses_the_first_reachable_target_and_no_registry(start_command: StartCommand, named: Serve) -> None:
    port, first_port = free_port(), free_port()
    registry = named("registry")
    second, third = named("second"), named("third")
    targets = [f"127.0.0.1:{each}" for each in (first_port, second.port, third.port)]
    start_command(
        "forward", *targets, "--listen", f"127.0.0.1:{port}", DISCOVERY_REGISTRY=f"etcd://127.0.0.1:{registry.port}"
    )
    assert {name_at(port) for _ in range(5)} == {"second"}
    first = named("first", port=first_port)
    answers(port, "first")
    assert {name_at(port) for _ in range(5)} == {"first"}
    assert third.connections == 0
    with connect(port) as client, client.makefile("rb") as answer:
        assert answer.readline() == b"first\n"
        first.close()  # what is open ends with it, and others go where it can be reached
        answer.read()
    assert {name_at(port) for _ in range(5)} == {"second"}
    second.close()
    assert {name_at(port) for _ in range(5)} == {"third"}
    assert registry.connections == 0


def test_a_client_waits_while_no_target_is_reachable(
    start_command: StartCommand, named: Serve, short_path: Path
) -> None:
    path, target = short_path / "it.sock", free_port()
    start_command("forward", f"localhost:{target}", "--listen", f"unix:{path}", "--hold", "60")
    with connect_unix(path) as client:
        client.sendall(b"hello")
        named("it", port=target)
        assert client.recv(3, socket.MSG_WAITALL) == b"it\n"
        assert client.recv(5, socket.MSG_WAITALL) == b"hello"


def test_forward_listens_on_port_10000_of_every_address_by_default(start_command: StartCommand, named: Serve) -> None:
    with (Path(tempfile.gettempdir()) / "discovery-tests-port-10000.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        start_command("forward", f"127.0.0.1:{named('it').port}")
        assert name_at(10000, "127.0.0.1") == "it"
        assert name_at(10000, "127.0.0.2") == "it"
        start_command.started[-1].stop()


@pytest.mark.costly
def test_forward_follows_a_host_name_to_another_address(
    start_command: StartCommand, named: Serve, short_path: Path
) -> None:
    """The names that the C library knows cannot be changed for a test: what asks it is."""
    (short_path / "sitecustomize.py").write_text(HOSTS)
    hosts = short_path / "hosts"
    hosts.write_text("")
    target, port = free_port(), free_port()
    run = start_command(
        "forward", f"db.example:{target}", "--listen", f"127.0.0.1:{port}", "--hold", "60",
        PYTHONPATH=str(short_path), HOSTS=str(hosts),
    )  # fmt: skip
    run.logs("db.example")
    first = named("first", "127.0.0.1", target)
    named("second", "127.0.0.2", target)
    with connect(port) as waiting:
        hosts.write_text("127.0.0.1")
        assert waiting.recv(6, socket.MSG_WAITALL) == b"first\n"
        hosts.write_text("127.0.0.2")
        first.close()
    answers(port, "second")
