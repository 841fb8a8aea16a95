"""Daemons that replace each other under load: no client is refused or reset, and one daemon runs everything."""

import random
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from ambassadors import TIMEOUT, Directory, connect
from daemons import Daemon, Starter, processes, run_stop
from proxies import Load, Serve
from sampling import sampled

from discovery.testing import eventually_sync, free_port, within

from .serving import echoes, have_ended

pytestmark = pytest.mark.warm

INSTANCES = ("edge", "tcp")
GRACE = 600
"""Seconds that open connections have when a daemon is replaced: a test, not the time, ends each connection."""


class Line:
    """Daemons of one configuration with two proxies, one run directory and one admin port, in the order of starts."""

    def __init__(self, start: Starter, directory: Directory) -> None:
        self.ports = [free_port() for _ in INSTANCES]
        self.run_dir = start.directory / "run"
        self.daemons: list[Daemon] = []
        self.registry = directory.root
        self._start = start
        self._admin = f"127.0.0.1:{free_port()}"
        for workers in (1, 2):
            text = f'registry.url = "{directory.url}"\n'
            for name, port in zip(INSTANCES, self.ports, strict=True):
                text += f'[consumers.{name}]\nplugin = "tcpproxy"\n'
                text += f'workers = {workers}\ngrace = {GRACE}\nlisten.web = "127.0.0.1:{port}"\n'
            self._config(workers).write_text(text)

    def _config(self, workers: int) -> Path:
        return self._start.directory / f"{workers}.toml"

    def begin(self, *arguments: str, workers: int = 2) -> Daemon:
        """Start one more daemon, with the configuration of so many workers, 1 or 2."""
        config = ("--config", str(self._config(workers)))
        daemon = self._start(*config, *arguments, admin=self._admin, run_dir=self.run_dir)
        self.daemons.append(daemon)
        return daemon

    @property
    def alive(self) -> list[Daemon]:
        """The daemons that run."""
        return [each for each in self.daemons if each.process.poll() is None]

    def is_led_by_one(self) -> bool:
        """Return True if one daemon is left, and runs everything."""
        if len(self.alive) != 1:
            return False
        (daemon,) = self.alive
        pid = daemon.process.pid
        locks = [self.run_dir / "daemon.sock.lock", *(self.run_dir / name / "lock" for name in INSTANCES)]
        return all(each.exists() and each.read_text() == f"{pid}\n" for each in locks) and daemon.is_ready()

    def stop(self, *arguments: str) -> tuple[int, str, str]:
        """Run `discovery stop` for the run directory; return the exit code, stdout and stderr."""
        return run_stop(self.run_dir, *arguments)


@pytest.fixture
def line(directory: Directory, start_daemon: Starter, named: Serve) -> Line:
    """A line of daemons whose proxies have one living backend."""
    directory.put("web", named("one").port)
    return Line(start_daemon, directory)


def under_load(line: Line, act: Callable[[], None]) -> list[str]:
    """Do something while clients connect to every port; return what failed."""
    loads = [Load(port, 2) for port in line.ports]
    with ExitStack() as stack:
        for load in loads:
            stack.enter_context(load.running())
        act()
    return [failure for load in loads for failure in load.failed]


def started(line: Line) -> Daemon:
    """Start the first daemon of the line, and wait until it is ready."""
    first = line.begin()
    eventually_sync(first.is_ready, "the daemon to be ready", TIMEOUT)
    return first


@pytest.mark.parametrize("pause", sampled([0.1, 0.2, 0.4]))
def test_a_daemon_that_is_replaced_while_it_starts_loses_no_connection(line: Line, pause: float) -> None:
    started(line)

    def act() -> None:
        for _ in range(4):
            line.begin("--replace")
            time.sleep(pause)  # how far a daemon has come is the case, not a condition
        eventually_sync(line.is_led_by_one, "one daemon to run everything", TIMEOUT)

    assert under_load(line, act) == []


