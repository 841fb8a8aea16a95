"""`discovery.follow` against real registries, on an event loop and by a helper process."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from libraries import children
from third_party import FIXED, install

import discovery
from discovery.testing import eventually, eventually_sync, within


@pytest.fixture(autouse=True)
def _first_record(records: Path) -> None:
    (records / "web").mkdir()
    (records / "web/a").write_text("127.0.0.1:8001")


def ports(snapshot: discovery.Snapshot | None, service: str = "web") -> list[int] | None:
    if snapshot is None:
        return None
    found = snapshot.services.get(service)
    return [] if found is None else [each.port for each in found.backends]


async def test_a_loop_gets_the_present_snapshot_and_then_each_newer_one(records: Path) -> None:
    async with asyncio.timeout(within(20)), discovery.follow(f"file://{records}", "web") as follower:
        assert ports(follower.snapshot) == [8001]
        seen = []
        async for snapshot in follower:
            seen.append(ports(snapshot))
            if len(seen) == 2:
                break
            (records / "api").mkdir()
            (records / "api/x").write_text("127.0.0.1:9000")
            (records / "web/b").write_text("127.0.0.1:8002")
        assert seen == [[8001], [8001, 8002]]
        assert follower.stale is None
        assert follower.age == 0
        assert "api" not in snapshot.services


def test_a_program_without_a_loop_gets_the_same_by_a_helper_process(records: Path) -> None:
    seen = []
    for snapshot in discovery.follow(f"file://{records}", "web"):
        seen.append(ports(snapshot))
        if len(seen) == 2:
            break
        (records / "web/b").write_text("127.0.0.1:8002")
    assert seen == [[8001], [8001, 8002]]


def test_an_iteration_ends_when_another_thread_closes_the_follower(records: Path) -> None:
    follower = discovery.follow(f"file://{records}")
    threads = []
    with follower:
        reader = threading.Thread(target=lambda: threads.extend(follower))
        reader.start()
        eventually_sync(lambda: threads, "the first snapshot")
    reader.join(within(10))
    assert not reader.is_alive()
    assert ports(follower.snapshot) == [8001], "the last snapshot stands after the end"


@pytest.mark.costly
@pytest.mark.parametrize("is_asynchronous", [True, False])
async def test_an_unreachable_registry_is_stale_and_keeps_its_snapshot(records: Path, is_asynchronous: bool) -> None:
    follower = discovery.follow(f"file://{records}")
    async with follower if is_asynchronous else _in_a_thread(follower):
        assert ports(follower.snapshot) == [8001]
        records.rename(records.with_name("elsewhere"))
        await eventually(lambda: follower.stale is not None, "the registry to be stale")
        assert ports(follower.snapshot) == [8001]
        assert follower.age >= 0
        records.with_name("elsewhere").rename(records)
        await eventually(lambda: follower.stale is None, "the registry to be followed again")
    records.rename(records.with_name("elsewhere"))
    async with follower if is_asynchronous else _in_a_thread(follower):
        assert ports(follower.snapshot) == [8001], "the last good snapshot of the run before"
        assert follower.stale is not None or follower.from_disk
        assert follower.age > 0


class _in_a_thread:  # noqa: N801 - a context manager
    """The synchronous form without blocking the test's loop."""

    def __init__(self, follower: discovery.Follower) -> None:
        self._follower = follower

    async def __aenter__(self) -> None:
        await asyncio.to_thread(self._follower.__enter__)

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._follower.close)


async def test_a_registry_that_never_answers_is_an_error_with_its_reason_not_an_empty_snapshot(tmp_path: Path) -> None:
    with pytest.raises(discovery.DiscoveryError, match=r"could not be followed within 0.5 s: .*missing"):
        async with discovery.follow(f"file://{tmp_path}/missing", wait=0.5):
            pass
    async with discovery.follow(f"file://{tmp_path}/missing", wait=0) as follower:
        await eventually(lambda: follower.stale is not None, "the reason")
        assert follower.snapshot is None


async def test_a_wrong_url_is_told_by_both_forms() -> None:
    with pytest.raises(discovery.ConfigError, match="'consul' is not known"):
        async with discovery.follow("consul://127.0.0.1"):
            pass
    with pytest.raises(discovery.ConfigError, match="'consul' is not known"):
        await asyncio.to_thread(discovery.follow("consul://127.0.0.1").start)


def test_the_environment_names_the_registry(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCOVERY_REGISTRY", f"file://{records}")
    with discovery.follow() as follower:
        assert ports(follower.snapshot) == [8001]


async def test_a_registry_of_a_plugin_is_followed_by_both_forms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "site", "fixed", FIXED)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    async with discovery.follow("fixed://127.0.0.1:8001") as follower:
        assert ports(follower.snapshot) == [8001]
    async with _in_a_thread(follower):
        assert ports(follower.snapshot) == [8001]


@pytest.mark.costly
def test_a_helper_that_dies_is_replaced_and_nothing_is_lost(records: Path) -> None:
    with discovery.follow(f"file://{records}") as follower:
        (helper,) = children(os.getpid())
        os.kill(helper, signal.SIGKILL)
        (records / "web/b").write_text("127.0.0.1:8002")
        eventually_sync(lambda: ports(follower.snapshot) == [8001, 8002], "the change after the death")
        eventually_sync(lambda: follower.stale is None, "the follower to follow again")


def test_a_forked_child_follows_by_itself_and_its_parent_goes_on(records: Path) -> None:
    with discovery.follow(f"file://{records}") as follower:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                deadline = time.monotonic() + within(10)
                while ports(follower.snapshot) != [8001, 8002] and time.monotonic() < deadline:
                    time.sleep(0.01)
                status = ports(follower.snapshot) != [8001, 8002]
            finally:
                os._exit(status)
        (records / "web/b").write_text("127.0.0.1:8002")
        eventually_sync(lambda: ports(follower.snapshot) == [8001, 8002], "the parent to follow")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_no_helper_outlives_a_program_that_is_killed(records: Path) -> None:
    program = "import discovery, time\nwith discovery.follow(): print('follows', flush=True); time.sleep(600)"
    environment = {**os.environ, "DISCOVERY_REGISTRY": f"file://{records}"}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as application:
        assert application.stdout is not None
        assert application.stdout.readline() == "follows\n"
        (helper,) = children(application.pid)
        application.kill()
    eventually_sync(lambda: not Path(f"/proc/{helper}").exists(), "the helper to end")
