"""A plugin that is broken, blocks or fails does not delay another."""

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest
from daemons import RecordFiles, Starter

from discovery.testing import eventually_sync, within

pytestmark = pytest.mark.warm

HEAD = """
from pathlib import Path
import asyncio, time
from discovery import Consumer, PluginConfig, Update, hookimpl

class Options(PluginConfig):
    path: Path = Path("/dev/null")
"""
FOOT = """
@hookimpl
def discovery_register_consumers(register):
    register("{name}", It)
"""


def consumer(name: str, body: str) -> str:
    return dedent(HEAD) + dedent(body) + dedent(FOOT).format(name=name)


GOOD = """
class It(Consumer[Options]):
    Config = Options

    async def apply(self, update: Update) -> None:
        temporary = self.config.path.with_suffix(".new")
        temporary.write_text(" ".join(backend.address for backend in update.snapshot.backends()))
        temporary.replace(self.config.path)
"""
BLOCKS = """
class It(Consumer[Options]):
    async def apply(self, update: Update) -> None:
        time.sleep(60)
"""
FAILS = """
class It(Consumer[Options]):
    async def apply(self, update: Update) -> None:
        raise RuntimeError("as always")
"""
EXITS = """
class It(Consumer[Options]):
    async def apply(self, update: Update) -> None:
        raise SystemExit(3)
"""
OBSERVER = """
from pathlib import Path
from discovery import hookimpl

@hookimpl
def discovery_backends_changed(changes, snapshot):
    with Path({path!r}).open("a") as log:
        print(snapshot.revision, len(changes.added), len(changes.removed), file=log)
"""
LEAVES = """
class It(Consumer[Options]):
    Config = Options

    async def apply(self, update: Update) -> None:
        pass

    async def teardown(self) -> None:
        self.config.path.touch()
"""
HANGS = """
import asyncio
from discovery import hookimpl
from discovery.registry import Reset
from discovery.registry.memory import MemoryRegistry

class Hanging(MemoryRegistry):
    async def watch(self):
        try:
            yield Reset(1, {})
            await asyncio.Event().wait()
        finally:
            await asyncio.Event().wait()

@hookimpl
def discovery_register_registries(register):
    register("hangs", lambda url: Hanging())
"""
FAULTY = """
import asyncio
from pathlib import Path
from discovery import hookimpl
from discovery.registry import Reset
from discovery.registry.memory import MemoryRegistry

class Faulty(MemoryRegistry):
    async def watch(self):
        fault = Path({path!r}).read_text()
        if fault == "raises":
            raise OSError("boom")
        yield Reset(1, {{"web/a": b"10.0.0.1:80"}})
        if fault != "ends":
            await asyncio.Event().wait()

@hookimpl
def discovery_register_registries(register):
    register("faulty", lambda url: Faulty())
"""


def test_bad_neighbours_delay_nobody(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles, install_plugin: Callable[..., None]
) -> None:
    url, write = file_registry
    install_plugin("good", consumer("good", GOOD))
    install_plugin("blocks", consumer("blocks", BLOCKS))
    install_plugin("fails", consumer("fails", FAILS))
    install_plugin("exits", consumer("exits", EXITS))
    install_plugin("broken", "import no_such_module_anywhere")
    write("web/a", "10.0.0.1:80")
    out = tmp_path / "out"
    names = ("blocks", "fails", "exits", "broken", "good")
    plugins = [word for name in names for word in ("--plugin", name)]
    daemon = start_daemon("--registry", url, *plugins, "--set", f"good.path={out}")
    eventually_sync(lambda: out.read_text() == "10.0.0.1:80", timeout=20)
    eventually_sync(lambda: daemon.consumer("blocks")["phase"] == "applying")
    eventually_sync(lambda: daemon.consumer("fails")["problem"] == "RuntimeError: as always")
    eventually_sync(lambda: daemon.consumer("exits")["problem"] == "SystemExit: 3")
    # While one is in the middle of its minute, each change reaches the good one.
    for port in range(81, 91):
        write("web/a", f"10.0.0.1:{port}")
        eventually_sync(lambda port=port: out.read_text() == f"10.0.0.1:{port}", timeout=5)
    assert daemon.consumer("blocks")["phase"] == "applying"
    assert "no_such_module_anywhere" in daemon.log
    status, health = daemon.get("/healthz")
    assert status == 503
    assert health["problems"]["fails"] == "RuntimeError: as always"
    assert "no_such_module_anywhere" in health["broken"]["broken"]
    assert daemon.get("/readyz")[0] == 503
    assert daemon.stop() == 0
    assert "was abandoned consumer=blocks" in daemon.log