def test_a_single_successor_wins_and_the_other_successors_report_the_reason(line: Line) -> None:
    first = started(line)

    def act() -> None:
        for _ in range(3):
            line.begin("--replace")
        eventually_sync(line.is_led_by_one, "one daemon to run everything", TIMEOUT)

    assert under_load(line, act) == []
    assert first.process.wait(within(TIMEOUT)) == 0
    for each in line.daemons[1:]:
        assert "nobody listens on an inherited socket" not in each.log
        assert "there is no daemon to replace" not in each.log
        assert "cannot listen" not in each.log
        assert "cannot start" not in each.log
        if each.process.poll() == 1:
            assert "is taking over already" in each.log


@pytest.mark.costly
def test_stop_ends_a_predecessor_that_has_connections_left(line: Line) -> None:
    first = started(line)
    with connect(line.ports[0]) as client:
        assert client.recv(4) == b"one\n"
        left = {each["pid"] for each in first.get("/api/consumers/edge")[1]["workers"]}
        second = line.begin("--replace")
        eventually_sync(lambda: "listening" in second.log and second.is_ready(), "the successor", TIMEOUT)
        assert first.process.poll() is None
        assert echoes(client)
        code, out, error = line.stop()
        assert code == 0, error
        assert all(each.startswith("discovery: ") for each in error.splitlines()), error
        assert f"process {first.process.pid}" in out
        assert f"stopped daemon, process {second.process.pid} (edge, tcp)" in out
        assert first.process.wait(within(TIMEOUT)) == 0
        assert have_ended(left)
        assert client.recv(1) == b""
    assert line.stop() == (0, "", f"discovery: nothing runs on {line.run_dir}\n")
    assert processes(line.run_dir) == {}


@pytest.mark.costly
def test_stop_names_a_predecessor_that_does_not_end(line: Line) -> None:
    first = started(line)
    with connect(line.ports[0]) as client:
        assert client.recv(4) == b"one\n"
        second = line.begin("--replace")
        eventually_sync(lambda: "listening" in second.log and second.is_ready(), "the successor", TIMEOUT)
        first.process.send_signal(signal.SIGSTOP)
        timeout = within(5)  # for the successor, which ends in order
        try:
            code, out, error = line.stop("--timeout", f"{timeout:g}")
            again = line.stop("--timeout", "0.2")
        finally:
            first.process.send_signal(signal.SIGCONT)
        assert (code, out) == (1, f"stopped daemon, process {second.process.pid} (edge, tcp)\n")
        assert f"discovery: process {first.process.pid} has not ended within {timeout:g} s" in error
        assert "discovery: workers of the TCP proxy have a daemon that still runs, and go on: process" in error
        assert again[0] == 1
        assert f"process {first.process.pid} has not ended" in again[2]


def signalled_during_a_hand_over(line: Line, number: signal.Signals) -> Daemon:
    """Return the predecessor, signalled while a successor takes over; no connection of the load has failed."""
    first = started(line)

    def act() -> None:
        second = line.begin("--replace")
        eventually_sync(lambda: "taking over" in second.log, "the hand-over to begin", TIMEOUT)
        first.process.send_signal(number)
        eventually_sync(line.is_led_by_one, "one daemon to run everything", TIMEOUT)

    assert under_load(line, act) == []
    return first


def test_a_signal_during_a_hand_over_stops_the_predecessor_once_the_successor_serves(line: Line) -> None:
    """A supervisor that stops the old process must not take the address from the new one."""
    first = signalled_during_a_hand_over(line, signal.SIGTERM)
    assert first.process.wait(within(TIMEOUT)) == 0


def test_a_predecessor_that_is_killed_during_a_hand_over_leaves_its_clients_to_the_successor(line: Line) -> None:
    signalled_during_a_hand_over(line, signal.SIGKILL)


def test_a_successor_that_ends_while_waiting_changes_nothing(line: Line) -> None:
    """The daemon starts without a registry, so that it holds its successor off."""
    away = line.registry.rename(line.registry.with_name("away"))
    first = line.begin()
    eventually_sync(lambda: first.log.count(" listening ") == len(INSTANCES), "the daemon to listen", TIMEOUT)
    second = line.begin("--replace")
    eventually_sync(lambda: "taking over" in second.log, "the successor to ask", TIMEOUT)
    second.process.send_signal(signal.SIGKILL)
    eventually_sync(lambda: "left before it was handed anything" in first.log, timeout=TIMEOUT)
    away.rename(line.registry)
    eventually_sync(line.is_led_by_one, "one daemon to run everything", TIMEOUT)
    assert line.alive == [first]


