"""`discovery wait` while the daemon restarts, when it is interrupted, and of a state that is there already."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import warm
from daemons import Daemon, RecordFiles, Starter

from discovery.testing import eventually_sync, within

pytestmark = pytest.mark.warm

PLUGIN = """
from discovery import Consumer, PluginConfig, hookimpl

class Follows(Consumer[PluginConfig]):
    def apply(self, update):
        pass

@hookimpl
def discovery_register_consumers(register):
    register("follows", Follows)
"""
Restart = Callable[[], Daemon]


@pytest.fixture
def start(tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles) -> Restart:
    """What starts the daemon, each time at the same address."""
    plugin = tmp_path / "follows.py"
    plugin.write_text(PLUGIN)
    first: list[Daemon] = []

    def start() -> Daemon:
        there = {"admin": first[0].admin, "run_dir": first[0].run_dir} if first else {}
        first.append(start_daemon("--registry", file_registry[0], "--plugin", str(plugin), **there))
        eventually_sync(first[-1].is_ready, timeout=60)
        return first[-1]

    return start


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Callable[..., warm.Forked]]:
    """What starts the command, and returns once it waits."""
    begun: list[warm.Forked] = []

    def waiting(daemon: Daemon, *arguments: str) -> warm.Forked:
        output = tmp_path / f"wait-{len(begun)}"
        line = ("wait", *arguments, "--admin", daemon.admin, "--config", "/dev/null")
        with output.open("wb") as file:
            command = warm.start(*line, env=os.environ, stdout=file, stderr=file)
        begun.append(command)

        def is_held() -> bool:
            held = daemon.clients()
            for _ in range(5):  # who asked to look once has been answered before
                assert daemon.get("/healthz")[0] == 200
            return bool(held & daemon.clients())

        eventually_sync(lambda: "waiting for 'web'" in output.read_text() and is_held(), timeout=60)
        assert command.poll() is None
        return command

    yield waiting
    for command in begun:
        command.kill()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_daemon_that_restarts_is_waited_for(
    how: signal.Signals, start: Restart, waiting: Callable[..., warm.Forked], file_registry: RecordFiles
) -> None:
    """As with the units of systemd, which end the daemon by SIGKILL when it is restarted."""
    daemon = start()
    command = waiting(daemon, "web", "--applied-by", "follows", "--timeout", "5m")
    daemon.stop(how)
    start()
    assert command.poll() is None
    file_registry[1]("web/a", "127.0.0.1:1001")
    assert command.wait(within(60)) == 0


def test_ctrl_c_ends_it(start: Restart, waiting: Callable[..., warm.Forked]) -> None:
    command = waiting(start(), "web", "--timeout", "5m")
    command.send_signal(signal.SIGINT)
    assert command.wait(within(20)) == 130


def test_a_state_that_is_there_is_told_at_once(start: Restart, file_registry: RecordFiles) -> None:
    file_registry[1]("web/a", "127.0.0.1:1001")
    daemon = start()

    def wait(*arguments: str) -> tuple[int, bool]:
        line = ("wait", "web", *arguments, "--json", "--admin", daemon.admin, "--config", "/dev/null")
        done = warm.run(*line, env=os.environ, timeout=within(60))
        return done.returncode, json.loads(done.stdout)["met"]

    assert wait("--timeout", "0") == (0, True)
    assert wait("--timeout", "0", "--applied-by", "follows", "--backends", "1", "--at-most", "1") == (0, True)
    assert wait("--revision", "1") == (0, True), "a revision of the past"
    assert wait("--revision", "999999999999999", "--timeout", "0") == (3, False), "a revision of the future"
