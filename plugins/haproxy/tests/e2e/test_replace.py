"""`run --replace` with HAProxy: the next daemon takes HAProxy over, or HAProxy ends."""

import os
from pathlib import Path

import pytest
from daemons import RecordFiles, Starter
from etcds import etcd_of_its_own
from listed import Found, listed

from discovery.testing import eventually_sync, free_port, require_program, within

pytestmark = pytest.mark.warm

__all__ = ["etcd_of_its_own", "listed"]


def test_the_next_daemon_adopts_haproxy(start_daemon: Starter, file_registry: RecordFiles, tmp_path: Path) -> None:
    require_program("haproxy")
    registry, write = file_registry
    bind = f"127.0.0.1:{free_port()}"
    write("web/a", "127.0.0.1:1")
    arguments = ("--registry", registry, "--plugin", "haproxy", "--set", f"haproxy.services.web.bind={bind}")
    first = start_daemon(*arguments, run_dir=tmp_path / "run")
    eventually_sync(first.is_ready, timeout=20)
    master = _masters(tmp_path)
    assert len(master) == 1
    second = start_daemon(*arguments, "--replace", run_dir=tmp_path / "run")
    assert first.process.wait(within(20)) == 0
    eventually_sync(second.is_ready, timeout=20)
    assert _masters(tmp_path) == master
    assert "took over the HAProxy of an earlier daemon" in second.log
    assert second.stop() == 0
    assert _masters(tmp_path) == set()


def test_haproxy_ends_if_the_next_daemon_has_no_such_consumer(
    start_daemon: Starter, file_registry: RecordFiles, listed: Found, tmp_path: Path
) -> None:
    require_program("haproxy")
    listed(("a", 80, ""))
    both = ("--registry", file_registry[0], "--plugin", "listed", "--set", listed.option)
    bind = f"haproxy.services.web.bind=127.0.0.1:{free_port()}"
    first = start_daemon(*both, "--plugin", "haproxy", "--set", bind, run_dir=tmp_path / "run")
    eventually_sync(first.is_ready, timeout=20)
    second = start_daemon(*both, "--replace", run_dir=tmp_path / "run")
    eventually_sync(second.is_ready, timeout=20)
    assert _masters(tmp_path) == set()
    assert first.process.wait(within(20)) == 0


def _masters(run_dir: Path) -> set[int]:
    """Return the pids of the HAProxy master processes of a run directory."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            line = (place / "cmdline").read_bytes()
            parent = int((place / "stat").read_text().rpartition(") ")[2].split()[1])
        except OSError:
            continue
        if b"master.sock" in line and os.fsencode(run_dir) in line:
            found[int(place.name)] = parent
    return {pid for pid, parent in found.items() if parent not in found}
