"""The end of a daemon: no HAProxy remains, whenever the end comes, and `discovery stop` ends no foreign process."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from daemons import RecordFiles, Starter, processes, run_stop
from sampling import sampled

from discovery.testing import eventually_sync, free_port, require_program

MOMENTS = [(0, 3, 6), (1, 4, 7), (2, 5)]
"""A group is tested at once. The first moment is before there is a HAProxy, the last in its seventh reload; at the odd
ones the daemon is killed."""


@contextmanager
def changing(write: Callable[[str, str], None]) -> Iterator[None]:
    """Meanwhile the registry never rests, and each change takes HAProxy a reload."""
    stop = threading.Event()

    def change() -> None:
        port = 1024
        while not stop.wait(0.02):
            port = port % 60_000 + 1
            write("web/b1", f"127.0.0.1:{port + 1024}")

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def changes(path: Path) -> Callable[[], int]:
    """Counts how often the file was replaced; a configuration's is seen within a moment of the reload it begins."""

    def version() -> tuple[int, ...]:
        try:
            status = path.stat()
        except FileNotFoundError:
            return ()
        return status.st_ino, status.st_mtime_ns

    seen = {version()}

    def count() -> int:
        seen.add(version())
        return len(seen) - 1

    return count


@pytest.mark.costly
@pytest.mark.parametrize("moments", sampled(MOMENTS))
def test_no_haproxy_remains_whenever_a_daemon_is_stopped_or_is_killed_and_replaced(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles, moments: Iterable[int]
) -> None:
    require_program("haproxy")
    url, write = file_registry
    write("web/b1", "127.0.0.1:1024")

    def reach(run_dir: Path, moment: int, *, again: bool = False) -> Any:
        bind = f"haproxy.services.web.bind=127.0.0.1:{free_port()}"
        daemon = start_daemon("--registry", url, "--plugin", "haproxy", "--set", bind, run_dir=run_dir)
        eventually_sync(lambda: "running" in daemon.log, timeout=30)
        if again:  # before it looked, it knows of no earlier one
            eventually_sync(lambda: daemon.consumer("haproxy")["phase"] != "starting", timeout=30)
        count = changes(run_dir / "haproxy" / "haproxy.cfg")
        eventually_sync(lambda: count() >= moment, timeout=30)
        time.sleep(moment * 0.007)  # a later part of the change at each moment
        return daemon

    def check(moment: int) -> None:
        run_dir = tmp_path / f"run-{moment}"
        if moment % 2:
            daemon = reach(run_dir, moment)
            daemon.process.kill()
            daemon.process.wait()
        daemon = reach(run_dir, moment // 2, again=bool(moment % 2))
        assert daemon.stop(signal.SIGTERM, timeout=40) == 0, daemon.log
        assert processes(run_dir) == {}

    with changing(write), ThreadPoolExecutor(3) as pool:
        list(pool.map(check, moments))


@pytest.mark.costly
def test_stop_spares_a_process_whose_number_is_in_a_lock_that_no_process_holds(tmp_path: Path) -> None:
    """Point 14. The lock of a killed daemon keeps a number that the kernel may give to another process."""
    run_dir = tmp_path / "run"
    (run_dir / "edge").mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        (run_dir / "edge" / "lock").write_text(f"{other.pid}\n")
        (run_dir / "daemon.sock.lock").write_text(f"{other.pid}\n")
        assert run_stop(run_dir)[0] == 0
        assert other.poll() is None
        other.kill()
