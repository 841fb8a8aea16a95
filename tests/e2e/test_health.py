"""`discovery health`: the exit code for a health check, without the admin endpoint."""

import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm
from daemons import Starter

from discovery.testing import eventually_sync, within

pytestmark = pytest.mark.warm

CONSUMER = """
from discovery import hookimpl

@hookimpl
def discovery_backends_changed(changes, snapshot):
    if "bad" in snapshot.services:
        raise RuntimeError("the service bad cannot be written")
"""

Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Return a function that runs `discovery health` for the run directory `run`."""

    def ask(*arguments: str, run_dir: str = str(tmp_path / "run")) -> tuple[int, str, str]:
        environment = {**os.environ, "DISCOVERY_RUN_DIR": run_dir}
        done = warm.run("health", *arguments, env=environment, timeout=within(120))
        return done.returncode, done.stdout, done.stderr

    return ask


def test_the_exit_code_follows_the_consumers(
    tmp_path: Path,
    start_daemon: Starter,
    install_plugin: Callable[..., None],
    file_registry: tuple[str, Callable[[str, str], None]],
    ask: Ask,
) -> None:
    url, write = file_registry
    code, out, err = ask()
    assert (code, out) == (1, "")
    assert f"no daemon runs on the run directory {tmp_path / 'run'}" in err
    assert json.loads(ask("--json")[1]) == {"run_dir": str(tmp_path / "run"), "healthy": False, "daemons": []}

    install_plugin("notified", CONSUMER)
    daemon = start_daemon("--plugin", "notified", "--registry", url, admin="off", run_dir=tmp_path / "run")
    eventually_sync(lambda: ask("--ready")[0] == 0, "the daemon to be ready", timeout=60)
    assert ask()[:2] == (0, f"process {daemon.process.pid}: ok (notified)\n")

    write("bad/b1", "10.0.0.1:80")
    eventually_sync(lambda: ask()[0] == 1, "the failure to be told", timeout=60)
    code, out, err = ask()
    assert out.startswith(f"process {daemon.process.pid}: failing (notified)")
    assert "notified: " in err
    assert "the service bad cannot be written" in err
    (told,) = json.loads(ask("--json")[1])["daemons"]
    assert (told["pid"], told["status"], list(told["problems"])) == (daemon.process.pid, "failing", ["notified"])

    assert daemon.stop() == 0
    assert ask()[0] == 1


def test_a_daemon_that_waits_for_the_registry_is_well_and_not_ready(
    tmp_path: Path, start_daemon: Starter, install_plugin: Callable[..., None], ask: Ask
) -> None:
    install_plugin("notified", CONSUMER)
    nowhere = f"file://{tmp_path / 'not-mounted'}"
    start_daemon("--plugin", "notified", "--registry", nowhere, admin="off", run_dir=tmp_path / "run")
    eventually_sync(lambda: ask()[0] == 0, "the daemon to answer", timeout=60)
    code, out, _ = ask("--ready")
    assert code == 1
    assert "not ready: notified" in out


@pytest.mark.parametrize("text", ["run_dir = ", "run_dir = 5", 'run_dir = "there"\nno_such_key = 1'])
def test_a_fault_of_the_configuration_is_none_of_the_daemons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Ask, text: str
) -> None:
    """Docker reserves the exit code 2 of a health check, which would be that of a wrong configuration."""
    file = tmp_path / "discovery.toml"
    file.write_text(text)
    monkeypatch.chdir(tmp_path)
    code, _, err = ask("--config", str(file))
    assert code == 1
    assert f"no daemon runs on the run directory {tmp_path / 'run'}" in err

    code, _, err = ask("--config", str(file), run_dir="")
    assert code == 1
    assert f"the run directory {tmp_path / 'there'}" in err if "there" in text else err.startswith(f"discovery: {file}")


def test_a_daemon_that_gives_no_answer_is_failing(tmp_path: Path, ask: Ask) -> None:
    """As a daemon of an earlier version, which closes the connection."""
    (tmp_path / "run").mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(tmp_path / "run/daemon.sock"))
        listening.listen()

        def close_each() -> None:
            for _ in range(2):
                listening.accept()[0].close()

        closing = threading.Thread(target=close_each, daemon=True)
        closing.start()
        code, out, err = ask()
        assert (code, out) == (1, "a daemon: failing\n")
        assert "does not answer, or is of another version" in err
        document: dict[str, Any] = json.loads(ask("--json")[1])
        assert document["healthy"] is False
        assert document["daemons"][0]["pid"] is None
        closing.join(within(10))
