"""The order in which the clients of a listener are dialled while many of them wait, and how many at once."""

import errno
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from discovery.testing import within
from discovery_tcpproxy.worker.hold_queue import WAVE

from .listener_alone import Alone, Arrived, record

MANY = 2 * WAVE + 1


@pytest.fixture
def server(stack: ExitStack) -> socket.socket:
    """A backend whose kernel has room for all."""
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4 * WAVE))
    server.settimeout(within(10))
    return server


def held(backend: tuple[str, int], stack: ExitStack, count: int, **other: object) -> tuple[Alone, list[Arrived]]:
    """A listener without backends, and clients that wait."""
    alone = Alone(backend, **{"hold_connections": 4 * WAVE, **other})
    alone.proxy.update([])
    return alone, [arrived(alone, stack, number) for number in range(count)]


def arrived(alone: Alone, stack: ExitStack, number: int) -> Arrived:
    """A client that has come, and sends its number."""
    client, connection = alone.arrive()
    stack.enter_context(client).sendall(b"%4d" % number)
    stack.callback(connection.abort)
    return client, connection


def states(alone: Alone, clients: list[Arrived]) -> list[str]:
    """The states of the connections."""
    return [alone.proxy.state(connection) for _, connection in clients]


def numbers(server: socket.socket, stack: ExitStack, count: int) -> Iterator[int]:
    """What the backend receives of the clients, in the order of its connections, which is that of the dials."""
    for _ in range(count):
        accepted = stack.enter_context(server.accept()[0])
        accepted.settimeout(within(10))
        yield int(accepted.recv(4, socket.MSG_WAITALL))


def test_clients_that_come_during_a_wave_overtake_nobody(server: socket.socket, stack: ExitStack) -> None:
    alone, clients = held(server.getsockname(), stack, MANY)
    alone.proxy.update([record(server.getsockname())])
    assert states(alone, clients) == ["connecting"] * WAVE + ["held"] * (WAVE + 1)
    clients += [arrived(alone, stack, MANY), arrived(alone, stack, MANY + 1)]
    # For each that came, the first of those that wait is dialled: nobody is dialled later than without the wave.
    assert states(alone, clients) == ["connecting"] * (WAVE + 2) + ["held"] * (WAVE + 1)
    alone.run(lambda: all(connection.client.received for _, connection in clients))
    assert list(numbers(server, stack, len(clients))) == list(range(len(clients)))


def test_clients_that_come_do_not_keep_others_waiting(server: socket.socket, stack: ExitStack) -> None:
    """Nobody waits for ever, and no more wait than before the first came."""
    alone, clients = held(server.getsockname(), stack, WAVE + 3)
    alone.proxy.update([record(server.getsockname())])
    for number in range(10):
        assert states(alone, clients).count("held") == 3
        clients.append(arrived(alone, stack, len(clients)))
        assert states(alone, clients) == ["connecting"] * (WAVE + number + 1) + ["held"] * 3


def test_clients_that_come_after_the_waves_are_dialled_at_once(server: socket.socket, stack: ExitStack) -> None:
    alone, _ = held(server.getsockname(), stack, WAVE + 1)
    alone.proxy.update([record(server.getsockname())])
    assert alone.proxy.holding == 1
    alone.run(lambda: not alone.proxy.holding)
    assert states(alone, [arrived(alone, stack, 9)]) == ["connecting"]


def test_a_client_that_comes_is_served_although_no_more_may_be_held(server: socket.socket, stack: ExitStack) -> None:
    alone, clients = held(server.getsockname(), stack, WAVE + 1, hold_connections=WAVE + 1)
    alone.proxy.update([record(server.getsockname())])
    clients.append(arrived(alone, stack, WAVE + 1))
    alone.run(lambda: all(connection.open for _, connection in clients))
    assert alone.proxy.counters.held == WAVE + 1


