"""The command line as its users meet it: real processes, against a real etcd and a real directory."""

import json
import os
import queue
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import warm
from daemons import write_record

from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually_sync, require_program, within

END = "(end of output)"
SETTLED = 0.15
"""Seconds after which a file registry believes whatever a file says."""


class Command:
    """A running `discovery` with its output."""

    def __init__(self, arguments: tuple[str, ...], environment: dict[str, str], stderr: Path) -> None:
        self._stderr = stderr
        self._stdout, theirs = os.pipe()
        with stderr.open("wb") as errors:
            self.process = warm.start(*arguments, env=environment, stdout=theirs, stderr=errors)
        os.close(theirs)
        self._lines: queue.Queue[str] = queue.Queue()
        Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with os.fdopen(self._stdout) as stdout:
            for line in stdout:
                self._lines.put(line.rstrip("\n"))
        self._lines.put(END)

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    def line(self, timeout: float = 40) -> str:
        """The next line of stdout."""
        try:
            return self._lines.get(timeout=within(timeout))
        except queue.Empty:
            raise AssertionError(f"no further line in {timeout:g} s; stderr: {self.stderr}") from None

    def json(self) -> Any:
        return json.loads(self.line())

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.end()

    def end(self, timeout: float = 40) -> int:
        return self.process.wait(within(timeout))


Start = Callable[..., Command]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `discovery` with arguments; none outlives the test, and none has shown a traceback."""
    commands: list[Command] = []
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DISCOVERY_")}
    environment["DISCOVERY_RUN_DIR"] = str(tmp_path / "run")

    def started(*arguments: str, **variables: str) -> Command:
        path = tmp_path / f"stderr-{len(commands)}"
        commands.append(Command(arguments, environment | variables, path))
        return commands[-1]

    yield started
    for command in commands:
        command.process.kill()
        command.process.wait()
        assert "Traceback" not in command.stderr


@pytest.fixture(scope="session")
def etcd() -> Iterator[EmbeddedEtcd]:
    with EmbeddedEtcd(program=require_program("etcd")) as running:
        yield running


class World:
    """A registry as the rest of the world writes it: raw values at keys, past our own client."""

    def __init__(self, url: str, put: Callable[[str, str], None], delete: Callable[[str], None]) -> None:
        self.url = url
        self.put = put
        self.delete = delete


@pytest.fixture(params=["etcd", "file"])
def world(request: pytest.FixtureRequest) -> World:
    chosen: World = request.getfixturevalue(f"{request.param}_world")
    return chosen


@pytest.fixture
def etcd_world(etcd: EmbeddedEtcd) -> World:
    prefix = f"/{uuid.uuid4().hex}"
    etcdctl = [str(require_program("etcdctl")), "--endpoints", etcd.endpoint]

    def call(*arguments: str) -> None:
        subprocess.run([*etcdctl, *arguments], env={"ETCDCTL_API": "3"}, check=True, capture_output=True)

    return World(
        f"{etcd.url}{prefix}",
        lambda key, value: call("put", "--", f"{prefix}/{key}", value),
        lambda key: call("del", f"{prefix}/{key}"),
    )


@pytest.fixture
def file_world(tmp_path: Path) -> World:
    root = tmp_path / "registry"
    root.mkdir()

    def put(key: str, value: str) -> None:
        write_record(root, key, value)
        # A command that starts at once would not believe a bad record yet, which may be an editor's, half written.
        eventually_sync(lambda: time.time() - (root / key).stat().st_ctime > SETTLED, "the record to have lasted")

    return World(f"file://{root}", put, lambda key: (root / key).unlink())
