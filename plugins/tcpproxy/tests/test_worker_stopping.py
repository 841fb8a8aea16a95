"""Connections of a worker when their backend leaves, when they are idle, and when the worker stops."""

import socket
import time
from contextlib import ExitStack

import pytest
from descriptors import readable

from discovery.testing import eventually_sync, within
from discovery_tcpproxy import wire

from .driven_worker import Meet, Worker
from .sockets import fill, is_reset


def test_idle_timeout_closes_an_idle_connection(meet: Meet, worker: Worker, backend: socket.socket) -> None:
    worker.listen(idle_timeout=2.0)  # of which a busy machine may take most between two bytes
    worker.serve(backend)
    idle, _ = meet()
    busy, other = meet()
    deadline = time.monotonic() + within(20)
    while not readable([idle], 0.02):
        busy.sendall(b"x")
        assert other.recv(1) == b"x"
        assert time.monotonic() < deadline
    assert idle.recv(1) == b""
    busy.sendall(b"y")
    assert other.recv(1) == b"y"


def test_drain_limits_connections_to_a_removed_backend(meet: Meet, worker: Worker, backend: socket.socket) -> None:
    worker.listen()
    worker.serve(backend)
    client, server = meet()
    worker.serve()
    client.sendall(b"on")
    assert server.recv(2) == b"on"
    worker.configure(drain=2.0)  # in which the next bytes come through on a busy machine as well
    worker.serve(backend)
    worker.serve()
    client.sendall(b"on")
    assert server.recv(2) == b"on"
    assert is_reset(client)
    worker.configure(drain=0.0)
    worker.serve(backend)
    client, server = meet()
    worker.serve(backend)
    client.sendall(b"on")
    assert server.recv(2) == b"on"
    worker.serve()
    assert is_reset(client)
    assert is_reset(server)


def test_a_stop_lets_connections_finish(meet: Meet, worker: Worker, backend: socket.socket) -> None:
    worker.listen()
    worker.serve(backend)
    client, server = meet()
    assert worker.ask("stop", grace=20.0).keys() == {"re"}
    with pytest.raises(ConnectionRefusedError):
        worker.connect()
    client.sendall(b"on")
    assert server.recv(2) == b"on"
    client.close()
    server.close()
    assert worker.process.wait(within(20)) == 0


def test_a_stop_closes_idle_connections_in_order_and_lets_busy_connections_finish(
    meet: Meet, worker: Worker, backend: socket.socket
) -> None:
    """Point 13. Idle: nothing is on its way, and for three seconds nothing has moved."""
    worker.listen()
    worker.serve(backend)
    idle, unused = meet(), worker.connect()
    with backend.accept()[0] as beyond_unused:
        busy, slow = meet(), meet()
        sent = fill(slow[1])
        assert worker.ask("stop", grace=120.0, end_idle=True).keys() == {"re"}
        waiting = {*idle, unused, beyond_unused}
        while waiting:
            busy[0].sendall(b"x")
            assert busy[1].recv(1) == b"x"
            for sock in readable(waiting, 0.1):
                assert sock.recv(1) == b""  # a FIN; an RST would raise ConnectionResetError
                waiting.remove(sock)
        busy[1].sendall(b"answer")
        assert busy[0].recv(6) == b"answer"
        slow[1].close()
        got = 0
        while data := slow[0].recv(1 << 20):
            got += len(data)
        assert got == sent
        for sock in busy:
            sock.close()
    assert worker.process.wait(within(60)) == 0


def test_a_stop_waits_longer_for_an_answer_than_for_a_question(
    meet: Meet, worker: Worker, backend: socket.socket, stack: ExitStack
) -> None:
    """Point 13. A client that spoke last may wait for an answer: it is not idle as soon as another."""
    worker.listen()
    worker.serve(backend)
    idle, asking = meet(), worker.connect()
    answering = stack.enter_context(backend.accept()[0])
    asking.sendall(b"question")
    assert answering.recv(8) == b"question"
    worker.ask("stop", grace=120.0, end_idle=True)
    assert idle[0].recv(1) == b""
    answering.sendall(b"answer")
    assert asking.recv(6) == b"answer"
    assert asking.recv(1) == b""
    assert worker.process.wait(within(60)) == 0


def test_a_stop_resets_held_clients(worker: Worker) -> None:
    """Point 13. No client of a worker that is stopped gets a new backend."""
    worker.listen(hold=1000.0)
    client = worker.connect()
    client.sendall(b"hello")
    eventually_sync(lambda: worker.report()["holding"] == 1)
    wire.send(worker.channel, {"do": "stop", "grace": 120.0, "end_idle": True})
    assert is_reset(client)
    assert worker.process.wait(within(60)) == 0


def test_a_stop_resets_connections_after_the_grace(meet: Meet, worker: Worker, backend: socket.socket) -> None:
    worker.listen()
    worker.serve(backend)
    client, server = meet()
    worker.ask("stop", grace=0.1)
    assert is_reset(client)
    assert is_reset(server)
    assert worker.process.wait(within(20)) == 0
