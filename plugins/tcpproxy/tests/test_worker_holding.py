"""Clients of a worker that wait for a backend, and backends that refuse or recover."""

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from discovery.testing import eventually_sync, free_port, within
from discovery_tcpproxy.worker import proxyproto

from .driven_worker import Reset, Worker, is_refused
from .sockets import is_reset


def silent(stack: ExitStack) -> socket.socket:
    """A backend whose queue is full, so that the kernel drops what else arrives; it has accepted nobody yet."""
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
    server.settimeout(within(20))
    stack.enter_context(socket.create_connection(server.getsockname()))
    return server


def test_held_clients_are_connected_in_order_when_a_backend_comes(worker: Worker, backend: socket.socket) -> None:
    worker.listen()
    clients = []
    for number in range(20):
        clients.append(worker.connect())
        clients[-1].sendall(b"%d " % number)
        eventually_sync(lambda: worker.report()["holding"] == len(clients))
    worker.serve(backend)
    for number in range(20):
        with backend.accept()[0] as server:
            assert server.recv(10) == b"%d " % number
    assert worker.report()["held"] == 20


def test_a_held_client_is_reset_when_no_backend_comes(worker: Worker) -> None:
    worker.listen(hold=0.2)
    client = worker.connect()
    client.sendall(b"hello")
    assert is_reset(client)
    worker.configure(hold=0.0)
    assert is_refused(worker)
    worker.serve(free_port())  # it refuses
    assert is_refused(worker)
    assert worker.report()["rejected"] == {"unserved": 3}


def test_hold_connections_limits_the_held_clients(worker: Worker) -> None:
    worker.listen(hold_connections=2)
    held = [worker.connect() for _ in range(2)]
    eventually_sync(lambda: worker.report()["holding"] == 2)
    assert is_refused(worker)
    assert worker.report()["rejected"] == {"full": 1}
    assert len(held) == worker.report()["open"]


def test_a_held_client_that_resets_is_released(worker: Worker, reset: Reset) -> None:
    worker.listen(hold=1000.0)
    before = worker.descriptors()
    clients = [worker.connect() for _ in range(10)]
    eventually_sync(lambda: worker.report()["holding"] == 10)
    for client in clients:
        reset(client)
    eventually_sync(lambda: worker.report()["open"] == 0 and worker.descriptors() == before)


@pytest.mark.parametrize("leave", ["shutdown", "close"])
@pytest.mark.parametrize("when", ["held", "before"])
def test_a_client_that_leaves_while_held_is_never_served(
    worker: Worker, backend: socket.socket, stack: ExitStack, leave: str, when: str
) -> None:
    """Point 10. A retry would be executed a second time; `before`: the FIN comes while a connection is tried."""
    worker.listen(hold=1000.0, connect_timeout=1.0)
    worker.serve(*([silent(stack)] if when == "before" else []))
    client = worker.connect()
    client.sendall(b"execute once")
    if when == "held":
        eventually_sync(lambda: worker.report()["holding"] == 1)
    client.shutdown(socket.SHUT_WR)
    if leave == "close":
        client.close()
    eventually_sync(lambda: worker.report()["rejected"] == {"gone": 1}, timeout=20)
    if leave == "shutdown":
        assert is_reset(client)
    worker.serve(backend)
    with worker.connect() as other, backend.accept()[0] as server:
        other.sendall(b"other")
        assert server.recv(20) == b"other"  # and not what was sent before


@pytest.mark.parametrize("family", ["ip", "unix", "header"])
def test_a_client_that_leaves_is_noticed_on_every_kind_of_listener(worker: Worker, tmp_path: Path, family: str) -> None:
    """Point 10."""
    listener = None
    if family == "unix":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "s"))
        listener.listen()
    worker.listen(listener, hold=1000.0, accept_proxy=["127.0.0.0/8"] if family == "header" else [])
    for times, together in enumerate((True, False)):
        client = worker.connect()
        if family == "header":
            client.sendall(proxyproto.write("v1", ("192.0.2.7", 1234), ("192.0.2.8", 80)))
        client.sendall(b"execute once")
        if not together:
            eventually_sync(lambda: worker.report()["holding"] == 1)
        client.close()
        eventually_sync(lambda n=times: worker.report()["rejected"] == {"gone": n + 1}, timeout=20)


def test_a_half_close_during_the_connect_is_passed_on(worker: Worker, stack: ExitStack) -> None:
    """Point 10. As `nc -N` does it."""
    slow = silent(stack)
    worker.listen(connect_timeout=20.0, hold=1000.0)
    worker.serve(slow)
    client = worker.connect()
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    eventually_sync(lambda: worker.ask("report", connections=True)["connections"][0]["state"] == "connecting")
    slow.accept()[0].close()  # the connection that filled the queue
    with slow.accept()[0] as server:
        server.settimeout(within(20))
        assert b"".join(iter(lambda: server.recv(100), b"")) == b"question"
        server.sendall(b"answer")
    assert b"".join(iter(lambda: client.recv(100), b"")) == b"answer"


def test_a_backend_that_refuses_is_skipped(worker: Worker, backend: socket.socket) -> None:
    worker.listen()
    worker.serve(free_port(), backend, free_port())
    for _ in range(20):
        client = worker.connect()
        with backend.accept()[0] as server:
            server.sendall(b"hello")
        assert client.recv(10) == b"hello"
    figures = worker.report()
    assert figures["connect_failures"] == figures["retries"] > 0
    assert figures["connected"] == 20


def test_a_backend_that_does_not_answer_is_skipped(worker: Worker, backend: socket.socket, stack: ExitStack) -> None:
    worker.listen(connect_timeout=0.3)
    worker.serve(silent(stack), backend)
    for _ in range(3):
        client = worker.connect()
        with backend.accept()[0] as server:
            server.sendall(b"hello")
        assert client.recv(10) == b"hello"
    assert worker.report()["connect_failures"] >= 1


def test_held_clients_use_a_backend_that_recovers(worker: Worker) -> None:
    worker.listen()
    port = free_port()
    worker.serve(port)
    client = worker.connect()
    eventually_sync(lambda: worker.report()["connect_failures"] >= 2)
    with socket.create_server(("127.0.0.1", port)) as backend:
        backend.settimeout(within(20))
        with backend.accept()[0] as server:
            server.sendall(b"back")
        assert client.recv(10) == b"back"
