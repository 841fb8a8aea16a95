"""Point 17: what is awkward on a command line, as its users meet it."""

import errno
import fcntl
import json
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sampling import sampled

from discovery.cli import main
from discovery.testing import eventually_sync, within

from .conftest import Command, Start, World

DISCOVERY = [sys.executable, "-m", "discovery"]


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs `discovery` in this process, where no variable sets anything; returns its exit code, stdout and stderr."""
    for name in [name for name in os.environ if name.startswith("DISCOVERY_")]:
        monkeypatch.delenv(name)

    def run(*arguments: str) -> tuple[int, str, str]:
        return (main(arguments), *capfd.readouterr())

    return run


def on_a_terminal(columns: int, *arguments: str, **variables: str) -> str:
    """What a command prints on a terminal of so many columns."""
    ours = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR", "LINES")}
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [*DISCOVERY, *arguments], stdin=slave, stdout=slave, stderr=slave, env=ours | {"TERM": "xterm"} | variables
    )
    os.close(slave)
    printed = b""
    while True:
        try:
            read = os.read(master, 65536)
        except OSError as error:
            if error.errno != errno.EIO:  # the last that had it open has gone
                raise
            read = b""
        if not read:
            break
        printed += read
    os.close(master)
    assert process.wait(within(100)) == 0
    return printed.decode().replace("\r\n", "\n")


def test_version_and_help_are_commands(run: Run) -> None:
    assert run("version") == run("--version")
    assert run("version")[1].startswith("discovery-framework 0.")
    assert run("help") == run("--help")
    for names in (["register"], ["config", "check"], ["ambassador"]):
        code, out, err = run("help", *names)
        assert (code, err) == (0, "")
        assert out == run(*names, "--help")[1]
    for names, reason in ((["nonsense"], "'nonsense'"), (["watch", "x"], "`discovery watch` has no command 'x'")):
        code, out, err = run("help", *names)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert reason in err


@pytest.mark.costly
def test_help_describes_the_commands_of_plugins_in_a_sentence(run: Run) -> None:
    words = " ".join(run("--help")[1].split())
    for sentence in (
        (
            "ambassador Listen on a fixed port, and forward TCP connections to the backends that the registry has at"
            " the moment."
        ),
        "forward Listen on a fixed address, and forward TCP connections to fixed targets, without any registry.",
        "connections List the open connections of a daemon.",
        "register-container Register a container's port for as long as the container runs.",
        "deregister Remove a record that was left in the registry.",
    ):
        assert sentence in words
    assert "..." not in words.partition("Commands:")[2]


def test_json_stands_before_or_after_the_command(run: Run, file_world: World) -> None:
    file_world.put("web/b1", "10.0.0.1:80")
    registry = ("--registry", file_world.url)
    before = run("--json", "services", *registry)
    assert json.loads(before[1])["services"]["web"]
    assert before == run("services", "--json", *registry)
    assert json.loads(run("--json", "config", "check", os.devnull)[1])["file"] == os.devnull
    assert json.loads(run("--json", "plugins")[1])
    code, out, err = run("--json", "demo")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--json: the command 'demo' prints no JSON" in err


@pytest.mark.parametrize("command", [["register", "web", "127.0.0.1:1"], ["watch"]])
def test_the_log_is_set_before_or_after_the_command(start: Start, file_world: World, command: list[str]) -> None:
    options = ["--log-level", "debug", "--log-format", "json", "--debug"]
    registry = ["--registry", file_world.url]
    for arguments in ([*options, *command, *registry], [*command, *options, *registry]):
        running = start(*arguments)
        assert running.line()
        assert running.stop() == 0


def test_a_wrong_log_level_after_the_command_is_a_usage_error(run: Run) -> None:
    code, _, err = run("watch", "--log-level", "loud")
    assert (code, err.count("\n")) == (2, 1)
    assert "--log-level" in err


def test_the_log_level_after_a_plugins_command_counts(start: Start, file_world: World, tmp_path: Path) -> None:
    arguments = ["forward", "127.0.0.1:9", "--listen", f"unix:{tmp_path}/s", "--log-format", "json"]
    running = start(*arguments, "--log-level", "info")
    eventually_sync(lambda: '"event": "listening"' in running.stderr, timeout=60)
    assert running.stop() == 0
    quiet = start(*arguments, "--log-level", "error")
    eventually_sync((tmp_path / "s").exists, timeout=60)
    assert quiet.stop() == 0
    assert quiet.stderr == ""


def test_ctrl_c_on_a_register_that_never_registered_is_no_success(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"etcd://127.0.0.1:{silent.getsockname()[1]}"
        for number in (signal.SIGINT, signal.SIGTERM):
            waiting = start("register", "web", "127.0.0.1:1", "--timeout", "100", "--registry", url)
            eventually_sync(lambda waiting=waiting: "waiting for" in waiting.stderr, timeout=60)
            assert waiting.stop(number) == 128 + number


@pytest.mark.parametrize(
    "command",
    sampled(
        [
            ["services"],
            ["watch"],
            ["register", "web", "127.0.0.1:1"],
            ["deregister", "web", "b1"],
            ["run", "--dry-run", "--plugin", "tcpproxy", "--set", "tcpproxy.listen.web=127.0.0.1:1"],
        ],
        2,
    ),
)
def test_what_is_waited_for_is_told(start: Start, command: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"etcd://127.0.0.1:{silent.getsockname()[1]}"
        waiting = start(*command, "--registry", url)
        eventually_sync(lambda: f"discovery: waiting for {url}" in waiting.stderr, timeout=60)
        waiting.stop(signal.SIGKILL)


@pytest.mark.costly
def test_tables_can_be_read_at_40_columns(file_world: World) -> None:
    labels = {"host": "10.0.0.1", "port": 8080, "zone": "north-west-4", "version": "2026.11.28-rc1"}
    file_world.put("web/a-rather-long-name-of-a-backend", json.dumps(labels))
    file_world.put("web/b2", "10.0.0.2:80")
    narrow = on_a_terminal(40, "services", "--registry", file_world.url)
    lines = [line.rstrip() for line in narrow.splitlines()]
    assert max(map(len, lines)) <= 40
    assert lines[:3] == ["SERVICE  web", "ID       a-rather-long-name-of-a-backend", "ADDRESS  10.0.0.1:8080"]
    assert "LABELS   version=2026.11.28-rc1" in lines
    assert "         zone=north-west-4" in lines
    assert lines.count("SERVICE  web") == 2
    wide = on_a_terminal(200, "services", "--registry", file_world.url, NO_COLOR="1")
    assert wide.splitlines()[0].split() == ["SERVICE", "ID", "ADDRESS", "WEIGHT", "STATE", "LABELS"]
    plugins = on_a_terminal(40, "plugins")
    assert max(map(len, plugins.splitlines())) <= 40


@pytest.mark.costly
def test_no_color_means_no_bold_either(file_world: World) -> None:
    file_world.put("web/b1", '{"host": "10.0.0.1", "port": 80, "state": "draining"}')
    arguments = ("services", "--registry", file_world.url)
    assert "\x1b[1m" in on_a_terminal(100, *arguments)
    for plain in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "\x1b" not in on_a_terminal(100, *arguments, **plain)


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("http://127.0.0.1:2379", "etcd://127.0.0.1:2379"),
        ("https://joe:secret@10.0.0.1:2379/x", "etcds://10.0.0.1:2379"),
    ],
)
def test_an_address_as_etcdctl_takes_it_suggests_the_registry(
    url: str, meant: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["services", "--registry", url]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert f"write {meant}" in err
    assert "secret" not in err


def test_the_refusal_of_a_second_daemon_mentions_replace(start: Start, tmp_path: Path) -> None:
    arguments = ["run", "--plugin", "tcpproxy", "--set", f"tcpproxy.listen.web=unix:{tmp_path}/s", "--admin", "off"]
    arguments += ["--registry", "memory://", "--state-dir", str(tmp_path / "state")]
    first = start(*arguments)
    eventually_sync(lambda: "listening" in first.stderr, timeout=60)
    second = start(*arguments)
    assert second.end(100) == 1
    assert f"consumer 'tcpproxy' is already running as process {first.process.pid}" in second.stderr
    assert "take over from it with --replace" in second.stderr
    assert first.stop() == 0


@pytest.mark.parametrize("gap", [0.0, 0.001, 0.005, 0.02, 0.045])
def test_two_ctrl_c_in_a_row_stop_in_order(start: Start, file_world: World, tmp_path: Path, gap: float) -> None:
    proxy = ["--plugin", "tcpproxy", "--set", f"tcpproxy.listen.web=unix:{tmp_path}/s", "--admin", "off"]
    state = ["--state-dir", str(tmp_path / "state")]

    def stopped_twice(command: Command) -> int:
        command.process.send_signal(signal.SIGINT)
        time.sleep(gap)  # as a person's hand does it
        return command.stop(signal.SIGINT)

    for arguments in (["watch"], ["register", "web", "127.0.0.1:1"], ["run", *proxy, *state]):
        command = start(*arguments, "--registry", file_world.url)
        if arguments[0] == "run":
            eventually_sync(lambda command=command: "listening" in command.stderr, timeout=60)
        else:
            command.line()
        assert stopped_twice(command) == 0
    assert not (tmp_path / "registry/web/127.0.0.1:1").exists()
