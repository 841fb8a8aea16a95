"""The remembered snapshot: written soon, named after its registry, and nothing that cannot be read does harm."""

import asyncio
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import structlog
from pydantic import SecretStr

from discovery.codec import MAX_VALUE
from discovery.consuming import lastgood
from discovery.consuming.holding import Cause, Held, RememberedHolds
from discovery.consuming.lastgood import PACE, LastGood, Pace, state_file
from discovery.consuming.watcher import Observation, SnapshotBuilder
from discovery.documents import backend_document
from discovery.model import Backend, Service, Snapshot, State
from discovery.plugin import PluginConfig
from discovery.registry import Delta, History, RegistryEvent, RegistryURL, Reset
from discovery.testing import backend, eventually, snapshot

URL = RegistryURL.parse("etcd://user:secret@10.0.0.1:2379/services")
WHOLE = snapshot(
    backend("web", "a", weight=7, labels={"zone": "x"}),
    backend("web", "b", "2001:db8::1", state=State.DRAINING),
    revision=42,
)


def last_good(directory: Path, url: RegistryURL = URL, pace: Pace = PACE) -> LastGood:
    return LastGood(directory, url, structlog.get_logger(), pace=pace)


async def remember(directory: Path, *observations: Observation, memory: RememberedHolds | None = None) -> None:
    kept = LastGood(directory, URL, structlog.get_logger(), lambda: memory or RememberedHolds())
    for observation in observations:
        kept.observe(observation)
    writing = asyncio.create_task(kept.run())
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)


async def test_what_was_seen_last_is_remembered_whole(tmp_path: Path) -> None:
    await remember(tmp_path, Observation(snapshot(revision=41)), Observation(WHOLE))
    remembered = last_good(tmp_path).load()
    assert remembered is not None
    assert remembered.snapshot == WHOLE
    assert 0 <= remembered.age < 60


async def test_another_registry_is_another_memory_and_no_secret_is_in_either(tmp_path: Path) -> None:
    await remember(tmp_path, Observation(WHOLE))
    assert last_good(tmp_path, RegistryURL.parse("etcd://10.0.0.2:2379/services")).load() is None
    (file,) = tmp_path.iterdir()
    assert "secret" not in file.name + file.read_text()
    assert file.stat().st_mode & 0o077 == 0


async def test_what_a_stale_registry_last_told_is_not_remembered_anew(tmp_path: Path) -> None:
    await remember(tmp_path, Observation(snapshot(revision=9), stale="down"))
    assert last_good(tmp_path).load() is None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"backends": 3}', b'{"revision": 1, "backends": [{}]}', b"\xff\xfe"]
)
def test_what_cannot_be_read_is_as_good_as_nothing(tmp_path: Path, content: bytes) -> None:
    kept = last_good(tmp_path)
    kept.path.write_bytes(content)
    assert kept.load() is None


async def test_its_age_counts_from_when_it_was_last_known_to_be_true(tmp_path: Path) -> None:
    await remember(tmp_path, Observation(WHOLE))
    os.utime(last_good(tmp_path).path, (1, 1))
    assert last_good(tmp_path).load().age > 1e6
    kept = last_good(tmp_path, pace=Pace(confirm_every=0.05))
    kept.observe(Observation(WHOLE))
    writing = asyncio.create_task(kept.run())
    await eventually(lambda: kept.load().age < 60)
    os.utime(kept.path, (1, 1))
    await eventually(lambda: kept.load().age < 60)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)


async def test_that_it_cannot_be_written_is_told_once_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with structlog.testing.capture_logs() as log:
        kept = last_good(tmp_path / "file", pace=Pace(confirm_every=0.01))
        kept.observe(Observation(WHOLE))
        writing = asyncio.create_task(kept.run())
        await eventually(lambda: log)
        (tmp_path / "file").unlink()
        await eventually(lambda: len(log) > 1)  # the file is there a moment before that is known, and logged
        (file := kept.path).unlink()
        file.parent.rmdir()
        (tmp_path / "file").touch()
        kept.observe(Observation(snapshot(revision=43)))
        await eventually(lambda: len(log) > 2)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    assert [each["event"] for each in log] == [
        "the snapshot cannot be remembered",
        "the snapshot is remembered again",
        "the snapshot cannot be remembered",
    ]
    for each in (log[0], log[2]):
        assert each["reason"].partition(";")[2] == " mend that, or choose another directory with --state-dir"


