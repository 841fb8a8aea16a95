"""Faults that the data plane had, and has no longer."""

import array
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from discovery.testing import eventually_sync, within
from discovery_tcpproxy.worker.options import is_connected_to_itself

from .driven_worker import Meet, Worker


def everything(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65_536), b""))


@pytest.mark.parametrize("proxied", [False, True], ids=["at once", "after a header"])
def test_data_after_descriptors_on_a_unix_socket_is_read(
    worker: Worker, backend: socket.socket, tmp_path: Path, proxied: bool
) -> None:
    """A read stops behind descriptors that ride along, however much follows."""
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(tmp_path / "s"))
    unix.listen()
    worker.listen(unix, accept_proxy=["unix"] if proxied else [], accept_proxy_timeout=10.0)
    worker.serve(backend)
    client = worker.connect()
    if proxied:
        client.sendall(b"PROXY UNKNOWN\r\n")
    server = backend.accept()[0]
    with server:
        server.settimeout(within(5))
        worker.process.send_signal(signal.SIGSTOP)  # so that one event tells of all of it
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [client.fileno()]))]
        for _ in range(3):
            client.sendmsg([b"with"], rights)
            client.sendall(b"without")
        worker.process.send_signal(signal.SIGCONT)
        assert server.makefile("rb").read(33) == b"withwithout" * 3
        worker.process.send_signal(signal.SIGSTOP)
        client.sendmsg([b"with"], rights)
        client.sendall(b"the end")
        client.shutdown(socket.SHUT_WR)
        worker.process.send_signal(signal.SIGCONT)
        assert everything(server) == b"withthe end"


def test_the_drain_time_restarts_when_a_backend_that_returned_is_removed_again(
    worker: Worker, backend: socket.socket, meet: Meet
) -> None:
    worker.listen(drain=3.0)
    worker.serve(backend)
    client, _ = meet()
    worker.serve()
    client.settimeout(0.6)  # a part of the drain time that leaves a busy machine the rest
    with pytest.raises(TimeoutError):
        client.recv(1)
    worker.serve(backend)
    left = time.monotonic()
    worker.serve()
    client.settimeout(within(20))
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert time.monotonic() - left >= 3.0


@pytest.fixture
def mute(stack: ExitStack) -> socket.socket:
    """A listening socket whose queue is full, so that it does not answer; a place in it can be made."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
    listener.settimeout(within(20))
    for _ in range(3):
        filler = stack.enter_context(socket.socket())
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
    return listener


@pytest.mark.parametrize("drain", [0, 0.2])
def test_a_dial_to_a_removed_backend_moves_to_another_backend(
    worker: Worker, backend: socket.socket, mute: socket.socket, drain: float
) -> None:
    worker.listen(drain=drain, connect_timeout=600.0)
    worker.serve(mute)
    worker.connect().sendall(b"question")
    eventually_sync(lambda: worker.report()["backends"][f"b{mute.getsockname()[1]}"]["open"] == 1)
    worker.serve(backend)
    with backend.accept()[0] as server:
        assert server.recv(100) == b"question"
    assert worker.report()["backends"][f"b{backend.getsockname()[1]}"]["connected"] == 1


def test_idle_timeout_resets_an_incomplete_stream(worker: Worker, backend: socket.socket, meet: Meet) -> None:
    """A FIN would say that it is complete."""
    worker.listen(idle_timeout=0.3)
    worker.serve(backend)
    client, server = meet()
    server.settimeout(0.2)
    with pytest.raises((TimeoutError, ConnectionError)):  # reset already if this machine is busy
        server.sendall(bytes(256 << 20))  # more than the kernel's buffers hold, of two connections
    eventually_sync(lambda: worker.report()["open"] == 0)
    with pytest.raises(ConnectionResetError):
        everything(client)


def test_an_idle_worker_sleeps_after_a_listener_with_idle_timeout_is_removed(worker: Worker) -> None:
    worker.listen(idle_timeout=0.2)
    assert worker.ask("listen", listeners={}).keys() == {"re"}

    def switches() -> int:
        text = Path(f"/proc/{worker.process.pid}/status").read_text()
        return int(text.partition("voluntary_ctxt_switches:")[2].split()[0])

    def asleep() -> bool:
        before = switches()
        time.sleep(1)  # the period in which a worker that sleeps is not scheduled
        return switches() == before

    eventually_sync(asleep)


def test_a_worker_with_a_control_plane_continues_after_sigterm(
    worker: Worker, backend: socket.socket, meet: Meet
) -> None:
    """A supervisor sends it to every process of a unit: connections finish all the same."""
    worker.listen()
    worker.serve(backend)
    client, server = meet()
    worker.process.send_signal(signal.SIGTERM)
    for _ in range(10):
        client.sendall(b"x")
        assert server.recv(1) == b"x"
        worker.report()
    worker.channel.close()
    server.close()
    assert client.recv(1) == b""
    client.close()
    assert worker.process.wait(within(20)) == 0


@pytest.mark.parametrize("host", ["fe80::1%nowhere", "fe80::1"])
def test_a_backend_that_cannot_be_dialled_counts_as_refusing(worker: Worker, backend: socket.socket, host: str) -> None:
    worker.listen(retries=1)
    records = [
        {"id": "a", "host": host, "port": 9, "weight": 100, "draining": False},
        {"id": "b", "host": "127.0.0.1", "port": backend.getsockname()[1], "weight": 1, "draining": False},
    ]
    assert worker.ask("backends", services={"web": records}).keys() == {"re"}
    for _ in range(3):
        with worker.connect(), backend.accept()[0]:
            pass
    eventually_sync(lambda: worker.report()["open"] == 0)


def test_a_dial_to_a_local_port_without_a_listener_does_not_connect_to_itself(
    backend: socket.socket,
) -> None:
    """The kernel may give it that very port, and then it is connected to itself."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.connect(sock.getsockname())
        assert is_connected_to_itself(sock.fileno())
        address = sock.getsockname()
    with socket.socket() as listener:
        listener.bind(address)
    with socket.create_connection(backend.getsockname()) as sock:
        assert not is_connected_to_itself(sock.fileno())


def test_a_failing_accept_is_reported_without_spinning(worker: Worker) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with listener.dup() as same:
        worker.listen(listener)
        same.shutdown(socket.SHUT_RDWR)  # a process that it is shared with may do so
    eventually_sync(lambda: worker.report() and worker.events)
    before = worker.ticks()
    time.sleep(1.5)  # the period in which the worker could spin
    assert worker.ticks() - before < 20
    worker.report()
    assert {each["message"] for each in worker.events} == {"accepting failed"}
    assert len(worker.events) < 5


def test_a_worker_whose_listening_socket_another_process_sets_blocking_goes_on(
    worker: Worker, backend: socket.socket
) -> None:
    """All processes with the socket share its mode: `socket.dup` of Python and systemd's start of a unit set it."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        other = listener.dup()
        worker.listen(listener)
    worker.serve(backend)
    with other, ExitStack() as stack:
        for _ in range(3):  # with connections open, the worker looks for more clients than the one that has come
            other.setblocking(True)
            client = worker.connect()
            client.sendall(b"x")
            server = stack.enter_context(backend.accept()[0])
            server.settimeout(within(20))
            assert server.recv(1) == b"x"
            server.sendall(b"y")
            assert client.recv(1) == b"y"
