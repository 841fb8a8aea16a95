"""The last good snapshot on disk, so that a restart while the registry is away still serves.

A file has the snapshot whole. The changes of a large snapshot are appended to a file beside it, until there are so many
that the snapshot is written whole again, and at the end of the run.
"""

import asyncio
import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from structlog.typing import FilteringBoundLogger

from discovery.consuming.changelog import ChangeLog, DisplacedError, Entry, path_beside, replay
from discovery.consuming.holding import Cause, Held, LeaseChanges, RememberedHolds, hold_seconds
from discovery.consuming.watcher import Observation
from discovery.documents import backend_document, backend_of
from discovery.errors import RecordError
from discovery.model import Backend, Service, Snapshot, diff
from discovery.registry import History, RegistryURL
from discovery.system.asyncio_tools import wait_for_event
from discovery.system.files import write_atomically

AT_ONCE = 100
"""Backends, leases or holds whose text is made between two pauses, in less than a millisecond."""

T = TypeVar("T")


class Pace(NamedTuple):
    """How often and how much is written: times in seconds, sizes in bytes, and shares."""

    debounce: float = 0.1
    """After a change in which others are awaited, to be written with it."""
    rest: float = 1.0
    """Between two writes, at least."""
    confirm_every: float = 15.0
    """Between two writes of an unchanged snapshot. The file's age after a restart is wrong by this time at most."""
    writing_share: float = 0.05
    """The largest share of the time that is spent on writing: a large snapshot that changes all the time rests the
    disk."""
    give_way: float = 0.0001
    """Of a pause, in which another thread gets the interpreter at once.

    Without pauses the first write of a large snapshot takes every second 5 ms from the consumers, which apply the same
    snapshot.
    """
    appended_from: int = 256 * 1024
    """Size of a snapshot, some 1,500 backends, from which changes are appended: a smaller one is written as quickly."""
    changes_share: float = 0.5
    """The largest size of the file of changes in proportion to the snapshot: a daemon that starts reads both files."""


PACE = Pace()
"""The pace unless a test gives another."""


@dataclass(frozen=True)
class Remembered:
    """The state that an earlier run left: a snapshot, its memory, and the seconds since it was known to be true."""

    revision: int
    records: Mapping[str, Mapping[str, Any]]
    """The records by key, as JSON objects. Each is validated on use: a start that uses none is not delayed."""
    age: float
    memory: RememberedHolds = field(default_factory=RememberedHolds)

    @cached_property
    def snapshot(self) -> Snapshot:
        """The snapshot, without what is not valid."""
        return Snapshot.of(self.revision, self.backends(self.records))

    def backends(self, keys: Iterable[str]) -> Iterator[Backend]:
        """The backends of these keys, without those that are not valid."""
        for key in keys:
            with suppress(RecordError):
                yield backend_of(self.records[key])