def test_two_distributions_that_claim_one_name_are_refused_both_named(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles, install_plugin: Callable[..., None]
) -> None:
    install_plugin("twice", consumer("twice", GOOD), "first-twice")
    install_plugin("twice", consumer("twice", GOOD), "second-twice")
    install_plugin("good", consumer("good", GOOD))
    out = tmp_path / "out"
    file_registry[1]("web/a", "10.0.0.1:80")
    daemon = start_daemon(
        *("--registry", file_registry[0], "--plugin", "twice", "--plugin", "good", "--set", f"good.path={out}")
    )
    eventually_sync(lambda: out.read_text() == "10.0.0.1:80", timeout=20)
    assert "first-twice and second-twice" in daemon.log


def test_a_registry_whose_plugin_fails_is_tried_again(
    tmp_path: Path, start_daemon: Starter, install_plugin: Callable[..., None]
) -> None:
    fault, out = tmp_path / "fault", tmp_path / "out"
    install_plugin("faulty", FAULTY.format(path=str(fault)))
    install_plugin("good", consumer("good", GOOD))
    fault.write_text("raises")
    daemon = start_daemon("--registry", "faulty://", "--plugin", "good", "--set", f"good.path={out}")

    def stale() -> str:
        for path in ("/healthz", "/api/snapshot"):
            reason = str(daemon.get(path)[1]["registry"]["stale"])
        return reason

    eventually_sync(lambda: stale().endswith("failed: OSError: boom"), timeout=20)
    fault.write_text("ends")
    eventually_sync(lambda: stale().endswith("failed: it has ended by itself"))
    fault.write_text("")
    eventually_sync(lambda: stale() == "None" and out.read_text() == "10.0.0.1:80")
    assert "the watch of the registry failed: OSError: boom" in daemon.log
    assert daemon.stop() == 0


def test_only_broken_plugins_end_with_1(
    start_daemon: Starter, file_registry: RecordFiles, install_plugin: Callable[..., None]
) -> None:
    install_plugin("broken", "raise SystemExit(0)")
    daemon = start_daemon("--registry", file_registry[0], "--plugin", "broken")
    assert daemon.process.wait(within(20)) == 1
    assert "third-party-broken" in daemon.log
    assert "Traceback" not in daemon.log


def test_an_observer_is_told_of_every_change(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles, install_plugin: Callable[..., None]
) -> None:
    url, write = file_registry
    told = tmp_path / "told"
    install_plugin("audit", OBSERVER.format(path=str(told)))
    write("web/a", "10.0.0.1:80")
    start_daemon("--registry", url, "--plugin", "audit")
    eventually_sync(lambda: len(told.read_text().splitlines()) == 1, timeout=20)
    write("web/b", "10.0.0.2:80")
    eventually_sync(lambda: told.read_text().splitlines()[-1].endswith(" 1 0"))


def test_a_registry_that_hangs_does_not_keep_consumers_from_stopping(
    tmp_path: Path, start_daemon: Starter, install_plugin: Callable[..., None]
) -> None:
    install_plugin("hangs", HANGS)
    install_plugin("leaves", consumer("leaves", LEAVES))
    left = tmp_path / "left"
    daemon = start_daemon("--registry", "hangs://", "--plugin", "leaves", "--set", f"leaves.path={left}")
    eventually_sync(daemon.is_ready, timeout=20)
    daemon.process.terminate()
    eventually_sync(left.exists, timeout=20)
    daemon.process.kill()