async def test_a_record_that_was_read_is_remembered_however_long_it_is_when_written(tmp_path: Path) -> None:
    labels = {f"label{n:02}": "x" * 1010 for n in range(64)}
    value = json.dumps({"host": "10.0.0.1", "port": 80, **labels}, separators=(",", ":")).encode()
    value += b" " * (MAX_VALUE - len(value))
    seen = SnapshotBuilder().apply(Reset(7, {"web/long": value, "web/short": b"10.0.0.2:80"}))
    assert seen.snapshot is not None
    assert len(list(seen.snapshot.backends())) == 2
    await remember(tmp_path, seen)
    remembered = last_good(tmp_path).load()
    assert remembered is not None
    assert remembered.snapshot == seen.snapshot


async def test_what_a_restart_has_to_know_of_the_registry_is_remembered_with_the_snapshot(tmp_path: Path) -> None:
    """Point 3."""
    now = time.monotonic()
    held = {
        "web/a": Held(Cause.GAP, 10.0, now + 12),
        "web/b": Held(Cause.RESET, None, None),
        # The wall clock was set meanwhile: nothing is held for longer than its time.
        "web/c": Held(Cause.GAP, 10.0, now + 5000),
    }
    memory = RememberedHolds(42, History("store", 7), {"web/a": 10.0}, held, doubted=True)
    await remember(tmp_path, Observation(WHOLE), memory=memory)
    remembered = last_good(tmp_path).load()
    assert remembered is not None
    found = remembered.memory
    assert (found.revision, found.history, found.leases, found.doubted) == (
        42,
        History("store", 7),
        {"web/a": 10.0},
        True,
    )
    assert found.held["web/b"] == held["web/b"]
    assert found.held["web/a"].until == pytest.approx(now + 12, abs=0.5)
    assert found.held["web/c"].until == pytest.approx(now + 15, abs=5)


def test_a_changed_ttl_is_remembered(tmp_path: Path) -> None:
    leases = {"web/a": 10.0}
    kept = LastGood(tmp_path, URL, structlog.get_logger(), lambda: RememberedHolds(42, leases=dict(leases)))
    kept.observe(Observation(WHOLE))
    for ttl in (10.0, 20.0):
        leases["web/a"] = ttl
        kept._write(kept._now())
        remembered = last_good(tmp_path).load()
        assert remembered is not None
        assert remembered.memory.leases == leases


def test_what_an_earlier_version_wrote_is_read(tmp_path: Path) -> None:
    """Point 3."""
    kept = last_good(tmp_path)
    kept.path.write_text(json.dumps({"revision": 42, "backends": [*map(backend_document, WHOLE.backends())]}))
    remembered = kept.load()
    assert remembered is not None
    assert (remembered.snapshot, remembered.memory) == (WHOLE, RememberedHolds(42))


async def test_doubt_is_written_and_does_not_make_the_snapshot_younger(tmp_path: Path) -> None:
    """Point 3. A run that is killed while the registry stands still has to be known as such."""
    pace = Pace(writing_share=1.0)  # a disk that is slow now makes the test no slower
    doubted = False
    kept = LastGood(tmp_path, URL, structlog.get_logger(), lambda: RememberedHolds(42, doubted=doubted), pace=pace)
    kept.observe(Observation(WHOLE))
    writing = asyncio.create_task(kept.run())
    await eventually(lambda: kept.path.exists() and not kept.load().memory.doubted)
    doubted = True
    kept.observe(Observation(WHOLE, stale="down"))
    before = time.time()
    await eventually(lambda: kept.load().memory.doubted and kept.path.stat().st_mtime <= before, timeout=30)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)


def test_of_two_writes_at_once_the_later_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, write = threading.Event(), lastgood.write_atomically

    def slowly(path: Path, data: bytes, mode: int) -> None:
        if not begun.is_set():
            begun.set()
            time.sleep(0.3)
        write(path, data, mode)

    monkeypatch.setattr(lastgood, "write_atomically", slowly)

    async def main() -> None:
        kept = last_good(tmp_path, pace=Pace(debounce=0.0))
        kept.observe(Observation(snapshot(revision=41)))
        writing = asyncio.create_task(kept.run())
        await eventually(begun.is_set)
        kept.observe(Observation(WHOLE))
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)

    asyncio.run(main())
    remembered = last_good(tmp_path).load()
    assert remembered is not None
    assert remembered.snapshot == WHOLE


