"""A worker carries bytes: ends, resets, back-pressure, urgent data, and what becomes of descriptors."""

import signal
import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from discovery.testing import eventually_sync, within

from .driven_worker import Meet, Reset, Worker


@pytest.fixture(autouse=True)
def _serving(worker: Worker, backend: socket.socket) -> None:
    worker.listen()
    worker.serve(backend)


def sent(sock: socket.socket) -> bool:
    try:
        return bool(sock.send(b"to nobody"))
    except BrokenPipeError:  # so Linux tells of an RST that follows a FIN
        return False


def everything(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65_536), b""))


@pytest.mark.parametrize("reverse", [False, True], ids=["client", "backend"])
def test_one_direction_ends_and_the_other_goes_on(meet: Meet, reverse: bool) -> None:
    one, other = meet()[::-1] if reverse else meet()
    one.sendall(b"question")
    one.shutdown(socket.SHUT_WR)
    assert everything(other) == b"question"
    for _ in range(3):
        other.sendall(b"answer")
        assert one.recv(100) == b"answer"
    other.close()
    assert one.recv(100) == b""


@pytest.mark.parametrize("reverse", [False, True], ids=["client", "backend"])
def test_a_reset_is_a_reset_on_the_other_side(meet: Meet, reset: Reset, reverse: bool) -> None:
    one, other = meet()[::-1] if reverse else meet()
    one.sendall(b"x")
    assert other.recv(1) == b"x"
    reset(one)
    with pytest.raises(ConnectionResetError):
        other.recv(1)


@pytest.mark.parametrize("reverse", [False, True], ids=["client", "backend"])
def test_a_reset_after_the_end_is_a_reset_on_the_other_side(meet: Meet, reset: Reset, reverse: bool) -> None:
    one, other = meet()[::-1] if reverse else meet()
    one.shutdown(socket.SHUT_WR)
    assert other.recv(1) == b""
    reset(one)
    while sent(other):
        pass


def test_a_reset_reaches_a_peer_that_does_not_read(meet: Meet, worker: Worker, reset: Reset) -> None:
    client, server = meet()
    server.settimeout(0.5)
    with pytest.raises(TimeoutError):
        server.sendall(bytes(256 << 20))
    reset(server)
    eventually_sync(lambda: worker.report()["open"] == 0)
    with pytest.raises(ConnectionResetError):
        everything(client)


def test_data_before_a_reset_arrives(meet: Meet, reset: Reset) -> None:
    client, server = meet()
    server.sendall(b"413 too much")
    server.sendall(b"")
    assert client.recv(100) == b"413 too much"
    reset(server)
    with pytest.raises(ConnectionResetError):
        client.recv(100)


def test_urgent_data_does_not_stop_the_stream(meet: Meet) -> None:
    for _ in range(20):
        client, server = meet()
        client.sendall(b"before")
        client.send(b"!", socket.MSG_OOB)
        client.sendall(b"after")
        client.shutdown(socket.SHUT_WR)
        assert everything(server) == b"before!after"


@pytest.mark.parametrize("size", [262_143, 262_144, 262_145, 524_288, 3_000_000])
def test_an_end_directly_after_a_full_buffer_is_seen(meet: Meet, size: int) -> None:
    client, server = meet()
    sender = threading.Thread(target=lambda: (client.sendall(bytes(size)), client.shutdown(socket.SHUT_WR)))
    sender.start()
    assert len(everything(server)) == size
    sender.join(within(20))


def test_data_of_a_backend_that_resets_at_once_arrives(worker: Worker, backend: socket.socket) -> None:
    """It was connected: it is not tried again, nor set aside."""

    def speak() -> None:
        for _ in range(50):
            server = backend.accept()[0]
            server.sendall(b"busy")
            server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            server.close()

    speaker = threading.Thread(target=speak)
    speaker.start()
    for _ in range(50):
        with suppress(ConnectionResetError), worker.connect() as client:
            assert client.recv(100) in (b"busy", b"")
    speaker.join(within(20))
    assert worker.report()["connect_failures"] == 0


def test_a_busy_connection_does_not_starve_others(meet: Meet) -> None:
    bulk, sink = meet()
    done = threading.Event()

    def pour() -> None:
        block = bytes(1 << 20)
        while not done.is_set():
            bulk.sendall(block)
        bulk.close()

    threads = [threading.Thread(target=pour), threading.Thread(target=lambda: everything(sink))]
    for thread in threads:
        thread.start()
    client, server = meet()
    for _ in range(200):
        client.sendall(b"ping")
        assert server.recv(10) == b"ping"
    done.set()
    for thread in threads:
        thread.join(within(20))


def test_no_path_leaks_a_descriptor(meet: Meet, worker: Worker, backend: socket.socket, reset: Reset) -> None:
    before = worker.descriptors()
    for number in range(200):
        client, server = meet()
        one, other = (client, server) if number % 2 else (server, client)
        match number % 5:
            case 0:
                reset(one)
            case 1:
                one.close()
            case 2:
                one.shutdown(socket.SHUT_WR)
            case 3:
                one.sendall(b"unread")
                reset(other)
        one.close()
        other.close()
    worker.serve()
    for _ in range(20):
        reset(worker.connect())
    eventually_sync(lambda: worker.descriptors() == before and worker.report()["open"] == 0)
    figures = worker.report()
    assert figures["total"] == 220
    assert all(each["open"] == 0 for each in figures["backends"].values())


def test_a_new_connection_receives_no_events_of_a_closed_connection(
    meet: Meet, worker: Worker, backend: socket.socket
) -> None:
    """Many end and begin in one batch of events, where descriptors' numbers could be given again at once."""
    for _ in range(10):
        old = [meet() for _ in range(20)]
        worker.process.send_signal(signal.SIGSTOP)  # what follows becomes one batch
        fresh = []
        for client, server in old:
            client.close()
            fresh.append(worker.connect())
            server.close()
        worker.process.send_signal(signal.SIGCONT)
        for client in fresh:
            client.sendall(b"%d" % client.getsockname()[1])
        for _ in fresh:
            with backend.accept()[0] as server:
                server.sendall(server.recv(10))
        for client in fresh:
            assert client.recv(10) == b"%d" % client.getsockname()[1]
            client.close()


@pytest.mark.parametrize("kind", ["IPv6", "Unix"])
def test_ipv6_and_unix_listeners(worker: Worker, backend: socket.socket, tmp_path: Path, kind: str) -> None:
    if kind == "Unix":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "s"))
        listener.listen()
    else:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    worker.listen(listener, access_log=True)
    client = worker.connect()
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    server = backend.accept()[0]
    with server:
        assert everything(server) == b"question"
        server.sendall(b"answer")
    assert everything(client) == b"answer"
    entry = eventually_sync(lambda: worker.report() and [each for each in worker.events if each["event"] == "access"])[
        0
    ]
    assert entry["client"] == (["", 0] if kind == "Unix" else list(client.getsockname()[:2]))
    assert (entry["received"], entry["sent"], entry["end"]) == (8, 6, "done")
