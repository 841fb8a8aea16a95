"""A listener of a worker, by itself: what takes more than one connection, or more than one proxy, to go wrong."""

import socket
from contextlib import ExitStack, suppress

import pytest

from discovery.testing import within
from discovery_tcpproxy.worker.hold_queue import WAVE
from discovery_tcpproxy.worker.pool import LAST_RESORT_DELAY
from discovery_tcpproxy.worker.proxyproto import write
from discovery_tcpproxy.worker.stream import no_linger

from .listener_alone import SETTINGS, Alone, record


def test_a_held_client_takes_over_the_probe_of_a_client_that_leaves(silent: tuple[str, int]) -> None:
    alone = Alone(silent)
    proxy = alone.proxy
    backend = proxy.pool.select("", (), alone.loop.now)
    assert backend is not None
    proxy.pool.failed(backend, alone.loop.now - LAST_RESORT_DELAY)
    first, probing = alone.arrive()
    second, held = alone.arrive()
    with first, second:
        assert (proxy.state(probing), proxy.state(held)) == ("connecting", "held")
        no_linger(first.fileno())
        first.close()
        alone.run(lambda: proxy.state(held) == "connecting")
        assert probing.closed
        held.abort()


def test_an_attempt_at_a_backend_that_leaves_is_broken_off(silent: tuple[str, int], stack: ExitStack) -> None:
    """It would take the whole `connect_timeout`, if the backend died."""
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    alone = Alone(silent)
    client, connection = alone.arrive()
    stack.enter_context(client)
    stack.callback(connection.abort)
    assert alone.proxy.state(connection) == "connecting"
    alone.proxy.update([])
    assert alone.proxy.state(connection) == "held"
    alone.proxy.update([record(silent)])
    assert alone.proxy.state(connection) == "connecting"
    alone.proxy.update([record(server.getsockname())])
    alone.run(lambda: connection.open)


def test_a_client_whose_attempt_was_in_vain_keeps_its_place(silent: tuple[str, int], stack: ExitStack) -> None:
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    server.settimeout(within(10))
    alone = Alone(silent)
    proxy, clients = alone.proxy, []
    backend = proxy.pool.select("", (), alone.loop.now)
    assert backend is not None
    for number in range(3):
        clients.append(alone.arrive())
        client, connection = clients[-1]
        stack.enter_context(client).sendall(b"%d" % number)
        stack.callback(connection.abort)
        if not number:  # the others find the backend set aside
            proxy.pool.failed(backend, alone.loop.now)
        alone.loop.now += LAST_RESORT_DELAY / 10  # the next comes later
    assert [proxy.state(connection) for _, connection in clients] == ["connecting", "held", "held"]
    proxy.update([])
    proxy.update([record(server.getsockname())])
    alone.run(lambda: all(connection.client.received for _, connection in clients))
    for number in range(3):
        assert stack.enter_context(server.accept()[0]).recv(1) == b"%d" % number


@pytest.mark.parametrize("answers", [True, False])
def test_held_clients_come_to_a_backend_in_waves(stack: ExitStack, answers: bool) -> None:
    """All at once would overflow the queue of a backend's kernel, and those dropped would be served a second later."""
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=3 * WAVE))
    server.setblocking(False)
    alone = Alone(server.getsockname(), hold_connections=3 * WAVE)
    proxy = alone.proxy
    proxy.update([])
    clients = [alone.arrive() for _ in range(2 * WAVE + 1)]
    for client, connection in clients:
        stack.enter_context(client)
        stack.callback(connection.abort)
        assert proxy.state(connection) == "held"

    def is_open() -> bool:
        with suppress(BlockingIOError):
            while answers:
                stack.enter_context(server.accept()[0]).sendall(b"hello")
        return all(connection.open for _, connection in clients)

    proxy.update([record(server.getsockname())])
    assert [proxy.state(connection) for _, connection in clients] == ["connecting"] * WAVE + ["held"] * (WAVE + 1)
    alone.run(is_open)


def test_a_client_whose_time_ends_in_a_wave_is_served(stack: ExitStack) -> None:
    """Backends are there: only the clients before it keep it in the queue."""
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=3 * WAVE))
    alone = Alone(server.getsockname(), hold_connections=3 * WAVE)
    proxy = alone.proxy
    proxy.update([])
    clients = [alone.arrive() for _ in range(WAVE)]
    proxy.configure({**SETTINGS, "hold": 0.001, "hold_connections": 3 * WAVE})
    clients.append(alone.arrive())
    for client, connection in clients:
        stack.enter_context(client)
        stack.callback(connection.abort)
    proxy.update([record(server.getsockname())])
    _, last = clients[-1]
    assert proxy.state(last) == "held"
    alone.run(lambda: last.open or last.closed)
    assert last.open


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_both_addresses_of_a_received_proxy_header_are_passed_on(version: str) -> None:
    ends = ("192.0.2.1", 4000), ("2001:db8::1", 443)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(within(10))
        alone = Alone(server.getsockname(), accept_proxy=["127.0.0.1"], accept_proxy_timeout=10.0, send_proxy=version)
        client, connection = alone.arrive()
        with client:
            client.sendall(write("v2", *ends) + b"hello")
            alone.run(lambda: connection.client.received == 5)
            accepted, _ = server.accept()
            with accepted:
                accepted.settimeout(within(10))
                expected = write(version, *ends) + b"hello"
                assert accepted.recv(len(expected), socket.MSG_WAITALL) == expected
            connection.abort()
