"""The changes beside a remembered snapshot: equal to the snapshot written whole, and cheap."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from discovery.consuming.changelog import path_beside
from discovery.consuming.holding import RememberedHolds, RemovalHolds
from discovery.consuming.lastgood import LastGood, Pace, Remembered
from discovery.consuming.watcher import Observation, SnapshotBuilder
from discovery.model import Snapshot
from discovery.registry import Delta, History, RegistryEvent, RegistryURL, Reset, Stale

URL = RegistryURL.parse("etcd://10.0.0.1:2379/services")
SMALL = Pace(appended_from=0, changes_share=10.0)
"""Small snapshots have changes."""
KEYS = [f"{service}/{number}" for service in ("a", "b", "c") for number in range(4)]


class Followed:
    """A registry as followed by a daemon, whose snapshot is remembered."""

    def __init__(self, directory: Path, url: RegistryURL = URL, pace: Pace = SMALL) -> None:
        self.holds, self.builder = RemovalHolds(), SnapshotBuilder()
        self.now = 1000.0
        log = structlog.get_logger()
        self.kept = LastGood(directory, url, log, self._memory, lambda: self.holds.lease_changes(self.now), pace)

    def take(self, event: RegistryEvent) -> None:
        """Take in an event, as `RegistryFeed` does."""
        before = self.builder.snapshot
        known = [each.key for each in before.backends()] if before is not None else []
        decision = self.holds.take(event, known, self.now)
        keep = [each for each in before.backends() if each.key in decision.keep] if before is not None else []
        self.kept.observe(self.builder.apply(decision.event, keep))

    def wait(self, seconds: float) -> None:
        """Let time pass, and give up what is held no longer."""
        self.now += seconds
        if dropped := self.holds.expire(self.now):
            self.kept.observe(Observation(self.builder.drop(dropped).snapshot))

    def remember(self) -> None:
        """Write, as the daemon does a moment after a change."""
        self.kept._write(self.kept._now())

    @property
    def changes(self) -> Path:
        """The file of changes."""
        return path_beside(self.kept.path)

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot that is served."""
        assert self.builder.snapshot is not None
        return self.builder.snapshot

    def assert_remembered(self) -> None:
        """Expect what a restart finds to be the present state."""
        found = remembered(self.kept)
        memory = self._memory()
        assert found.snapshot == Snapshot(self.snapshot.revision, self.snapshot.services)
        assert (found.memory.history, found.memory.leases) == (memory.history, memory.leases)
        assert (found.memory.held.keys(), found.memory.doubted) == (memory.held.keys(), memory.doubted)

    def _memory(self) -> RememberedHolds:
        return self.holds.memory(self.now)


def remembered(kept: LastGood) -> Remembered:
    """Return what a restart finds."""
    found = LastGood(kept.path.parent, URL, structlog.get_logger()).load()
    assert found is not None
    return found


def events(choices: random.Random, revision: int) -> Iterator[RegistryEvent | float]:
    """Yield an endless history: changes mostly, with and without leases, gaps, listings, and seconds that pass."""
    while True:
        revision += 1
        some = choices.sample(KEYS, choices.randint(1, 3))
        match choices.random():
            case chance if chance < 0.6:
                puts = {key: f"10.0.0.1:{choices.randint(1, 9)}".encode() for key in some}
                leases = {key: choices.choice([10.0, 20.0]) for key in some if choices.random() < 0.7}
                yield Delta(revision, puts, frozenset(), leases)
            case chance if chance < 0.8:
                yield Delta(revision, {}, frozenset(some), {})
            case chance if chance < 0.84:
                yield Delta(revision, {}, leases=dict.fromkeys(some, 30.0))
            case chance if chance < 0.88:
                yield Stale("down")
                yield Delta(revision, {})
            case chance if chance < 0.92:
                records = dict.fromkeys(some, b"10.0.0.2:80")
                yield Reset(revision, records, dict.fromkeys(records, 10.0), History("store", choices.randint(1, 2)))
            case _:
                yield choices.choice([1.0, 60.0])


@pytest.mark.parametrize("seed", range(8))
def test_changes_are_remembered_as_the_whole_would_be(tmp_path: Path, seed: int) -> None:
    choices = random.Random(seed)
    followed = Followed(tmp_path)
    followed.take(Reset(1, dict.fromkeys(KEYS, b"10.0.0.1:80"), {KEYS[0]: 10.0}, History("store", 1)))
    appended = 0
    for event, _ in zip(events(choices, 1), range(60), strict=False):
        if isinstance(event, float):
            followed.wait(event)
        else:
            followed.take(event)
        if choices.random() < 0.7:
            before = followed.kept.path.stat().st_ino if followed.kept.path.exists() else None
            followed.remember()
            followed.assert_remembered()
            appended += followed.kept.path.stat().st_ino == before
    assert appended > 5


def test_a_change_among_many_backends_appends_a_line(tmp_path: Path) -> None:
    followed = Followed(tmp_path)
    records = {f"web/{number}": f"10.0.{number // 250}.1:80".encode() for number in range(5000)}
    followed.take(Reset(1, records, dict.fromkeys(records, 10.0), History("store", 1)))
    followed.remember()
    whole = followed.kept.path.stat()
    followed.take(Delta(2, {"web/7": b"10.9.9.9:80"}, leases={"web/7": 10.0}))
    followed.remember()
    assert followed.kept.path.stat().st_ino == whole.st_ino
    assert followed.changes.stat().st_size < 500
    assert followed.changes.stat().st_mode & 0o077 == 0
    followed.assert_remembered()


