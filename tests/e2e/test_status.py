"""`discovery status` and `discovery top`, of a real daemon; on a terminal, and in a pipe."""

import json
import os
import pty
import socket
import subprocess
import threading
from pathlib import Path

import pytest
import warm
from daemons import DISCOVERY, Daemon, RecordFiles
from marred import daemon

from discovery.testing import eventually_sync, free_port, within

__all__ = ["daemon"]

pytestmark = pytest.mark.warm


def run(command: str, daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = (command, *arguments, "--admin", daemon.admin, "--config", "/dev/null")
    return warm.run(*line, env=os.environ, timeout=within(60))


def test_the_state_fits_one_screen_and_the_exit_code_tells(daemon: Daemon, tmp_path: Path) -> None:
    well = run("status", daemon)
    assert (well.returncode, well.stderr) == (0, "")
    first, registry, counts, _, header, row = well.stdout.splitlines()
    assert first == "ok, ready"
    assert registry.startswith("file://")
    assert ": followed, revision " in registry
    assert counts == "1 services, 1 backends, 1 down, 1 rejected"
    assert header.split() == ["NAME", "PLUGIN", "STATE", "PHASE", "DOES"]
    assert row.startswith("follows  ")
    assert "has applied revision" in row
    document = json.loads(run("status", daemon, "--json").stdout)
    assert (document["status"], document["consumers"][0]["down"]) == ("ok", 1)
    (tmp_path / "ill").touch()
    eventually_sync(lambda: daemon.get("/api/status")[1]["status"] == "failing", timeout=60)
    ill = run("status", daemon)
    assert ill.returncode == 1
    assert "follows: it has a fever" in ill.stdout


def test_without_a_daemon_the_exit_code_is_1(tmp_path: Path) -> None:
    line = ("status", "--admin", f"127.0.0.1:{free_port()}", "--config", "/dev/null")
    done = warm.run(*line, env=os.environ, timeout=within(60))
    assert done.returncode == 1
    assert "no daemon answers" in done.stderr


def test_top_is_plain_in_a_pipe(daemon: Daemon, file_registry: RecordFiles) -> None:
    file_registry[1]("web/b", "10.0.0.2:80")
    eventually_sync(lambda: daemon.get("/api/status")[1]["backends"] == 2, timeout=60)
    shown = run("top", daemon, "--count", "2", "--interval", "0.2")
    assert shown.returncode == 0
    assert "\x1b" not in shown.stdout
    assert shown.stdout.count("ok, ready\n") == 2
    assert shown.stdout.count("+ web/b 10.0.0.2:80") == 2
    (line,) = run("top", daemon, "--count", "1", "--json").stdout.splitlines()
    assert json.loads(line)["status"]["backends"] == 2


def test_top_goes_on_while_the_daemon_is_away(daemon: Daemon) -> None:
    assert daemon.stop() == 0
    shown = run("top", daemon, "--count", "2", "--interval", "0.2")
    assert shown.returncode == 0
    assert shown.stdout.count("no daemon answers") == 2


def test_top_ends_at_once_while_a_daemon_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        line = [*DISCOVERY, "top", "--admin", f"127.0.0.1:{silent.getsockname()[1]}", "--config", "/dev/null"]
        command = subprocess.Popen(line, stdout=subprocess.DEVNULL)
        silent.settimeout(within(30))
        client, _ = silent.accept()
        with client:
            assert client.recv(100)
            command.terminate()
            assert command.wait(within(5)) == 0, "and not after the 10 s that an answer may take"


def test_top_redraws_a_terminal_and_ends_with_a_signal(daemon: Daemon) -> None:
    ours, theirs = pty.openpty()
    line = [*DISCOVERY, "top", "--interval", "0.2", "--admin", daemon.admin, "--config", "/dev/null"]
    command = subprocess.Popen(line, stdin=theirs, stdout=theirs, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    text = bytearray()

    def read() -> None:
        try:
            while more := os.read(ours, 4096):
                text.extend(more)
        except OSError:  # the other end is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    eventually_sync(lambda: text.count(b"\x1b[H") >= 3, timeout=60)
    command.terminate()
    assert command.wait(within(20)) == 0
    reader.join(within(20))
    os.close(ours)
    assert b"has applied revision" in text
    assert text.count(b"\x1b[2J") == 1
