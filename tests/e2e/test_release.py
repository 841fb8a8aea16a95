"""Point 3. `discovery release`, and a directory that is not mounted when the daemon starts."""

import json
import os
import subprocess
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
    pass
"""


@pytest.fixture
def start(
    tmp_path: Path,
    start_daemon: Starter,
    install_plugin: Callable[..., None],
    file_registry: tuple[str, Callable[[str, str], None]],
) -> Callable[[], Any]:
    """Starts a daemon with a consumer, on the run directory `run`."""
    install_plugin("notified", CONSUMER)
    return lambda: start_daemon("--plugin", "notified", "--registry", file_registry[0], run_dir=tmp_path / "run")


def release(run_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DISCOVERY_RUN_DIR": str(run_dir)}
    return warm.run("release", *arguments, env=environment, timeout=within(120))


def services(daemon: Any) -> set[str]:
    return set(daemon.get("/api/snapshot")[1].get("services", {}))


def test_a_directory_that_is_not_mounted_at_the_start_takes_nothing_out_of_service(
    tmp_path: Path, start: Callable[[], Any], file_registry: tuple[str, Callable[[str, str], None]]
) -> None:
    """Point 3. A first start believes an empty directory; one that knows records holds them, over restarts too."""
    _, write = file_registry
    root = tmp_path / "registry"
    first = start()
    eventually_sync(first.is_ready, timeout=60)
    assert services(first) == set()
    for name in ("web", "db", "old"):
        write(f"{name}/b1", "10.0.0.1:80")
    eventually_sync(lambda: len(services(first)) == 3, timeout=60)
    # A removal that is seen is believed.
    (root / "old" / "b1").unlink()
    eventually_sync(lambda: services(first) == {"web", "db"}, timeout=60)
    assert first.stop() == 0
    root.rename(tmp_path / "unmounted")
    root.mkdir()
    for _ in range(2):
        daemon = start()
        eventually_sync(daemon.is_ready, timeout=60)
        assert services(daemon) == {"web", "db"}
        status, health = daemon.get("/healthz")
        assert status == 200
        assert health["registry"]["held"]["count"] == 2
        assert "removals are not believed" in daemon.log
        assert daemon.stop() == 0
    daemon = start()
    eventually_sync(daemon.is_ready, timeout=60)
    root.rmdir()
    (tmp_path / "unmounted").rename(root)
    eventually_sync(lambda: daemon.get("/healthz")[1]["registry"]["held"]["count"] == 0, timeout=60)
    assert services(daemon) == {"web", "db"}
    assert "no removal is held any more" in daemon.log


@pytest.mark.costly
def test_release_names_what_it_gives_up_and_its_errors_name_the_way_out(
    tmp_path: Path, start: Callable[[], Any], file_registry: tuple[str, Callable[[str, str], None]]
) -> None:
    """Point 3."""
    _, write = file_registry
    root, run_dir = tmp_path / "registry", tmp_path / "run"
    nobody = release(run_dir)
    assert (nobody.returncode, nobody.stdout) == (1, "")
    assert "--run-dir" in nobody.stderr
    assert release(run_dir, "a/b").returncode == 2
    assert release(run_dir, "--nonsense").returncode == 2
    assert "discovery release web" in release(run_dir, "--help").stdout
    for name in ("web", "db"):
        write(f"{name}/b1", "10.0.0.1:80")
    first = start()
    eventually_sync(lambda: services(first) == {"web", "db"}, timeout=60)
    nothing = release(run_dir, "--json")
    assert (nothing.returncode, json.loads(nothing.stdout)) == (0, {"released": []})
    assert first.stop() == 0
    assert "held records were released" not in first.log
    root.rename(tmp_path / "unmounted")
    root.mkdir()
    daemon = start()
    eventually_sync(daemon.is_ready, timeout=60)
    assert release(run_dir, "web").stdout == "web/b1\n"
    eventually_sync(lambda: services(daemon) == {"db"}, timeout=60)
    done = release(run_dir, "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"released": ["db/b1"]})
    assert services(daemon) == set()
    assert daemon.stop() == 0
    assert daemon.log.count("held records were released") == 2
    # What was released stays so.
    again = start()
    eventually_sync(again.is_ready, timeout=60)
    assert services(again) == set()
