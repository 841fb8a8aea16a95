"""Whom a worker serves, and when: holding, retries, limits, access, headers, leaving, stopping, want of descriptors."""

import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from sockets import fill

from discovery.testing import eventually_sync, free_port, within
from discovery_tcpproxy import wire
from discovery_tcpproxy.worker import kernel, proxyproto

Meet = Callable[[], tuple[socket.socket, socket.socket]]


def silent(stack: ExitStack) -> socket.socket:
    """A backend whose queue is full, so that the kernel drops what else arrives; it has accepted nobody yet."""
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
    server.settimeout(within(20))
    stack.enter_context(socket.create_connection(server.getsockname()))
    return server


def is_reset(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) is None
    except ConnectionResetError:
        return True


def is_refused(worker: Any) -> bool:
    """Whether a client is reset; that may be told as soon as it connects."""
    try:
        return is_reset(worker.connect())
    except ConnectionResetError:
        return True


def test_who_is_held_is_connected_in_order_when_a_backend_comes(worker: Any, backend: socket.socket) -> None:
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


def test_when_none_comes_the_client_is_told_by_a_reset(worker: Any) -> None:
    worker.listen(hold=0.2)
    client = worker.connect()
    client.sendall(b"hello")
    assert is_reset(client)
    worker.configure(hold=0.0)
    assert is_refused(worker)
    worker.serve(free_port())  # it refuses
    assert is_refused(worker)
    assert worker.report()["rejected"] == {"unserved": 3}


def test_no_more_are_held_than_may_be(worker: Any) -> None:
    worker.listen(hold_connections=2)
    held = [worker.connect() for _ in range(2)]
    eventually_sync(lambda: worker.report()["holding"] == 2)
    assert is_refused(worker)
    assert worker.report()["rejected"] == {"full": 1}
    assert len(held) == worker.report()["open"]


def test_who_goes_away_while_held_is_let_go(worker: Any, reset: Callable[[socket.socket], None]) -> None:
    worker.listen(hold=1000.0)
    before = worker.descriptors()
    clients = [worker.connect() for _ in range(10)]
    eventually_sync(lambda: worker.report()["holding"] == 10)
    for client in clients:
        reset(client)
    eventually_sync(lambda: worker.report()["open"] == 0 and worker.descriptors() == before)


