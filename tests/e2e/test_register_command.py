"""`discovery register ... -- COMMAND`: the life of the command, its registration, signals and exit status."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from registering import DISCOVERY, Start, start

from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually_sync, free_port, require_program, within

__all__ = ["start"]

pytestmark = pytest.mark.warm


PASSED_ON = ("HUP", "USR1", "USR2", "WINCH", "QUIT")


def test_it_is_registered_once_it_listens_and_withdrawn_before_it_is_stopped(start: Start) -> None:
    run = start("--ttl", "60", under=("env",))  # and so not forked from a process whose libraries have set variables
    run.says("started")  # with no variable of ours, and no signal blocked
    eventually_sync(lambda: "check failing" in run.log, timeout=30)
    assert run.records == []
    run.listen()
    run.registered()
    run.send(signal.SIGTERM)
    assert run.ends() == 7
    assert run.said == ["started", "listening", "end SIGTERM"]
    assert run.records == []


@pytest.mark.parametrize("option", ["WINCH", "SIGQUIT"])
def test_other_signals_are_passed_on_as_they_are_and_one_may_be_named_to_stop_it(start: Start, option: str) -> None:
    run = start("--stop-signal", option, "--drain", "0")
    run.listen()
    run.registered()
    stop = option.removeprefix("SIG")
    for name in PASSED_ON:
        if name != stop:
            run.send(signal.Signals[f"SIG{name}"])
            run.says(f"got SIG{name}")
    assert run.records
    run.send(signal.Signals[f"SIG{stop}"])
    run.says(f"got SIG{stop}")
    assert run.records == []
    assert run.process.poll() is None
    run.send(signal.SIGINT)
    assert run.ends() == 7
    assert run.said[-1] == "end SIGINT"


@pytest.mark.parametrize(
    ("command", "code", "line"),
    [
        (("sh", "-c", "exit 5"), 5, ""),
        (("true",), 0, ""),
        (("sh", "-c", "kill -9 $$"), 137, ""),
        (("sh", "-c", "kill -TERM $$"), 143, ""),
        (("no-such-program", "--help"), 127, "discovery: no-such-program: not found\n"),
        (("/etc/passwd",), 126, "discovery: /etc/passwd: Permission denied\n"),
        (("/",), 126, "discovery: /: Permission denied\n"),
    ],
)
def test_it_exits_as_the_command_does(start: Start, command: tuple[str, ...], code: int, line: str) -> None:
    run = start("--check", "none", command=command)
    assert run.ends() == code
    assert run.said == []
    assert run.records == []
    if line:
        assert run.log == line


def test_the_registration_goes_with_the_command(start: Start) -> None:
    run = start("--ttl", "600")
    run.listen()
    run.registered()
    (child,) = run.children()
    os.kill(child, signal.SIGKILL)
    assert run.ends() == 137
    assert run.records == []


def test_a_command_that_no_longer_listens_is_withdrawn_and_comes_back(start: Start, tmp_path: Path) -> None:
    run = start("--check-interval", "0.1", "--ttl", "600")
    run.listen()
    run.registered()
    (tmp_path / "listen").unlink()
    eventually_sync(lambda: run.records == [], timeout=30)
    run.listen()
    run.registered()
    assert run.process.poll() is None


def test_an_http_check_asks_for_its_path_where_it_is_told_to(start: Start, tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.mkdir()
    port = free_port()
    web = (sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(served))
    run = start("--check-path", "/health", "--check-address", f"127.0.0.1:{port}", command=web)
    # As the server logs it: the check may have failed before the server listened, and only its first reason is logged.
    eventually_sync(lambda: '"GET /health HTTP/1.1" 404' in run.log, timeout=30)
    assert run.records == []
    (served / "health").touch()
    run.registered()


@pytest.mark.costly
def test_the_registry_never_stops_the_command(start: Start) -> None:
    require_program("etcd")
    etcd = EmbeddedEtcd()
    run = start(registry=etcd.url)
    run.listen()
    eventually_sync(lambda: "trying again" in run.log, timeout=30)
    try:
        etcd.start()
        key = f"/services/web/127.0.0.1:{run.port}"
        eventually_sync(lambda: key in etcd.ctl("get", "", "--prefix", "--keys-only"), timeout=30)
        etcd.kill()
        run.send(signal.SIGTERM)
        assert run.ends() == 7
    finally:
        etcd.stop()


def test_two_signals_at_once_are_one_request_and_a_later_one_does_not_wait(start: Start) -> None:
    run = start("--drain", "600")
    run.listen()
    run.registered()
    run.send(signal.SIGTERM, signal.SIGINT)
    eventually_sync(lambda: run.records == [], timeout=30)
    assert run.process.poll() is None
    assert not any(line.startswith("end") for line in run.said)
    deadline = time.monotonic() + within(30)
    while run.process.poll() is None and time.monotonic() < deadline:
        run.send(signal.SIGTERM)
        time.sleep(0.1)
    assert run.ends() == 7
    assert run.said[-1] == "end SIGTERM"


def test_what_is_ignored_stays_ignored(start: Start) -> None:
    """As nohup starts it."""
    run = start("--check", "none", prepare=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    run.says("started")
    run.registered()
    run.send(signal.SIGHUP)
    run.send(signal.SIGUSR1)
    run.says("got SIGUSR1")
    assert "got SIGHUP" not in run.said
    run.send(signal.SIGTERM)
    assert run.ends() == 7


def test_what_a_shell_ignores_for_a_job_in_the_background_is_not_ignored(start: Start) -> None:
    """Point 31. Neither by it nor by its command."""

    def prepare() -> None:
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2})

    status = "grep -E '^Sig(Blk|Ign)' /proc/self/status; exec sleep 600"
    run = start("--check", "none", prepare=prepare, command=("sh", "-c", status))
    run.registered()
    eventually_sync(lambda: len(run.said) == 2)
    standard = 2**31 - 1
    assert [int(line.split()[1], 16) & standard for line in run.said] == [0, 0]
    run.send(signal.SIGINT)
    assert run.ends() == 128 + signal.SIGINT
    assert run.records == []


def test_it_sees_the_end_of_its_command_where_whoever_started_it_ignores_the_end_of_children(start: Start) -> None:
    run = start(command=("sh", "-c", "exit 5"), prepare=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
    assert run.ends() == 5
    assert run.records == []


def test_a_killed_one_leaves_the_command_running(start: Start) -> None:
    run = start()
    run.listen()
    run.registered()
    (child,) = run.children()
    run.process.kill()
    assert run.ends() == -signal.SIGKILL
    os.kill(child, signal.SIGTERM)
    eventually_sync(lambda: any(line.startswith("end SIGTERM") for line in run.said))


def test_orphans_that_become_its_children_are_buried(start: Start, tmp_path: Path) -> None:
    """As they do in a container whose first process it is."""
    subreaper = 36
    script = f"(sh -c 'sleep 0.2; touch {tmp_path}/done' &); exec sleep 600"
    prctl = ctypes.CDLL(None).prctl
    run = start(command=("sh", "-c", script), prepare=lambda: prctl(subreaper, 1, 0, 0, 0))
    eventually_sync((tmp_path / "done").exists, timeout=30)
    eventually_sync(lambda: len(run.children()) == 1, timeout=10)
    run.send(signal.SIGTERM)
    assert run.ends() == 143


def test_without_a_command_a_check_holds_it_back(tmp_path: Path) -> None:
    port = free_port()
    registry = tmp_path / "registry"
    registry.mkdir()
    command = [*DISCOVERY, "register", "web", f"127.0.0.1:{port}", "--check", "tcp"]
    command += ["--registry", f"file://{registry}", "--run-dir", str(tmp_path / "run"), "--timeout", "10"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        told = process.stderr.readline()
        assert told.startswith(f"discovery: web/127.0.0.1:{port} is registered once its check passes: ")
        assert "refused" in told
        with socket.create_server(("127.0.0.1", port)):
            assert process.stdout.readline().startswith("registered ")
        process.terminate()
        assert process.wait(within(30)) == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--"], "name the command to run after --"),
        (["--check", "none", "--check-path", "/x", "--", "true"], "--check tcp or --check http"),
        (["--check", "tcp", "--check-path", "/x", "--", "true"], "--check-path is for --check http"),
        (["--check-path", "x", "--", "true"], "--check-path 'x'"),
        (["--check", "http", "--check-address", "x", "--", "true"], "'x' is not HOST:PORT"),
        (["--stop-signal", "KILL", "--", "true"], "--stop-signal 'KILL' is not one of TERM, INT"),
        (["--registry", "nonsense", "--", "true"], "'nonsense' is not a URL"),
        (["--registry", "nonsense://x", "--", "true"], "'nonsense' is not known"),
        (["true"], "(true)"),
    ],
)
def test_a_wrong_argument_is_a_usage_error_and_nothing_is_started(
    arguments: list[str], reason: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from discovery.cli import main

    monkeypatch.setenv("DISCOVERY_REGISTRY", "memory://")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert main(["register", "web", "127.0.0.1:1", *arguments]) == 2
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert reason in err