def test_a_client_that_comes_in_a_wave_may_close_its_side(server: socket.socket, stack: ExitStack) -> None:
    """It does not wait for a backend, and has not left."""
    alone, _ = held(server.getsockname(), stack, WAVE + 2)
    alone.proxy.update([record(server.getsockname())])
    client, connection = arrived(alone, stack, WAVE + 2)
    assert alone.proxy.state(connection) == "held"
    client.shutdown(socket.SHUT_WR)
    alone.run(lambda: connection.client.eof or connection.closed)
    assert connection.open
    assert connection.client.received == 4


def test_clients_are_held_if_the_backend_leaves_during_a_wave(server: socket.socket, stack: ExitStack) -> None:
    alone, clients = held(server.getsockname(), stack, WAVE + 1)
    alone.proxy.update([record(server.getsockname())])
    alone.proxy.update([])
    clients.append(arrived(alone, stack, WAVE + 1))
    assert set(states(alone, clients)) == {"held"}
    alone.proxy.update([record(server.getsockname())])
    alone.run(lambda: all(connection.client.received for _, connection in clients))


def test_attempts_at_a_backend_that_leaves_go_to_another_in_waves(
    silent: tuple[str, int], server: socket.socket, stack: ExitStack
) -> None:
    """All at once would overflow the queue of the other backend's kernel."""
    alone = Alone(silent)
    clients = [arrived(alone, stack, number) for number in range(MANY)]
    assert states(alone, clients) == ["connecting"] * MANY
    alone.proxy.update([record(server.getsockname())])
    assert states(alone, clients) == ["connecting"] * WAVE + ["held"] * (WAVE + 1)
    alone.run(lambda: all(connection.client.received for _, connection in clients))
    assert list(numbers(server, stack, MANY)) == list(range(MANY))
    assert not alone.proxy.counters.held, "none has waited for a backend"


def test_attempts_that_end_without_an_answer_go_to_another_in_waves(
    silent: tuple[str, int], server: socket.socket, stack: ExitStack
) -> None:
    alone = Alone(silent, connect_timeout=0.2)
    clients = [arrived(alone, stack, number) for number in range(MANY)]
    left = {**record(silent), "draining": True}  # its attempts go on
    alone.proxy.update([left, {**record(server.getsockname()), "id": "b"}])
    alone.run(lambda: all(connection.client.received for _, connection in clients))
    together = Counter(connection.dialled_at for _, connection in clients)
    assert max(together.values()) <= WAVE


def test_without_hold_attempts_go_to_another_at_once(
    silent: tuple[str, int], server: socket.socket, stack: ExitStack
) -> None:
    alone = Alone(silent, hold=0)
    clients = [arrived(alone, stack, number) for number in range(WAVE + 1)]
    alone.proxy.update([record(server.getsockname())])
    assert states(alone, clients) == ["connecting"] * (WAVE + 1)
    alone.run(lambda: all(connection.open for _, connection in clients))


@pytest.mark.parametrize("leaves", [True, False], ids=["it leaves", "it does not answer"])
def test_a_backend_that_cannot_be_watched_costs_one_client(
    silent: tuple[str, int], server: socket.socket, stack: ExitStack, *, leaves: bool
) -> None:
    """The limit fs.epoll.max_user_watches is that of a user, and not ours alone: the others have to be dialled."""
    alone = Alone(silent, hold=0, connect_timeout=60 if leaves else 0.2)
    clients = [arrived(alone, stack, number) for number in range(3)]
    full, usual = [OSError(errno.ENOSPC, "no room")], alone.loop.add

    def add(*arguments: Any) -> None:
        if full:
            raise full.pop()
        usual(*arguments)

    alone.loop.add = add  # type: ignore[method-assign]
    others = [] if leaves else [{**record(silent), "draining": True}]
    alone.proxy.update([*others, {**record(server.getsockname()), "id": "b"}])
    alone.run(lambda: all(connection.open or connection.closed for _, connection in clients))
    assert [connection.closed for _, connection in clients] == [True, False, False]
