"""One daemon takes over from another: no connection is refused, no record is absent, and who cannot is told."""

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from daemons import RecordFiles, Starter
from echoing import ECHO, Talk, answering, ask

from discovery.testing import cannot_run, eventually_sync, free_port, within

pytestmark = pytest.mark.warm


@pytest.fixture
def start_echo(
    start_daemon: Starter, install_plugin: Callable[..., None], file_registry: RecordFiles
) -> Callable[..., Any]:
    """Starts daemons of one run directory and one admin port."""
    install_plugin("echo", ECHO)
    admin = f"127.0.0.1:{free_port()}"

    def start(port: int, *arguments: str) -> Any:
        where = ("--registry", file_registry[0], "--plugin", "echo", "--set", f"echo.port={port}")
        return start_daemon(*where, *arguments, admin=admin, run_dir=start_daemon.directory / "run")

    return start


def is_up(daemon: Any, port: int) -> bool:
    return answering(port) == daemon.process.pid and daemon.is_ready()


@contextmanager
def clients(port: int, count: int = 4) -> Iterator[tuple[list[int], list[OSError]]]:
    """A connection per request, again and again: who answered, and what failed."""
    answers: list[int] = []
    failures: list[OSError] = []
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            try:
                answers.append(ask(port))
            except OSError as error:
                failures.append(error)
            stop.wait(0.005)  # leaves the processors to the daemons

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield answers, failures
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_no_connection_is_refused_over_many_hand_overs(start_echo: Callable[..., Any]) -> None:
    daemon = start_echo(port := free_port())
    eventually_sync(lambda: is_up(daemon, port))
    daemons = [daemon]
    with clients(port) as (answers, failures):
        for _ in range(5):
            daemons.append(daemon := start_echo(port, "--replace"))
            eventually_sync(lambda: is_up(daemon, port), timeout=30)
            assert daemons[-2].process.wait(within(30)) == 0
    assert failures == []
    assert set(answers) == {each.process.pid for each in daemons}


def test_connections_that_stand_come_to_their_end_with_the_predecessor(start_echo: Callable[..., Any]) -> None:
    first = start_echo(port := free_port(), "--set", "echo.stop=600")
    eventually_sync(lambda: is_up(first, port))
    talk = Talk(port)
    assert talk.ask() == first.process.pid
    second = start_echo(port, "--replace")
    eventually_sync(lambda: is_up(second, port))
    assert talk.ask() == first.process.pid
    assert first.process.poll() is None
    talk.close()
    assert first.process.wait(within(10)) == 0
    assert "inherited=True" in second.log


def test_without_a_daemon_it_simply_starts_also_where_one_died(start_echo: Callable[..., Any]) -> None:
    first = start_echo(port := free_port(), "--replace")
    eventually_sync(lambda: is_up(first, port))
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    assert (first.run_dir / "daemon.sock").is_socket()
    second = start_echo(port, "--replace")
    eventually_sync(lambda: is_up(second, port))
    assert "there is no daemon to replace" in second.log


def test_what_the_successor_does_not_want_is_closed_and_named(start_echo: Callable[..., Any]) -> None:
    first = start_echo(port := free_port())
    eventually_sync(lambda: is_up(first, port))
    second = start_echo(other := free_port(), "--replace")
    eventually_sync(lambda: is_up(second, other))
    eventually_sync(lambda: f"address=127.0.0.1:{port}" in second.log)
    assert first.process.wait(within(10)) == 0
    with pytest.raises(ConnectionRefusedError):
        ask(port)


@pytest.mark.parametrize("broken", ["hand_over", "hang"])
def test_a_consumer_that_does_not_hand_over_ends_before_its_successor_begins(
    start_echo: Callable[..., Any], broken: str
) -> None:
    first = start_echo(port := free_port(), "--set", f'echo.broken="{broken}"')
    eventually_sync(lambda: is_up(first, port))
    second = start_echo(port, "--replace")
    eventually_sync(lambda: is_up(second, port), timeout=40)
    assert first.process.wait(within(10)) == 0
    assert "nothing was handed over" in first.log
    assert "inherited=False" in second.log


def test_who_connects_waits_until_a_successor_can_serve(start_echo: Callable[..., Any]) -> None:
    first = start_echo(port := free_port())
    eventually_sync(lambda: is_up(first, port))
    second = start_echo(port, "--replace", "--set", 'echo.broken="setup"')
    eventually_sync(lambda: "setup failed" in second.log)
    talk = Talk(port)
    third = start_echo(port, "--replace")
    assert talk.ask() == third.process.pid
    talk.close()
    assert second.process.wait(within(20)) == 0
    assert "inherited=True" in third.log


def test_the_refusal_of_a_second_daemon_at_one_admin_address_mentions_replace(start_echo: Callable[..., Any]) -> None:
    """Point 17. The same command again: its admin address is taken, by the daemon that it could replace."""
    first = start_echo(port := free_port())
    eventually_sync(lambda: is_up(first, port))
    second = start_echo(port)
    assert second.process.wait(within(30)) == 2
    assert "the admin endpoint cannot listen on" in second.log
    assert f"take over from process {first.process.pid}, which runs on this run directory, with --replace" in second.log
    assert is_up(first, port)