def test_what_a_crash_leaves_of_the_last_line_counts_for_nothing(tmp_path: Path) -> None:
    followed = Followed(tmp_path)
    followed.take(Reset(1, {"web/a": b"10.0.0.1:80"}, {}, History("store", 1)))
    followed.remember()
    snapshots = []
    for revision in (2, 3, 4):
        followed.take(Delta(revision, {"web/a": f"10.0.0.{revision}:80".encode()}, leases={"web/a": 10.0 * revision}))
        followed.remember()
        snapshots.append(remembered(followed.kept).snapshot)
    whole = followed.changes.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole)):
        followed.changes.write_bytes(whole[:length])
        found = remembered(followed.kept)
        lines = sum(end <= length for end in ends) - 1
        assert found.snapshot.revision == max(1, 1 + lines)
        assert lines < 1 or found.snapshot == snapshots[lines - 1]


def test_a_line_that_is_none_ends_the_changes_and_is_reported(tmp_path: Path) -> None:
    followed = Followed(tmp_path)
    followed.take(Reset(1, {"web/a": b"10.0.0.1:80"}, {}, History("store", 1)))
    followed.remember()
    followed.take(Delta(2, {"web/a": b"10.0.0.2:80"}))
    followed.remember()
    with followed.changes.open("ab") as changes:
        changes.write(b'{"revision": 3}\n')
    with capture_logs() as log:
        assert remembered(followed.kept).snapshot.revision == 2
    assert [each["event"] for each in log] == ["changes of the remembered snapshot cannot be read"]


def test_changes_of_another_snapshot_count_for_nothing(tmp_path: Path) -> None:
    """A crash may come between a snapshot that is written whole and the removal of the changes before it."""
    followed = Followed(tmp_path)
    followed.take(Reset(1, {"web/a": b"10.0.0.1:80"}, {}, History("store", 1)))
    followed.remember()
    followed.take(Delta(2, {"web/b": b"10.0.0.2:80"}))
    followed.remember()
    changes = followed.changes.read_bytes()
    followed.kept._write(followed.kept._whole())
    assert not followed.changes.exists()
    followed.changes.write_bytes(changes.replace(b"10.0.0.2", b"10.0.0.9"))
    followed.assert_remembered()


@pytest.mark.parametrize(
    "displaced", ["another daemon", "snapshot replaced", "changes replaced", "changes removed", "changes longer"]
)
def test_what_another_daemon_replaces_is_written_whole_the_next_time(tmp_path: Path, displaced: str) -> None:
    followed = Followed(tmp_path)
    followed.take(Reset(1, {"web/a": b"10.0.0.1:80"}, {}, History("store", 1)))
    followed.remember()
    followed.take(Delta(2, {"web/a": b"10.0.0.2:80"}))
    followed.remember()
    if displaced == "another daemon":
        another = Followed(tmp_path)
        another.take(Reset(1, {"web/a": b"10.0.0.8:80"}, {}, History("store", 1)))
        another.remember()
    elif displaced.endswith("replaced"):
        file = followed.kept.path if displaced == "snapshot replaced" else followed.changes
        name = json.loads(followed.kept.path.read_bytes())["changes"].encode()
        beside = tmp_path / "beside"
        beside.write_bytes(file.read_bytes().replace(name, name[::-1]))
        beside.replace(file)
    elif displaced == "changes removed":
        followed.changes.unlink()
    else:
        followed.changes.write_bytes(followed.changes.read_bytes() * 2)
    followed.take(Delta(3, {"web/a": b"10.0.0.3:80"}))
    followed.remember()
    followed.remember()
    followed.assert_remembered()


def test_many_changes_are_written_whole(tmp_path: Path) -> None:
    followed = Followed(tmp_path, pace=Pace(appended_from=0))
    records = {f"web/{number}": b"10.0.0.1:80" for number in range(20)}
    followed.take(Reset(1, records, {}, History("store", 1)))
    followed.remember()
    whole = json.loads(followed.kept.path.read_bytes())["changes"]  # an inode number may be that of a file before
    for revision in range(2, 30):
        followed.take(Delta(revision, {"web/1": f"10.0.0.1:{revision}".encode()}))
        followed.remember()
        size = followed.changes.stat().st_size if followed.changes.exists() else 0
        assert size < followed.kept.path.stat().st_size
    assert json.loads(followed.kept.path.read_bytes())["changes"] != whole
    followed.assert_remembered()


def test_the_last_write_of_a_run_is_whole(tmp_path: Path) -> None:
    """A daemon of an earlier version reads no changes."""
    followed = Followed(tmp_path)
    followed.take(Reset(1, {"web/a": b"10.0.0.1:80"}, {}, History("store", 1)))
    followed.remember()
    followed.take(Delta(2, {"web/a": b"10.0.0.2:80"}))
    followed.remember()
    followed.kept._write(followed.kept._whole())
    assert json.loads(followed.kept.path.read_bytes())["revision"] == 2
    assert not followed.changes.exists()
