"""What a worker says while it has no daemon, and to whom; and the socket at which the next daemon finds it."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from discovery_tcpproxy.worker.adoption_socket import AdoptionSocket
from discovery_tcpproxy.worker.loop import Loop
from discovery_tcpproxy.worker.orphan import LOG_INTERVAL, OrphanMode


def fail(error: Exception) -> None:
    raise error


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for each in ends:
        os.close(each)


@pytest.fixture(autouse=True)
def _own_stderr() -> Iterator[None]:
    """An orphan makes the daemon's standard error its own."""
    kept = os.dup(2)
    yield
    os.dup2(kept, 2)
    os.close(kept)


def orphan(loop: Loop, stderr: int, stopped: list[str] | None = None, interval: float = LOG_INTERVAL) -> OrphanMode:
    stop = (stopped if stopped is not None else []).append
    return OrphanMode(loop, stderr, lambda: "it goes on", stop, interval)


def run_for(loop: Loop, seconds: float) -> None:
    loop.call_later(seconds, loop.stop)
    loop.run()


def test_an_orphaned_worker_logs_at_once_and_every_minute(
    monkeypatch: pytest.MonkeyPatch, pipe: tuple[int, int]
) -> None:
    """Point 14."""
    assert LOG_INTERVAL == 60
    monkeypatch.delenv("DISCOVERY_LOG_FORMAT", raising=False)
    loop = Loop(fail)
    alone = orphan(loop, pipe[1], interval=0.05)
    alone.begin()
    loop.call_later(0.5, alone.end)
    run_for(loop, 0.8)
    said = os.read(pipe[0], 1 << 16).decode().splitlines()
    assert len(said) >= 3
    assert all(" [warning] the daemon has gone; it goes on seconds=" in line for line in said)
    assert float(said[-1].partition("seconds=")[2].partition(" ")[0]) <= 1


def test_an_orphaned_worker_logs_in_the_format_of_the_daemon(
    monkeypatch: pytest.MonkeyPatch, pipe: tuple[int, int]
) -> None:
    """Point 14."""
    monkeypatch.setenv("DISCOVERY_LOG_FORMAT", "json")
    orphan(Loop(fail), pipe[1]).begin()
    line = json.loads(os.read(pipe[0], 1 << 16))
    assert (line["event"], line["level"], line["pid"]) == ("the daemon has gone; it goes on", "warning", os.getpid())


def test_a_full_or_closed_log_pipe_does_not_block_an_orphaned_worker() -> None:
    """Point 14. The reader of the daemon's standard error may have stopped, or ended with it."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(1 << 16))
    os.set_blocking(writer, True)
    orphan(Loop(fail), writer).begin()
    os.close(reader)
    orphan(Loop(fail), writer).begin()
    os.close(writer)
    orphan(Loop(fail), writer).begin()


def test_a_sigterm_ends_the_worker_if_the_daemon_ends_soon_after(pipe: tuple[int, int]) -> None:
    """Point 14."""
    loop, stopped = Loop(fail), []
    alone = orphan(loop, pipe[1], stopped)
    alone.signalled()
    assert stopped == []
    alone.begin()
    assert stopped == ["SIGTERM"]
    alone.end()
    alone.begin()
    assert stopped == ["SIGTERM"]
    alone.signalled()
    assert stopped == ["SIGTERM", "SIGTERM"]
    alone.end()
    alone.signalled()
    loop.now += 3600
    alone.begin()
    assert stopped == ["SIGTERM", "SIGTERM"]


def test_the_adoption_socket_is_private_and_is_created_again_after_its_removal(tmp_path: Path) -> None:
    """Points 14 and 26."""
    loop = Loop(fail)
    directory = tmp_path / ("long" * 50) / "edge"
    knocked: list[socket.socket] = []
    adoption = AdoptionSocket(directory, loop, knocked.append)
    for _ in range(2):
        adoption.restore()
        assert adoption.path.stat().st_mode & 0o777 == 0o600
        with socket.socket(socket.AF_UNIX) as client:
            place = os.open(directory, os.O_PATH)
            client.connect(f"/proc/self/fd/{place}/{adoption.path.name}")
            os.close(place)
            adoption.event(1)
        knocked.pop().close()
        adoption.path.unlink()
        directory.rmdir()
    adoption.restore()
    adoption.close()
    assert not adoption.path.exists()