@pytest.mark.parametrize("pause", sampled([0.0, 0.2, 0.4]))
def test_stop_during_a_hand_over_leaves_no_process(line: Line, pause: float) -> None:
    started(line)
    second = line.begin("--replace")
    eventually_sync(lambda: "taking over" in second.log, "the hand-over to begin", TIMEOUT)
    time.sleep(pause)  # how far the hand-over has come is the case, not a condition
    code, out, error = line.stop()
    assert code == 0, error
    assert "stopped daemon" in out
    assert all(each.startswith("discovery: ") for each in error.splitlines()), error
    assert line.alive == []
    assert processes(line.run_dir) == {}


class Chance:
    """Steps by chance, each with the daemons that a person or a supervisor might start, signal or kill."""

    def __init__(self, line: Line, seed: int) -> None:
        self._line = line
        self._chance = random.Random(seed)
        self._steps = (
            self._replace,
            self._replace_at_once,
            self._kill_successor,
            self._kill_predecessor,
            self._terminate_predecessor,
            self._reload_and_replace,
            self._start_beside,
        )

    def step(self) -> str:
        """Do one step, and return its name."""
        step = self._chance.choice(self._steps)
        step()
        return step.__name__

    def _pause(self, most: float = 0.8) -> None:
        time.sleep(self._chance.uniform(0, most))

    def _replace(self) -> None:
        for _ in range(self._chance.randint(1, 4)):
            self._line.begin("--replace")
            self._pause()

    def _replace_at_once(self) -> None:
        for _ in range(self._chance.randint(2, 4)):
            self._line.begin("--replace", workers=self._chance.choice((1, 2)))

    def _kill_successor(self) -> None:
        successor = self._line.begin("--replace")
        self._pause()
        successor.process.send_signal(signal.SIGKILL)

    def _kill_predecessor(self) -> None:
        predecessor = self._line.alive[-1]
        successor = self._line.begin("--replace")
        eventually_sync(lambda: "taking over" in successor.log, "the hand-over to begin", TIMEOUT)
        self._pause(0.2)
        predecessor.process.send_signal(signal.SIGKILL)

    def _terminate_predecessor(self) -> None:
        predecessor = self._line.alive[-1]
        successor = self._line.begin("--replace")
        eventually_sync(lambda: "taking over" in successor.log, "the hand-over to begin", TIMEOUT)
        self._pause(0.2)
        predecessor.process.send_signal(signal.SIGTERM)

    def _reload_and_replace(self) -> None:
        self._line.alive[-1].process.send_signal(signal.SIGHUP)
        self._pause(0.2)
        self._line.begin("--replace")

    def _start_beside(self) -> None:
        self._line.begin("--replace")
        self._pause(0.3)
        self._line.begin()


@pytest.mark.costly
@pytest.mark.parametrize(
    ("seed", "steps"), [(1, 3), *(pytest.param(seed, 8, marks=pytest.mark.exhaustive) for seed in range(2, 12))]
)
def test_random_starts_and_ends_leave_at_most_one_daemon_and_lose_no_client(line: Line, seed: int, steps: int) -> None:
    started(line)
    chance = Chance(line, seed)
    for _ in range(steps):
        done: list[str] = []
        ended: list[int] = []

        def act(done: list[str] = done, ended: list[int] = ended) -> None:
            done.append(chance.step())
            eventually_sync(lambda: not line.alive or line.is_led_by_one(), "one daemon or none", TIMEOUT)
            if not line.alive:  # clients were refused, of which none is told
                ended.append(started(line).process.pid)

        failed = under_load(line, act)
        assert failed == [] or ended, done
    assert line.stop()[0] == 0
    assert processes(line.run_dir) == {}
