"""The example applications under the servers for which they are written."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from libraries import children
from sampling import sampled

import discovery
from discovery.providing.registration import lock_path
from discovery.registry import RegistryURL
from discovery.testing import eventually_sync, free_port, within

EXAMPLES = Path(__file__).parents[3] / "examples/library"
UVICORN = ("uvicorn", "fastapi_app:app", "--workers", "2", "--port", "{port}", "--log-level", "critical")
GUNICORN = ("gunicorn", "flask_app:app", "--workers", "2", "--bind", "127.0.0.1:{port}", "--log-level", "critical")


def start(records: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "DISCOVERY_REGISTRY": f"file://{records}", **environment}
    command = [sys.executable, *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, cwd=EXAMPLES, start_new_session=True
    )


def kill(running: subprocess.Popen[str]) -> None:
    """Kill a server with its workers, which would outlive it."""
    with suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)


def connections(path: Path) -> int:
    """The connections that the process which listens at a path has accepted."""
    sockets = (line.split() for line in Path("/proc/net/unix").read_text().splitlines())
    return sum(fields[-1].endswith(f"/{path.name}") and fields[5] == "03" for fields in sockets)


SERVERS = [
    pytest.param(UVICORN, b"spawn_main", id="uvicorn"),
    pytest.param(GUNICORN, b"gunicorn", id="gunicorn"),
    pytest.param((*GUNICORN, "--preload"), b"gunicorn", id="gunicorn-preload"),
]
"""The command of each server, and a part of the command line of its workers."""


@dataclass
class Serving:
    """A server with two workers that have joined, and the ports that the registry has had in turn."""

    process: subprocess.Popen[str]
    worker: bytes
    port: int
    states: list[list[int]]

    @property
    def workers(self) -> set[int]:
        return set(children(self.process.pid, self.worker))


@contextmanager
def serving(records: Path, server: tuple[str, ...], worker: bytes) -> Iterator[Serving]:
    """Run a server, and check at the end that its application had one record, once, and has withdrawn it."""
    port = free_port()
    arguments = [each.format(port=port) for each in server]
    states: list[list[int]] = []
    socket_path = lock_path(RegistryURL.parse(f"file://{records}"), f"web/127.0.0.1:{port}", None).with_suffix(".sock")
    with ExitStack() as stack:
        follower = stack.enter_context(discovery.follow(f"file://{records}"))

        def read() -> None:
            states.extend([backend.port for backend in snapshot.backends()] for snapshot in follower)

        reader = threading.Thread(target=read)
        reader.start()
        running = Serving(
            stack.enter_context(start(records, "-m", *arguments, ADDRESS=f"127.0.0.1:{port}")), worker, port, states
        )
        stack.callback(kill, running.process)
        eventually_sync(lambda: states[-1:] == [[port]], "the registration", timeout=30)
        eventually_sync(lambda: len(running.workers) == 2, "both workers")
        # The process that starts the keeper has a socket without a name: a worker, or gunicorn's main process.
        others = 2 if "--preload" in server else 1
        eventually_sync(lambda: connections(socket_path) == others, "both workers to join", timeout=30)
        yield running
        eventually_sync(lambda: states[-1] == [], "the withdrawal", timeout=30)
    reader.join(within(10))
    assert states == [[], [port], []]


@pytest.mark.costly
@pytest.mark.parametrize(("server", "worker"), sampled(SERVERS))
def test_an_application_stays_registered_while_any_of_its_workers_lives(
    records: Path, server: tuple[str, ...], worker: bytes
) -> None:
    with serving(records, server, worker) as running:
        before = running.workers
        os.kill(min(before), signal.SIGKILL)
        eventually_sync(lambda: len(running.workers - before) == 1, "the next worker", timeout=30)
        assert running.states[-1] == [running.port]
        running.process.terminate()
        assert running.process.wait(within(20)) == 0


@pytest.mark.exhaustive
@pytest.mark.parametrize(("server", "worker"), SERVERS)
def test_a_main_process_that_is_killed_leaves_the_record_to_its_workers(
    records: Path, server: tuple[str, ...], worker: bytes
) -> None:
    """Some servers' workers end with the main process, and others go on to serve."""
    with serving(records, server, worker) as running:
        running.process.kill()
        running.process.wait(within(20))
        kill(running.process)  # the workers that are left


def test_the_program_of_twenty_lines_prints_changes(records: Path) -> None:
    assert len((EXAMPLES / "print_changes.py").read_text().splitlines()) <= 22
    with start(records, "print_changes.py", "web") as running:
        try:
            assert running.stdout is not None
            (records / "web").mkdir()
            (records / "web/a").write_text("127.0.0.1:8001")
            assert running.stdout.readline() == "+ web/a 127.0.0.1:8001\n"
            (records / "web/a").write_text("127.0.0.1:8002")
            assert running.stdout.readline() == "~ web/a 127.0.0.1:8002\n"
            (records / "web/a").unlink()
            assert running.stdout.readline() == "- web/a 127.0.0.1:8002\n"
        finally:
            kill(running)