@pytest.mark.parametrize("leave", ["shutdown", "close"])
@pytest.mark.parametrize("when", ["held", "before"])
def test_a_client_that_left_while_it_was_held_is_never_served(
    worker: Any, backend: socket.socket, stack: ExitStack, leave: str, when: str
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
def test_a_client_that_left_is_noticed_whatever_way_it_came(worker: Any, tmp_path: Path, family: str) -> None:
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


def test_a_half_close_while_the_backend_is_connected_to_is_carried(worker: Any, stack: ExitStack) -> None:
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


def test_a_backend_that_refuses_is_passed_over(worker: Any, backend: socket.socket) -> None:
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


def test_a_backend_that_does_not_answer_is_passed_over(worker: Any, backend: socket.socket, stack: ExitStack) -> None:
    worker.listen(connect_timeout=0.3)
    worker.serve(silent(stack), backend)
    for _ in range(3):
        client = worker.connect()
        with backend.accept()[0] as server:
            server.sendall(b"hello")
        assert client.recv(10) == b"hello"
    assert worker.report()["connect_failures"] >= 1


def test_a_backend_that_recovers_is_used_by_those_who_are_held(worker: Any) -> None:
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


def test_limits_and_lists_are_asked_first(meet: Meet, worker: Any, backend: socket.socket) -> None:
    worker.listen(max_connections=3, max_connections_per_client=2)
    worker.serve(backend)
    pairs = [meet() for _ in range(2)]
    assert is_refused(worker)
    for sock in pairs.pop():
        sock.close()
    eventually_sync(lambda: worker.report()["open"] == 1)
    pairs.append(meet())
    worker.configure(max_connections_per_client=3)
    pairs.append(meet())
    assert is_refused(worker)
    worker.configure(deny=["127.0.0.0/8"])
    assert is_refused(worker)
    worker.configure(allow=["10.0.0.0/8"])
    assert is_refused(worker)
    worker.configure(allow=["127.0.0.1/32"])
    pairs.append(meet())
    assert worker.report()["rejected"] == {"limit": 2, "denied": 2}


def test_a_limit_that_comes_later_counts_who_is_there(meet: Meet, worker: Any, backend: socket.socket) -> None:
    worker.listen()
    worker.serve(backend)
    pairs = [meet() for _ in range(3)]
    worker.configure(max_connections=3)
    assert is_refused(worker)
    for sock in pairs.pop():
        sock.close()
    eventually_sync(lambda: worker.report()["open"] == 2)
    pairs.append(meet())
    worker.configure()
    pairs.append(meet())
    worker.configure(max_connections_per_client=4)
    assert is_refused(worker)
    assert worker.report()["rejected"] == {"limit": 2}


def test_a_header_is_read_first_and_no_more_than_it(worker: Any, backend: socket.socket) -> None:
    worker.listen(
        accept_proxy=["127.0.0.0/8"], accept_proxy_timeout=20.0, send_proxy="v2", max_connections_per_client=2
    )
    worker.serve(backend)
    client = worker.connect()
    header = proxyproto.write("v1", ("192.0.2.7", 1234), ("192.0.2.8", 80))
    for byte in header[:-1]:
        client.sendall(bytes([byte]))
    client.sendall(header[-1:] + b"and the rest")
    client.shutdown(socket.SHUT_WR)
    with backend.accept()[0] as server:
        got = b"".join(iter(lambda: server.recv(1000), b""))
        header = proxyproto.parse(got)
        assert header is not None
        assert header.source == ("192.0.2.7", 1234)
        assert got[header.size :] == b"and the rest"
        assert worker.ask("report", connections=True)["connections"][0]["client"] == ["192.0.2.7", 1234]


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", b"PROXY TCP4 1.2.3", b""])
def test_who_sends_no_header_is_not_served(worker: Any, backend: socket.socket, sent: bytes) -> None:
    worker.listen(accept_proxy=["127.0.0.0/8"], accept_proxy_timeout=0.3)
    worker.serve(backend)
    client = worker.connect()
    client.sendall(sent)
    assert is_reset(client)
    assert worker.report()["rejected"] == {"header": 1}


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("trusted", [["10.0.0.0/8", "::/0"], ["unix"]], ids=["elsewhere", "local"])
def test_a_forged_header_is_not_believed(worker: Any, backend: socket.socket, version: str, trusted: list[str]) -> None:
    """Point 23. `allow` and the limit count the client's own address, and the header is data as any other."""
    forged = proxyproto.write(version, ("10.1.2.3", 1234), ("10.1.2.4", 80))
    worker.listen(accept_proxy=trusted, max_connections_per_client=1)
    worker.serve(backend)
    client = worker.connect()
    client.sendall(forged)
    with backend.accept()[0] as server:
        server.settimeout(within(20))
        assert server.recv(1000) == forged
        assert is_refused(worker)  # whatever header it would send
        told = worker.ask("report", connections=True)["connections"]
        assert [each["client"] for each in told] == [list(client.getsockname())]
    client.close()
    worker.configure(accept_proxy=trusted, allow=["10.0.0.0/8"])
    assert is_refused(worker)
    assert worker.report()["rejected"] == {"limit": 1, "denied": 1}


def test_a_header_counts_where_its_sender_may_send_it(worker: Any, backend: socket.socket) -> None:
    """Point 23. The client that it names is the one that `allow` and the limit are for, and not the sender."""
    worker.listen(accept_proxy=["127.0.0.0/8"], allow=["192.0.2.0/24"], max_connections_per_client=1)
    worker.serve(backend)

    def come(address: str) -> socket.socket:
        client: socket.socket = worker.connect()
        client.sendall(proxyproto.write("v1", (address, 1234), ("192.0.2.8", 80)) + b"hello")
        return client

    clients = [come("192.0.2.1"), come("192.0.2.2")]
    for _ in clients:
        server = backend.accept()[0]
        with server:
            server.settimeout(within(20))
            assert server.recv(10) == b"hello"
            assert is_reset(come("198.51.100.1"))
    worker.configure(accept_proxy=[])
    assert worker.report()["rejected"] == {"denied": 2}


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_header_is_sent_first(worker: Any, backend: socket.socket, version: str) -> None:
    worker.listen(send_proxy=version)
    worker.serve(backend)
    client = worker.connect()
    header = proxyproto.write(version, client.getsockname(), client.getpeername())
    client.sendall(b"hello")
    client.shutdown(socket.SHUT_WR)
    with backend.accept()[0] as server:
        got = b"".join(iter(lambda: server.recv(1000), b""))
    assert got == header + b"hello"


def test_who_is_idle_is_closed(meet: Meet, worker: Any, backend: socket.socket) -> None:
    worker.listen(idle_timeout=0.4)
    worker.serve(backend)
    idle, _ = meet()
    busy, other = meet()
    idle.setblocking(False)
    deadline = time.monotonic() + within(20)
    while True:
        busy.sendall(b"x")
        assert other.recv(1) == b"x"
        try:
            assert idle.recv(1) == b""
            break
        except BlockingIOError:
            assert time.monotonic() < deadline
    busy.sendall(b"y")
    assert other.recv(1) == b"y"


def test_when_a_backend_leaves(meet: Meet, worker: Any, backend: socket.socket) -> None:
    worker.listen()
    worker.serve(backend)
    client, server = meet()
    worker.serve()
    client.sendall(b"on")
    assert server.recv(2) == b"on"
    worker.configure(drain=0.3)
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


def test_a_stop_lets_connections_finish(meet: Meet, worker: Any, backend: socket.socket) -> None:
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


def test_a_stop_closes_idle_connections_in_order_and_lets_busy_ones_finish(
    meet: Meet, worker: Any, backend: socket.socket
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
            for sock in select.select(waiting, (), (), 0.1)[0]:
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
    meet: Meet, worker: Any, backend: socket.socket, stack: ExitStack
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


def test_a_stop_lets_nobody_wait_for_a_backend(worker: Any) -> None:
    """Point 13. Of a worker that is stopped nobody is told of a new backend."""
    worker.listen(hold=1000.0)
    client = worker.connect()
    client.sendall(b"hello")
    eventually_sync(lambda: worker.report()["holding"] == 1)
    wire.send(worker.channel, {"do": "stop", "grace": 120.0, "end_idle": True})
    assert is_reset(client)
    assert worker.process.wait(within(60)) == 0


def test_a_stop_has_an_end(meet: Meet, worker: Any, backend: socket.socket) -> None:
    worker.listen()
    worker.serve(backend)
    client, server = meet()
    worker.ask("stop", grace=0.1)
    assert is_reset(client)
    assert is_reset(server)
    assert worker.process.wait(within(20)) == 0


def test_without_a_control_plane_nothing_is_accepted_and_what_is_open_goes_on(
    meet: Meet, worker: Any, backend: socket.socket
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


def test_signals_of_the_terminal_are_not_its_business(meet: Meet, worker: Any, backend: socket.socket) -> None:
    worker.listen()
    worker.serve(backend)
    worker.process.send_signal(signal.SIGINT)
    worker.process.send_signal(signal.SIGHUP)
    meet()


def test_out_of_descriptors_nobody_fails_and_nothing_spins(start_worker: Any, backend: socket.socket) -> None:
    worker = start_worker(64)
    worker.listen()
    worker.serve(backend)
    clients = [worker.connect() for _ in range(60)]
    eventually_sync(lambda: worker.report()["connected"] >= 15)
    used = worker.ticks()
    time.sleep(0.5)  # the time in which it could spin
    assert worker.ticks() - used < 20
    for client in clients:
        with client, backend.accept()[0] as server:
            server.sendall(b"hello")
            assert client.recv(10) == b"hello"
    eventually_sync(lambda: worker.report()["open"] == 0)


def test_a_limit_that_is_lowered_below_what_is_open_is_a_pause(worker: Any, backend: socket.socket, meet: Meet) -> None:
    worker.listen()
    worker.serve(backend)
    pair = meet()
    worker.leave_descriptors(1)  # for a client, none for its backend
    client = worker.connect()
    eventually_sync(lambda: worker.report()["holding"] == 1)
    used = worker.ticks()
    time.sleep(0.5)  # the time in which it could spin
    assert worker.ticks() - used < 20
    for sock in pair:
        sock.close()
    with backend.accept()[0] as server:
        server.sendall(b"hello")
    assert client.recv(10) == b"hello"


def test_commands_that_are_wrong_are_answered(worker: Any) -> None:
    assert "error" in worker.ask("dance")
    assert "error" in worker.ask("listen", listeners={"web": {}})
    worker.listen()
    assert worker.ask("report")["listeners"]["web"]["open"] == 0


def test_a_listener_that_is_removed_keeps_its_connections_and_is_forgotten_after_them(
    meet: Meet, worker: Any, backend: socket.socket
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


def test_a_control_plane_that_does_not_read_holds_nobody_up(meet: Meet, worker: Any, backend: socket.socket) -> None:
    worker.listen(access_log=True)
    worker.serve(backend)
    worker.channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for _ in range(500):
        for sock in meet():
            sock.close()
    eventually_sync(lambda: worker.report()["open"] == 0)
    assert len(worker.events) + worker.ask("report")["dropped"] == 500
    assert {event["end"] for event in worker.events} == {"done"}


def test_a_daemon_that_does_not_keep_up_is_answered_all_the_same(worker: Any) -> None:
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
