"""Commands of the daemon to a worker, and a worker whose daemon is gone, slow or wrong."""

import signal
import socket
import time
from contextlib import suppress

import pytest

from discovery.testing import eventually_sync, within
from discovery_tcpproxy import wire
from discovery_tcpproxy.worker import kernel

from .driven_worker import Meet, StartWorker, Worker


def test_a_worker_without_a_control_plane_accepts_no_client_and_open_connections_continue(
    meet: Meet, worker: Worker, backend: socket.socket
) -> None:
    worker.listen()
    worker.serve(backend)
    client, server = meet()
    worker.channel.close()

    def free() -> bool:
        with socket.create_server(worker.address):
            return True

    eventually_sync(free)
    client.sendall(b"on")
    assert server.recv(2) == b"on"
    client.close()
    server.close()
    assert worker.process.wait(within(20)) == 0


def test_a_worker_ignores_signals_of_the_terminal(meet: Meet, worker: Worker, backend: socket.socket) -> None:
    worker.listen()
    worker.serve(backend)
    worker.process.send_signal(signal.SIGINT)
    worker.process.send_signal(signal.SIGHUP)
    meet()


def test_a_worker_without_free_descriptors_fails_no_client_and_does_not_spin(
    start_worker: StartWorker, backend: socket.socket
) -> None:
    worker = start_worker(64)
    worker.listen()
    worker.serve(backend)
    clients = [worker.connect() for _ in range(60)]
    eventually_sync(lambda: worker.report()["connected"] >= 15)
    used = worker.ticks()
    time.sleep(0.5)  # the period in which the worker could spin
    assert worker.ticks() - used < 20
    for client in clients:
        with client, backend.accept()[0] as server:
            server.sendall(b"hello")
            assert client.recv(10) == b"hello"
    eventually_sync(lambda: worker.report()["open"] == 0)


def test_a_client_is_held_while_no_descriptor_is_free_for_its_backend(
    worker: Worker, backend: socket.socket, meet: Meet
) -> None:
    worker.listen()
    worker.serve(backend)
    pair = meet()
    worker.leave_descriptors(1)  # for a client, none for its backend
    client = worker.connect()
    eventually_sync(lambda: worker.report()["holding"] == 1)
    used = worker.ticks()
    time.sleep(0.5)  # the period in which the worker could spin
    assert worker.ticks() - used < 20
    for sock in pair:
        sock.close()
    with backend.accept()[0] as server:
        server.sendall(b"hello")
    assert client.recv(10) == b"hello"


def test_invalid_commands_are_answered(worker: Worker) -> None:
    assert "error" in worker.ask("dance")
    assert "error" in worker.ask("listen", listeners={"web": {}})
    worker.listen()
    assert worker.ask("report")["listeners"]["web"]["open"] == 0


def test_a_removed_listener_keeps_its_connections_and_ends_with_the_last(
    meet: Meet, worker: Worker, backend: socket.socket
) -> None:
    worker.listen(idle_timeout=50.0)
    worker.serve(backend)
    client, server = meet()
    assert worker.ask("listen", listeners={}).keys() == {"re"}
    with pytest.raises(ConnectionRefusedError):
        worker.connect()
    client.sendall(b"on")
    assert server.recv(2) == b"on"
    assert worker.report()["open"] == 1
    client.close()
    server.close()
    eventually_sync(lambda: worker.ask("report")["listeners"] == {})


def test_a_control_plane_that_does_not_read_delays_no_client(
    meet: Meet, worker: Worker, backend: socket.socket
) -> None:
    worker.listen(access_log=True)
    worker.serve(backend)
    worker.channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for _ in range(500):
        for sock in meet():
            sock.close()
    eventually_sync(lambda: worker.report()["open"] == 0)
    assert len(worker.events) + worker.ask("report")["dropped"] == 500
    assert {event["end"] for event in worker.events} == {"done"}


def test_a_daemon_that_reads_slowly_still_receives_answers(worker: Worker) -> None:
    """Point 14. One that takes a worker over and lags behind its access log is refused the sockets, and asks again."""
    worker.listen(access_log=True, hold=0.0)
    for _ in range(2000):
        with suppress(ConnectionResetError):
            worker.connect().close()
    wire.send(worker.channel, {"do": "sockets", "seq": 0, "begin": 0})
    eventually_sync(lambda: kernel.unsent(worker.channel.fileno()) == 0)  # it has read that
    assert worker.ask("report").keys() > {"listeners"}
    [refused] = [each for each in worker.events if each.get("re") == 0]
    assert "BlockingIOError" in refused["error"]
    assert worker.ask("sockets", begin=0)["sockets"] == [str(worker.address)]