class LastGood:
    """Keeps the latest snapshot of a registry in a file, written a moment after a change and off the loop."""

    def __init__(
        self,
        state_dir: Path,
        registry: RegistryURL,
        log: FilteringBoundLogger,
        memory: Callable[[], RememberedHolds] = RememberedHolds,
        lease_changes: Callable[[], LeaseChanges | None] = lambda: None,
        pace: Pace = PACE,
    ) -> None:
        """Name the file after the registry, so that each registry has a file of its own.

        `memory` gives what is written beside the snapshot; instants in it are `time.monotonic()`. `lease_changes` gives
        the changes of `memory` since its last call; None for others than those of leases.
        """
        self.path = state_file(state_dir, "snapshot", registry)
        self._log = log
        self._pace = pace
        self._memory = memory
        self._lease_changes = lease_changes
        self._changes = ChangeLog(self.path)
        self._size = 0  # of the file, in bytes
        self._latest: Snapshot | None = None
        self._newest: _Moment | None = None
        self._written: _Moment | None = None
        self._stale = False
        self._true_at = time.time()
        self._failed: str | None = None
        self._changed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None  # of `run`
        self._timer: asyncio.TimerHandle | None = None
        self._ending = threading.Event()
        self._documents = _Documents(lambda: self._ending.wait(pace.give_way))
        self._waited = 0.0
        self._writing = threading.Lock()  # the last write, at the end, may meet one that is under way

    def observe(self, observation: Observation) -> None:
        """Remember the snapshot, soon, unless the registry no longer vouches for the snapshot."""
        before, self._stale = self._stale, observation.stale is not None
        if self._stale:
            if not before and self._latest is not None:
                self._true_at = time.time()
                self._change()  # a restart has to know that the registry is in doubt
        elif observation.snapshot is not self._latest:
            self._latest = observation.snapshot
            self._change()

    def serve(self, snapshot: Snapshot) -> None:
        """Remember `snapshot`, which consumers still get although the registry does not confirm its contents now.

        The time of the last confirmation stays, and the file also has what `memory` says of the doubt.
        """
        self._latest, self._stale = snapshot, True
        self._change()

    async def run(self) -> None:
        """Write what changed, and mark what did not as still true, until cancelled; then write it whole."""
        pace, self._loop = self._pace, asyncio.get_running_loop()
        try:
            while True:
                await wait_for_event(self._changed, pace.confirm_every)
                self._changed.clear()
                seconds = await asyncio.to_thread(self._write, self._now())
                await asyncio.sleep(max(min(pace.rest, pace.confirm_every), seconds / pace.writing_share))
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._ending.set()  # the loop waits from now on: neither this write nor one that is under way pauses
            self._write(self._whole())

    def load(self) -> Remembered | None:
        """The state of an earlier run; None if there is none that can be read."""
        try:
            document = json.loads(self.path.read_bytes())
            records = {f"{each['service']}/{each['id']}": each for each in document["backends"]}
            self._replay(document, records)
            written_at = self.path.stat().st_mtime
            if self._latest is None:  # else it is this run that knows
                self._true_at = written_at
            age = max(0.0, time.time() - written_at)
            return Remembered(document["revision"], records, age, _memory(document))
        except FileNotFoundError:
            return None
        except (OSError, RecordError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._log.warning("the remembered snapshot cannot be read", path=str(self.path), reason=str(error))
            return None

    def _change(self) -> None:
        """Wake `run` a moment later, and no task now: the loop is to be idle while consumers apply the change."""
        if self._loop is None:
            self._changed.set()
        elif self._timer is None:
            self._timer = self._loop.call_later(self._pace.debounce, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._changed.set()

    def _replay(self, document: dict[str, Any], records: dict[str, Any]) -> None:
        try:
            replay(self.path, document, records)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            path = path_beside(self.path)
            self._log.warning("changes of the remembered snapshot cannot be read", path=str(path), reason=str(error))

    def _now(self) -> "_Moment | None":
        """The state to write, at this moment. Called on the loop, as all that changes the state."""
        changes, written, latest = self._lease_changes(), self._written, self._latest
        is_small = self._size < self._pace.appended_from
        is_long = self._changes.size > self._pace.changes_share * self._size
        if changes is None or latest is None or written is None or written is not self._newest or is_small or is_long:
            return self._whole()
        moment = written._replace(snapshot=latest, doubted=changes.doubted, true_at=self._known_true_at(), entry=None)
        if latest is not written.snapshot or changes.leases or changes.doubted != written.doubted:
            entry = Entry(latest.revision, diff(written.snapshot, latest), changes.leases, changes.doubted)
            moment = moment._replace(memory=None, entry=entry)
        self._newest = moment
        return moment

    def _whole(self) -> "_Moment | None":
        if self._latest is None:
            return None
        memory = self._memory()
        self._newest = _Moment(self._latest, memory.doubted, self._known_true_at(), memory)
        return self._newest

    def _known_true_at(self) -> float:
        return self._true_at if self._stale else time.time()

    def _write(self, moment: "_Moment | None") -> float:
        """Write, and return for how many seconds the processor or the disk was at work. Pauses do not count."""
        with self._writing:
            begun, self._waited = time.monotonic(), 0.0
            if moment is not None and moment is self._newest:  # else a newer one is written, or about to be
                self._write_newest(moment)
            return time.monotonic() - begun - self._waited

    def _write_newest(self, moment: "_Moment") -> None:
        written, self._written = self._written, None
        try:
            if moment.entry is not None:
                self._changes.append(moment.entry)
            elif moment.memory is not None and (written is None or not moment.says_the_same_as(written)):
                self._write_whole(moment)
            # How old it is counts from when it was last known to be true.
            os.utime(self.path, (moment.true_at, moment.true_at))
            if self._failed is not None:
                self._log.info("the snapshot is remembered again", path=str(self.path))
            self._written, self._failed = moment, None
        except DisplacedError:  # a daemon that is replaced, or replaces this one: written whole the next time
            self._log.debug("the remembered snapshot was replaced by another program", path=str(self.path))
        except OSError as error:
            if error.strerror != self._failed:
                self._failed = error.strerror
                reason = f"{error.strerror}; mend that, or choose another directory with --state-dir"
                self._log.warning("the snapshot cannot be remembered", path=str(self.path), reason=reason)

    def _write_whole(self, moment: "_Moment") -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = secrets.token_hex(8)
        begun, worked = time.monotonic(), time.thread_time()
        parts = self._documents.of(moment.snapshot, moment.memory or RememberedHolds(), name)
        self._waited = max(0.0, time.monotonic() - begun - (time.thread_time() - worked))
        write_atomically(self.path, parts, 0o600)
        self._size = sum(map(len, parts))
        self._changes.begin(name)


class _Moment(NamedTuple):
    """The state at a moment. `true_at` is the wall-clock time at which the snapshot was known to be true.

    `entry` is the difference from the moment before, where that is written; then `memory` may be None.
    """

    snapshot: Snapshot
    doubted: bool
    true_at: float
    memory: RememberedHolds | None = None
    entry: Entry | None = None

    def says_the_same_as(self, other: "_Moment") -> bool:
        """Return True if both have the same document."""
        return self.snapshot is other.snapshot and self.memory == other.memory


class _Documents:
    """Makes the contents of the file for each snapshot in turn. The work is proportional to the changed services."""

    def __init__(self, pause: Callable[[], object]) -> None:
        """Begin without a moment. `pause` lets other threads have the interpreter for a moment."""
        self._pause = pause
        self._made = 0  # since the last pause
        self._texts: dict[str, tuple[Service, bytes]] = {}
        self._leases: tuple[Mapping[str, float], bytes] = {}, b""

    def of(self, snapshot: Snapshot, memory: RememberedHolds, changes: str) -> list[bytes]:
        """Return the contents of the file, in parts. `changes` is what the file of changes names the snapshot by."""
        before, self._texts = self._texts, {}
        for name, service in snapshot.services.items():
            known = before.get(name)
            self._texts[name] = known if known and known[0] is service else (service, self._text(service))
        parts = [f'{{"revision": {snapshot.revision}, "changes": "{changes}", "backends": ['.encode()]
        for _, text in self._texts.values():
            parts += (text, b", ") if text else ()
        if len(parts) > 1:
            del parts[-1]  # the last comma
        leases, held = self._leases_text(memory.leases), self._held_text(memory.held)
        rest = json.dumps(_memory_document(memory))[1:].encode()
        return [*parts, b'], "leases": {', leases, b'}, "held": {', held, b"}, ", rest]

    def _leases_text(self, leases: Mapping[str, float]) -> bytes:
        """Return the TTLs by key as the members of a JSON object. A new address of a leased record changes none."""
        if self._leases[0] != leases:
            some = (json.dumps(dict(each))[1:-1].encode() for each in self._in_turns(leases.items()))
            self._leases = leases, b", ".join(some)
        return self._leases[1]

    def _held_text(self, held: Mapping[str, Held]) -> bytes:
        """Return the holds by key as the members of a JSON object, their ends by the wall clock."""
        ahead = time.time() - time.monotonic()
        some = (
            json.dumps({key: _held_document(hold, ahead) for key, hold in each})[1:-1].encode()
            for each in self._in_turns(held.items())
        )
        return b", ".join(some)

    def _text(self, service: Service) -> bytes:
        """Return the backends of a service as JSON objects, separated by commas."""
        # Not as registry records: what was read could be too long for one once it is written our way.
        some = (json.dumps([*map(backend_document, each)])[1:-1].encode() for each in self._in_turns(service.backends))
        return b", ".join(some)

    def _in_turns(self, entries: Iterable[T]) -> Iterator[list[T]]:
        """Yield at most AT_ONCE entries at a time, and pause after AT_ONCE of these or earlier entries.

        One call of the JSON encoder keeps the interpreter from the other threads, however long the call takes.
        """
        rest = iter(entries)
        while some := list(islice(rest, AT_ONCE)):
            yield some
            self._made += len(some)
            if self._made >= AT_ONCE:
                self._made = 0
                self._pause()


def _held_document(hold: Held, ahead: float) -> dict[str, Any]:
    """The hold as JSON has it, its end by the wall clock, which outlives the process and is `ahead` of `monotonic`."""
    return {"cause": hold.cause.value, "ttl": hold.ttl, "until": hold.until and hold.until + ahead}


def _memory_document(memory: RememberedHolds) -> dict[str, Any]:
    """The memory without leases and holds, as JSON has it."""
    history = memory.history
    return {
        "history": None if history is None else {"store": history.store, "term": history.term},
        "doubted": memory.doubted,
    }


def _memory(document: Mapping[str, Any]) -> RememberedHolds:
    """Read the memory; what an earlier version has not written is empty. Raises ValueError, KeyError or TypeError."""
    now, ahead = time.monotonic(), time.time() - time.monotonic()
    history = document.get("history")
    held = {}
    for key, each in document.get("held", {}).items():
        until = None if each["until"] is None else float(each["until"]) - ahead
        ttl = None if each["ttl"] is None else float(each["ttl"])
        # However the wall clock was set meanwhile.
        held[key] = Held(Cause(each["cause"]), ttl, until and min(until, now + hold_seconds(ttl)))
    return RememberedHolds(
        int(document["revision"]),
        History(str(history["store"]), int(history["term"])) if history else None,
        {key: float(ttl) for key, ttl in document.get("leases", {}).items()},
        held,
        bool(document.get("doubted", False)),
    )


def state_file(state_dir: Path, what: str, registry: RegistryURL) -> Path:
    """Where `what` is kept of this registry: daemons of other registries may share the directory."""
    name = hashlib.sha256(os.fsencode(registry.identity)).hexdigest()[:16]
    return state_dir / f"{what}-{name}.json"
