"""What `make tutorial` says before it starts anything, and of a step that fails: one line, with the way out."""

import io
import os
import signal
import subprocess
from pathlib import Path
from threading import Event
from typing import Never, Self

import pytest
from docker.errors import APIError
from docker_lab import Lan, Machine
from tutorial import __main__ as command
from tutorial import requirements
from tutorial.machines import Member
from tutorial.outcomes import Cut, Request, judge, summarize
from tutorial.requirements import require_programs, require_writable
from tutorial.story import Options, Result, Story

from discovery.demo.processes import Interrupted, Stage, StepFailedError
from discovery.errors import ConfigError
from discovery.system.embedded import wheel_program
from discovery.testing import within

CUT = Cut(1.0, 1.1)
REQUESTS = (Request(0.5, 0.6, "a", ""), Request(1.5, 2.0, "spare", ""))
RESULT = Result(False, REQUESTS, (), CUT, summarize(REQUESTS, CUT), judge((), CUT), 0.0, 11.0)


@pytest.fixture(autouse=True)
def _ready(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let the command start, as on a machine that has everything."""
    monkeypatch.setattr(command, "require_root", lambda: None)
    monkeypatch.setattr(command, "require_programs", lambda **_: None)
    monkeypatch.chdir(tmp_path)


def run_instead(monkeypatch: pytest.MonkeyPatch, outcome: Result | BaseException) -> None:
    def run(_: Story) -> Result:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr(Story, "run", run)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            RuntimeError("dockerd ended: level=info msg=start\nno cgroups\n"),
            "dockerd ended: no cgroups: run it again",
        ),
        (APIError("no space left on device"), "Docker: no space left on device: run it again"),
        (subprocess.TimeoutExpired(["etcdctl", "get"], 30), "`etcdctl get` took more than 30 s: run it again"),
        (subprocess.CalledProcessError(1, ["ip", "netns"], b"", b"one\nrefused\n"), "`ip netns`: refused"),
        (subprocess.CalledProcessError(3, ["docker", "run"], "", ""), "`docker run`: exit status 3"),
        (StepFailedError("images failed: no tini"), "images failed: no tini"),
        (OSError(28, "No space left on device", "/tmp/x"), "[Errno 28] No space left on device: '/tmp/x'"),
    ],
)
def test_a_failed_step_is_told_in_one_line(
    error: Exception, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_instead(monkeypatch, error)
    assert command.main(["--no-picture"]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"tutorial: {line}")
    assert told.count("\n") == 1


def test_the_result_is_printed_although_the_picture_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run_instead(monkeypatch, RESULT)
    monkeypatch.setattr(command, "draw", lambda *_: (tmp_path / "gone/picture.png").write_bytes(b""))
    assert command.main([]) == 1
    told = capsys.readouterr()
    assert "longest hold" in told.out
    assert "gone/picture.png" in told.err


@pytest.mark.parametrize("option", ["--picture", "--images"])
@pytest.mark.parametrize(("file", "reason"), [("none/file", "no directory"), (".", "a directory;")])
def test_a_file_that_cannot_be_written_is_refused_before_the_start(
    option: str, file: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_instead(monkeypatch, AssertionError("started"))
    assert command.main([option, file]) == 1
    assert f"tutorial: {option} {file}: " in (told := capsys.readouterr().err)
    assert reason in told


def test_a_file_in_a_writable_directory_is_accepted(tmp_path: Path) -> None:
    require_writable(tmp_path / "picture.png", "--picture")


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf", "many"])
def test_a_rate_without_requests_is_refused(rate: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main([f"--rate={rate}"])
    assert ended.value.code == 2
    assert "--rate" in capsys.readouterr().err


def nothing(program: str) -> Never:
    raise ConfigError(f"no {program}")


def test_all_that_is_missing_is_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(requirements, "CERTIFICATES", tmp_path / "none")
    with pytest.raises(ConfigError) as refused:
        require_programs(images=True, find=nothing)
    packages = "docker.io containerd etcd-server etcd-client iproute2 iptables util-linux"
    packages += " tini apache2-bin haproxy ca-certificates"
    assert str(refused.value).endswith(f"`apt-get install --no-install-recommends {packages}`")
    with pytest.raises(ConfigError) as refused:
        require_programs(images=False, find=nothing)
    assert "tini" not in str(refused.value)


def test_the_haproxy_of_the_images_is_not_that_of_a_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "CERTIFICATES", Path(__file__))
    carried = wheel_program("haproxy")
    assert carried is not None
    require_programs(images=True, find=lambda program: Path("/usr/sbin", program))
    with pytest.raises(ConfigError, match="^haproxy not found"):
        require_programs(images=True, find=lambda name: carried if name == "haproxy" else Path("/usr/sbin", name))


class Answers:
    """Stands for the machines: etcd answers nothing, then without a leader, and then with one."""

    def __init__(self) -> None:
        self.left = [[], [Member("b", 2, 0)], [Member("b", 2, 1)]]

    def __getitem__(self, _: str) -> Self:
        return self

    def members(self, *_: str) -> list[Member]:
        return self.left.pop(0)


def test_etcd_is_asked_until_it_names_a_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story(Stage(), Options(True, 50.0, None), io.StringIO())
    monkeypatch.setattr(story, "_machines", Answers(), raising=False)
    assert story.leader_by("b") == 1


def test_an_interruption_does_not_wait_for_images_that_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engines end, and the loads with them."""
    may_end = Event()

    def load(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        may_end.wait(within(20))

    monkeypatch.setattr("tutorial.images.load", load)
    machine = Machine(Lan("10.0.0.1/24"), "a", "10.0.0.2")
    with Stage() as stage:
        story = Story(stage, Options(False, 50.0, None), io.StringIO())
        with pytest.raises(Interrupted):
            story.load(Path("images.tar"), [machine])
        may_end.set()


@pytest.mark.parametrize(("user", "prefix"), [("1000", "sudo env "), ("0", "env ")])
def test_make_sets_up_as_the_caller_and_runs_the_program_alone_as_root(
    user: str, prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Root would own files of the caller's environment, and bytecode of the checkout, otherwise."""
    (tmp_path / "id").write_text(f"#!/bin/sh\necho {user}\n")
    (tmp_path / "id").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for variable in ("MAKEFLAGS", "MAKELEVEL"):  # of a make that runs the tests
        monkeypatch.delenv(variable, raising=False)
    told = subprocess.check_output(["make", "--dry-run", "tutorial"], cwd=Path(__file__).parents[2], text=True)
    *setting_up, running = told.splitlines()
    assert running.startswith(f"{prefix}PYTHONPATH=deploy/tutorial PYTHONDONTWRITEBYTECODE=1 ")
    assert not any("sudo" in line for line in setting_up)
