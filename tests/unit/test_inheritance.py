"""Listening sockets from a predecessor or systemd: offered, taken, given back."""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from discovery import Consumer, Context, PluginConfig, Update
from discovery.consuming.inheritance import Inheritance, address_of
from discovery.consuming.runner import ConsumerInstance, ConsumerRunner
from discovery.hosting.isolation import Phase
from discovery.testing import eventually_sync, within


@pytest.fixture
def listening() -> Iterator[Callable[[], socket.socket]]:
    opened = []

    def make() -> socket.socket:
        opened.append(socket.create_server(("127.0.0.1", 0)))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def accepts(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=within(5)).close()
    except ConnectionRefusedError:
        return False
    return True


class Taking(Consumer[PluginConfig]):
    """Takes everything; fails as often as `failures` says."""

    failures: list[Exception]
    taken: list[socket.socket]

    async def setup(self) -> None:
        self.mine = [socket.socket(fileno=each.detach()) for each in self.context.inherited]
        if self.failures:
            raise self.failures.pop()
        self.taken.extend(self.mine)

    async def apply(self, update: Update) -> None:
        pass

    async def teardown(self) -> None:
        for each in self.mine:
            each.close()


def run(made: type[Consumer[Any]], run_dir: Path, inheritance: Inheritance) -> ConsumerRunner:
    runner = ConsumerRunner(
        ConsumerInstance("it", "test", made, PluginConfig()), run_dir, structlog.get_logger(), inheritance=inheritance
    )
    runner.start()
    return runner


def end(runner: ConsumerRunner) -> None:
    runner.stop()
    assert asyncio.run(runner.join(within(5)))


def test_an_offer_leaves_the_blocking_mode_which_a_predecessor_shares(listening: Callable[[], socket.socket]) -> None:
    theirs = listening()
    inheritance = Inheritance([socket.socket(fileno=os.dup(theirs.fileno()))])
    theirs.setblocking(False)
    inheritance.settle(inheritance.offer(), kept=False)
    assert not os.get_blocking(theirs.fileno())
    assert inheritance.close() != []


def test_what_a_consumer_takes_is_its_own(tmp_path: Path, listening: Callable[[], socket.socket]) -> None:
    address = (first := listening()).getsockname()
    inheritance = Inheritance([first])
    made = type("Made", (Taking,), {"failures": [], "taken": []})
    runner = run(made, tmp_path, inheritance)
    eventually_sync(lambda: runner.status.set_up)
    assert [each.getsockname() for each in made.taken] == [address]
    assert inheritance.close() == []
    assert accepts(address)
    end(runner)
    assert not accepts(address)


def test_a_setup_that_fails_loses_nothing(tmp_path: Path, listening: Callable[[], socket.socket]) -> None:
    address = (first := listening()).getsockname()
    made = type("Made", (Taking,), {"failures": [ValueError("once"), OSError("twice")], "taken": []})
    runner = run(made, tmp_path, Inheritance([first]))
    eventually_sync(lambda: runner.status.setup_tried)
    assert accepts(address)
    eventually_sync(lambda: runner.status.set_up)
    assert [each.getsockname() for each in made.taken] == [address]
    end(runner)


def test_a_plugin_that_cannot_even_be_made_loses_nothing(
    tmp_path: Path, listening: Callable[[], socket.socket]
) -> None:
    def broken(self: Taking, config: PluginConfig, context: Context) -> None:
        raise ValueError("a bug")

    inheritance = Inheritance([listening()])
    runner = run(type("Made", (Taking,), {"__init__": broken}), tmp_path, inheritance)
    eventually_sync(lambda: runner.status.phase is Phase.RETRYING)
    end(runner)
    assert len(inheritance.close()) == 1


def test_what_nobody_takes_is_closed_and_named(tmp_path: Path, listening: Callable[[], socket.socket]) -> None:
    class Picky(Taking):
        async def setup(self) -> None:
            self.mine = []

    host, port = (first := listening()).getsockname()
    inheritance = Inheritance([first])
    runner = run(Picky, tmp_path, inheritance)
    eventually_sync(lambda: runner.status.set_up)
    assert accepts((host, port))
    assert inheritance.close() == [f"{host}:{port}"]
    assert not accepts((host, port))
    assert inheritance.close() == []
    end(runner)


def test_one_socket_that_comes_twice_is_one(listening: Callable[[], socket.socket]) -> None:
    inheritance = Inheritance([first := listening(), first.dup(), listening()])
    assert len(inheritance.take()) == 2


def test_addresses_are_told_as_a_person_writes_them(tmp_path: Path) -> None:
    path = os.fspath(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as unix, socket.socket(socket.AF_INET6) as six, socket.socket() as four:
        unix.bind(path)
        six.bind(("::1", 0))
        four.bind(("127.0.0.1", 0))
        assert address_of(unix) == f"unix:{path}"
        assert address_of(six) == f"[::1]:{six.getsockname()[1]}"
        assert address_of(four) == f"127.0.0.1:{four.getsockname()[1]}"
    with socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0name")
        assert address_of(abstract) == "unix:@name"