def test_a_second_daemon_on_the_run_directory_can_run_but_not_be_replaced(
    start_echo: Callable[..., Any], start_daemon: Starter
) -> None:
    first = start_echo(port := free_port())
    eventually_sync(lambda: is_up(first, port))
    path = start_daemon.directory / "other.toml"
    path.write_text(f'[consumers.other]\nplugin = "echo"\nport = {(another := free_port())}\n')
    registry = ("--registry", f"file://{start_daemon.directory}/registry")
    other = start_daemon("--config", str(path), *registry, run_dir=first.run_dir)
    eventually_sync(lambda: is_up(other, another))
    assert "no other daemon can take over from this one reason=" in other.log
    assert other.stop() == 0
    second = start_echo(port, "--replace")
    eventually_sync(lambda: is_up(second, port))
    assert first.process.wait(within(20)) == 0


def test_a_predecessor_that_dies_over_it_is_replaced_all_the_same(start_echo: Callable[..., Any]) -> None:
    first = start_echo(port := free_port(), "--set", 'echo.broken="death"')
    eventually_sync(lambda: is_up(first, port))
    second = start_echo(port, "--replace")
    eventually_sync(lambda: is_up(second, port))
    assert first.process.wait(within(10)) == 7
    assert "went away" in second.log


def test_a_predecessor_that_does_not_answer_is_told_and_left_alone(start_echo: Callable[..., Any]) -> None:
    first = start_echo(port := free_port())
    eventually_sync(lambda: is_up(first, port))
    first.process.send_signal(signal.SIGSTOP)
    try:
        second = start_echo(port, "--replace")
        assert second.process.wait(within(30)) == 1
    finally:
        first.process.send_signal(signal.SIGCONT)
    assert f"process {first.process.pid}, the daemon at" in second.log
    assert "has not answered within 5 s; stop it first" in second.log
    assert "Traceback" not in second.log
    eventually_sync(lambda: is_up(first, port))
    assert "a process that cannot take over has asked to" in first.log


def test_an_invalid_successor_leaves_the_daemon_alone(start_echo: Callable[..., Any]) -> None:
    first = start_echo(port := free_port())
    eventually_sync(lambda: is_up(first, port))
    assert start_echo(port, "--replace", "--set", "echo.colour=1").process.wait(within(30)) == 2
    assert start_echo(port, "--replace", "--plugin", "no-such-plugin").process.wait(within(30)) == 2
    assert is_up(first, port)
    assert "handing over" not in first.log


def test_a_daemon_of_other_instances_is_not_replaced(start_echo: Callable[..., Any], start_daemon: Starter) -> None:
    first = start_echo(port := free_port())
    eventually_sync(lambda: is_up(first, port))
    path = start_daemon.directory / "other.toml"
    path.write_text(f'[consumers.other]\nplugin = "echo"\nport = {free_port()}\n')
    registry = ("--registry", f"file://{start_daemon.directory}/registry")
    other = start_daemon("--config", str(path), "--replace", *registry, run_dir=first.run_dir)
    assert other.process.wait(within(30)) == 1
    assert "it runs echo and none of yours" in other.log
    assert "Traceback" not in other.log
    assert is_up(first, port)


def test_of_two_successors_one_wins_and_the_other_is_told(start_echo: Callable[..., Any]) -> None:
    first = start_echo(port := free_port(), "--set", 'echo.broken="hang"')
    eventually_sync(lambda: is_up(first, port))
    second = start_echo(port, "--replace")
    eventually_sync(lambda: "handing over" in first.log)
    third = start_echo(port, "--replace")
    assert third.process.wait(within(30)) == 1
    assert f"process {second.process.pid} is taking over already" in third.log
    eventually_sync(lambda: is_up(second, port), timeout=40)


def test_a_successor_that_dies_leaves_an_error_behind(start_echo: Callable[..., Any]) -> None:
    first = start_echo(port := free_port(), "--set", 'echo.broken="hang"')
    eventually_sync(lambda: is_up(first, port))
    second = start_echo(port, "--replace")
    eventually_sync(lambda: "handing over" in first.log)
    second.process.kill()
    assert first.process.wait(within(40)) == 1
    assert "the successor has gone" in first.log


def test_strangers_at_the_socket_change_nothing(start_echo: Callable[..., Any]) -> None:
    first = start_echo(port := free_port())
    eventually_sync(lambda: is_up(first, port))
    path = first.run_dir / "daemon.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    for said in (
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"take_over": 1}',
        b'{"take_over": {"instances": ["echo"]}}',
        b"x" * 100_000,
    ):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
            stranger.settimeout(within(10))
            stranger.connect(str(path))
            if said:
                stranger.send(said)
                assert stranger.recv(1000) == b""
    assert is_up(first, port)


def test_another_user_is_not_handed_anything(start_echo: Callable[..., Any]) -> None:
    if os.geteuid() != 0:
        cannot_run("it takes root to be another user")
    first = start_echo(port := free_port())
    eventually_sync(lambda: is_up(first, port))
    path = first.run_dir / "daemon.sock"
    for each in (first.run_dir.parent, first.run_dir, path):  # so that nothing but the check is in the way
        each.chmod(0o777)
    asked = subprocess.run(
        ["python3", "-c", STRANGER, str(path)],
        user=65534,
        capture_output=True,
        text=True,
        timeout=within(30),
        check=True,
    )
    assert asked.stdout == "b''\n"
    assert "belongs to another user, 65534" in first.log
    assert is_up(first, port)


STRANGER = """
import socket, sys
channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
channel.connect(sys.argv[1])
try:
    channel.send(b'{"take_over": {"instances": {"echo": "echo"}}}')
    print(channel.recv(1000))
except ConnectionError:
    print(b"")  # it was not even read
"""