async def test_a_change_is_remembered_as_the_whole_is_and_costs_what_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write of 100,000 unchanged backends as JSON would take half a second of CPU after each change."""
    written: list[str] = []

    def recorded(each: Backend) -> dict[str, Any]:
        written.append(each.key)
        return backend_document(each)

    monkeypatch.setattr(lastgood, "backend_document", recorded)
    builder = SnapshotBuilder()
    kept = last_good(tmp_path, pace=Pace(debounce=0.0, rest=0.0, writing_share=1.0))
    writing = asyncio.create_task(kept.run())
    events: list[RegistryEvent] = [
        Reset(1, {"a/x": b"10.0.0.1:80", "b/x": b"10.0.0.1:80", "b/y": b"10.0.0.2:80"}),
        Delta(2, {"b/x": b"10.0.0.3:80"}, frozenset()),
        Delta(3, {"c/x": b"10.0.0.4:80"}, frozenset()),
        Delta(4, {}, frozenset({"a/x"})),
        Delta(5, {}, frozenset({"b/x", "b/y", "c/x"})),
    ]
    expected = [["a/x", "b/x", "b/y"], ["b/x", "b/y"], ["c/x"], [], []]
    for event, keys in zip(events, expected, strict=True):
        written.clear()
        observation = builder.apply(event)
        kept.observe(observation)

        def is_remembered(observation: Observation = observation) -> bool:
            remembered = last_good(tmp_path).load()
            return remembered is not None and remembered.snapshot == observation.snapshot

        await eventually(is_remembered)
        assert written == keys
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)


async def test_what_is_written_is_of_one_moment(tmp_path: Path) -> None:
    """However long the write has to wait for a thread, and whatever becomes known meanwhile."""
    term = 41
    threads = ThreadPoolExecutor(1)
    busy = threading.Event()
    asyncio.get_running_loop().set_default_executor(threads)
    kept = LastGood(tmp_path, URL, structlog.get_logger(), lambda: RememberedHolds(42, History("store", term)))
    kept.observe(Observation(snapshot(revision=41)))
    asyncio.get_running_loop().run_in_executor(None, busy.wait)
    writing = asyncio.create_task(kept.run())
    await eventually(threads._work_queue.qsize)
    term = 42
    kept.observe(Observation(WHOLE))
    busy.set()
    await eventually(kept.path.exists)
    document = json.loads(kept.path.read_bytes())
    assert document["revision"] == document["history"]["term"]
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    document = json.loads(kept.path.read_bytes())
    assert document["revision"] == document["history"]["term"] == 42


class Options(PluginConfig):
    namespace: str = "prod"
    password: SecretStr = SecretStr("")


def test_registries_at_one_place_are_told_apart_by_their_options_and_not_by_the_access(tmp_path: Path) -> None:
    def name(url: str, settings: Options | None = None) -> str:
        return state_file(tmp_path, "snapshot", replace(RegistryURL.parse(url), settings=settings)).name

    known = name("redis://a")
    assert known == name("redis://a", Options()) == name("redis://a?ca=/x&password_file=/y")
    assert name("redis://a", Options(namespace="dev")) != known
    assert name("redis://a?db=1") not in (known, name("redis://a?db=2"))
    assert name("redis://a", Options(password=SecretStr("x"))) == name("redis://a", Options(password=SecretStr("y")))


def test_a_large_snapshot_is_written_beside_a_busy_thread_and_not_in_its_place(tmp_path: Path) -> None:
    services = (
        Service.of(f"s{number}", [backend(f"s{number}", f"b{each}") for each in range(100)]) for number in range(300)
    )
    large = Snapshot(1, MappingProxyType({service.name: service for service in services}))

    async def written(kept: LastGood) -> None:
        kept.observe(Observation(large))
        writing = asyncio.create_task(kept.run())
        await eventually(kept.path.exists)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)

    def share(directory: Path) -> float:
        kept = last_good(directory)
        writer = threading.Thread(target=asyncio.run, args=(written(kept),))
        of_all, own = time.process_time(), time.thread_time()
        writer.start()
        while time.thread_time() - own < 0.05:  # as a consumer that applies the same snapshot
            sum(range(1000))
        of_all, own = time.process_time() - of_all, time.thread_time() - own
        writer.join()
        assert kept.path.exists()
        return (of_all - own) / own

    # An equal share without pauses. A busy machine may take the processor from the other thread in one attempt.
    assert min(share(tmp_path / f"{attempt}") for attempt in range(3)) < 0.5
