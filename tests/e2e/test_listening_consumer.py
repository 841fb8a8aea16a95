"""A consumer that listens: its figures, what it tells, inherited sockets, its own time to stop."""

import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from daemons import RecordFiles, Starter, catches
from echoing import ECHO, Talk, answering, ask

from discovery.testing import eventually_sync, free_port, within

pytestmark = pytest.mark.warm

UNDER_SYSTEMD = """
import os, socket, sys
listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
if listening.fileno() != 3:
    os.dup2(listening.fileno(), 3)
os.set_inheritable(3, True)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "echo"}
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Listens on a port, and becomes a command with that socket, as systemd does."""


@pytest.fixture
def start_echo(
    start_daemon: Starter, install_plugin: Callable[..., None], file_registry: RecordFiles
) -> Callable[..., Any]:
    install_plugin("echo", ECHO)

    def start(*arguments: str, **options: Any) -> Any:
        return start_daemon("--registry", file_registry[0], "--plugin", "echo", *arguments, **options)

    return start


def passing(port: int) -> list[str]:
    return [sys.executable, "-c", UNDER_SYSTEMD, str(port)]


def test_figures_and_what_it_tells_are_shown(start_echo: Callable[..., Any]) -> None:
    daemon = start_echo("--set", f"echo.port={(port := free_port())}")
    eventually_sync(daemon.is_ready)
    assert ask(port) == daemon.process.pid
    counted = f'discovery_echo_answers_total{{consumer="echo",port="{port}"}} 1.0'
    eventually_sync(lambda: counted in daemon.get("/metrics")[1])  # counted after the answer
    _, metrics = daemon.get("/metrics")
    assert 'discovery_echo_open{consumer="echo"} ' in metrics
    assert 'discovery_consumer_healthy{consumer="echo"} 1.0' in metrics
    assert "figure=not-a-name" in daemon.log
    status, told = daemon.get("/api/consumers/echo")
    assert status == 200
    assert (told["port"], told["plugin"], told["phase"]) == (port, "echo", "waiting")
    assert daemon.get("/api/consumers/ecco") == (404, {"error": "there is no consumer 'ecco'; there are: echo"})


@pytest.mark.parametrize(
    ("how", "status", "error"),
    [("slow=60", 504, "the consumer has not answered within 2 s"), ('broken="inspect"', 503, "ValueError: a bug")],
)
def test_a_consumer_that_does_not_tell_is_gone_on_without(
    start_echo: Callable[..., Any], how: str, status: int, error: str
) -> None:
    daemon = start_echo("--set", f"echo.port={free_port()}", "--set", f"echo.{how}")
    eventually_sync(daemon.is_ready)
    answered, told = daemon.get("/api/consumers/echo")
    assert (answered, told["error"], told["name"], told["healthy"]) == (status, error, "echo", True)
    assert daemon.stop() == 0


@pytest.mark.costly
def test_a_socket_of_systemd_is_taken(start_echo: Callable[..., Any]) -> None:
    daemon = start_echo("--set", f"echo.port={(port := free_port())}", under=passing(port))
    eventually_sync(daemon.is_ready)
    assert ask(port) == daemon.process.pid
    assert "inherited=True" in daemon.log


def test_a_socket_of_systemd_that_nobody_wants_is_closed_and_named(start_echo: Callable[..., Any]) -> None:
    unwanted = free_port()
    daemon = start_echo("--set", f"echo.port={(port := free_port())}", under=passing(unwanted))
    eventually_sync(lambda: "nobody listens on an inherited socket" in daemon.log)
    assert f"address=127.0.0.1:{unwanted}" in daemon.log
    eventually_sync(lambda: answering(port) == daemon.process.pid)
    with pytest.raises(ConnectionRefusedError):
        ask(unwanted)


def test_a_consumer_may_take_longer_to_stop_than_others(start_echo: Callable[..., Any]) -> None:
    daemon = start_echo("--set", f"echo.port={(port := free_port())}", "--set", "echo.stop=600")
    eventually_sync(daemon.is_ready)
    talk = Talk(port)
    assert talk.ask() == daemon.process.pid
    daemon.process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        daemon.process.wait(11)
    assert talk.ask() == daemon.process.pid
    talk.close()
    assert daemon.process.wait(within(10)) == 0
    assert "abandoned" not in daemon.log


def test_a_second_signal_ends_it_at_once_all_the_same(start_echo: Callable[..., Any]) -> None:
    daemon = start_echo("--set", f"echo.port={(port := free_port())}", "--set", "echo.stop=600")
    eventually_sync(daemon.is_ready)
    talk = Talk(port)
    talk.ask()
    daemon.process.terminate()
    eventually_sync(lambda: not catches(daemon.process.pid, signal.SIGTERM), "the next signal to be the second")
    daemon.process.terminate()
    assert daemon.process.wait(within(5)) == -signal.SIGTERM
    talk.close()
