"""Points 5 and 6: what goes wrong in numbers, or again and again, is summed up; that it works again is told."""

from collections.abc import Callable
from pathlib import Path

import pytest
from daemons import RecordFiles, Starter

from discovery.testing import eventually_sync

pytestmark = pytest.mark.warm

TIMEOUT = 60.0

FAILS = """
import time
from pathlib import Path
from discovery import Consumer, PluginConfig, Update, hookimpl

class Options(PluginConfig):
    path: Path

class Fails(Consumer[Options]):
    Config = Options

    async def apply(self, update: Update) -> None:
        with self.config.path.open("a") as attempts:
            attempts.write("x")
        if self.config.path.with_suffix(".fail").exists():
            raise RuntimeError(f"attempt at {time.monotonic_ns()} failed")

@hookimpl
def discovery_register_consumers(register):
    register("fails", Fails)
"""


@pytest.fixture
def fails(install_plugin: Callable[..., None]) -> None:
    install_plugin("fails", FAILS)


@pytest.mark.costly
@pytest.mark.usefixtures("fails")
def test_many_bad_records_are_summed_up(tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles) -> None:
    url, write = file_registry
    for n in range(3000):
        write(f"web/{n}", f"bad {n}")
    daemon = start_daemon("--registry", url, "--plugin", "fails", "--set", f"fails.path={tmp_path / 'attempts'}")
    eventually_sync(daemon.is_ready, timeout=TIMEOUT)
    eventually_sync(lambda: " more rejections" in daemon.log, timeout=TIMEOUT)
    assert daemon.log.count("\n") < 30
    for round_ in range(3):
        for n in range(300):
            write(f"web/{n}", f'{{"host": "10.0.0.1", "port": "{round_}x{n}"}}')
        key = f"web/{300 + round_}"
        write(key, "10.0.0.1:80")
        eventually_sync(lambda key=key: key[4:] in str(daemon.get("/api/snapshot")[1]["services"]), timeout=TIMEOUT)
    assert daemon.log.count("\n") < 60
    assert "discovery_rejected_records" in daemon.get("/metrics")[1]


@pytest.mark.usefixtures("fails")
def test_a_failing_apply_is_not_told_at_every_retry_and_success_is(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles
) -> None:
    url, write = file_registry
    write("web/a", "10.0.0.1:80")
    attempts, failing = tmp_path / "attempts", tmp_path / "attempts.fail"
    failing.touch()
    daemon = start_daemon("--registry", url, "--plugin", "fails", "--set", f"fails.path={attempts}")
    eventually_sync(lambda: len(attempts.read_text()) >= 4, timeout=TIMEOUT)
    assert daemon.log.count("apply failed") == 1
    failing.unlink()
    eventually_sync(lambda: "applied again after " in daemon.log, timeout=TIMEOUT)
    assert f"applied again after {len(attempts.read_text()) - 1} failures" in daemon.log
    assert daemon.log.count("apply failed") == 1
