"""Follows a registry for the daemon: the snapshot served, its age and doubts, held records, and the state on disk."""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import NamedTuple

from structlog.typing import FilteringBoundLogger

from discovery.consuming.events import contained_events
from discovery.consuming.holding import Held, LeaseChanges, RememberedHolds, RemovalHolds
from discovery.consuming.lastgood import PACE, LastGood, Pace, Remembered
from discovery.consuming.owners import Owners, RecordOwners
from discovery.consuming.watcher import Observation, SnapshotBuilder
from discovery.errors import DiscoveryError, describe
from discovery.model import Rejected, Snapshot
from discovery.registry import Registry, RegistryEvent, RegistryURL
from discovery.system.asyncio_tools import cancel_and_wait
from discovery.system.backoff import delays
from discovery.system.frequency import Budget, Failures

CANCEL_DEADLINE = 5.0
"""Seconds that following has to end. A registry of a plugin may hang, and is then left to itself."""


class Timing(NamedTuple):
    """Times in seconds."""

    remember_after: float = 3.0
    """Without a snapshot from the registry until the one on disk is served: a registry answers within one second."""
    silent_after: float = 10.0
    """Without any event of the registry until that is a fault: a registry reports its own faults earlier."""
    retries: Callable[[], Iterator[float]] = delays
    """Before each further watch after a fault."""
    pace: Pace = PACE
    """Of the writes of the snapshot."""


TIMING = Timing()
"""The times unless a test gives others."""


class RegistryFeed:
    """The latest snapshot, from any registry.

    `publish` is called with each new one, `ended` should following end, which `raise_if_failed` then tells why.
    Instants are `time.monotonic()`.
    """

    def __init__(
        self,
        log: FilteringBoundLogger,
        publish: Callable[[Snapshot], None],
        ended: Callable[[], None],
        timing: Timing = TIMING,
    ) -> None:
        """Begin without a snapshot, which differs from an empty snapshot."""
        self._log = log
        self._timing = timing
        self._publish = publish
        self._ended = ended
        self._rejections, self._sums, self._untold = Budget(10, 6.0), Budget(1, 60.0), 0
        self._task: asyncio.Task[None] | None = None
        self._registry: Registry | None = None
        self._state_dir: Path | None = None
        self._builder = SnapshotBuilder()
        self._owners = RecordOwners()  # of the snapshot served, which a new builder does not have yet
        self._holding = RemovalHolds()
        self._last_good: LastGood | None = None
        self._remembered: Remembered | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._expiry_at: float | None = None
        self._holds = 0
        self._answered = False
        self._faults = Failures()
        self.snapshot: Snapshot | None = None
        self.snapshot_time: float | None = None
        self.from_disk = False
        self.stale: str | None = None
        self.resets = 0
        self.arrived = time.monotonic()
        """When the last event came, or the last hold ended: what `publish` is called with follows from that."""

    @property
    def active(self) -> bool:
        """True if a registry is followed."""
        return self._task is not None

    @property
    def held(self) -> Mapping[str, Held]:
        """The records that the registry does not have and that are served nevertheless, by key."""
        return dict(self._holding.held)

    @property
    def owners(self) -> Owners:
        """The owners of the records in the snapshot; those of a snapshot from disk are not known."""
        return self._owners.told

    def release(self, service: str | None) -> tuple[str, ...]:
        """Give up the held records of a service, or (None) of every service. Returns their keys, ordered."""
        released = self._holding.release(service)
        self._stop_holding(released)
        return tuple(sorted(released))

    async def follow(self, registry: Registry, url: RegistryURL, state_dir: Path) -> None:
        """Follow this registry, if not followed yet; the snapshot at hand stands until it has told its own."""
        if self._task is not None and registry is self._registry and state_dir == self._state_dir:
            return
        await self._cancel()
        self._registry, self._state_dir = registry, state_dir
        last_good = LastGood(state_dir, url, self._log, self._memory, self._lease_changes, self._timing.pace)
        self._task = asyncio.create_task(self._follow(registry, last_good))

    async def stop(self) -> None:
        """Follow none, and have no snapshot. Idempotent."""
        await self._cancel()
        self._holding, self._owners = RemovalHolds(), RecordOwners()
        self.snapshot, self.snapshot_time, self.from_disk, self.stale = None, None, False, None

    async def _cancel(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            in_time = await cancel_and_wait(task, timeout=CANCEL_DEADLINE)  # a plugin's registry may hang
            if in_time and not task.cancelled():
                task.exception()  # logged already

    def raise_if_failed(self) -> None:
        """Raise the exception that ended the task: it never ends by itself."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()

    async def _follow(self, registry: Registry, last_good: LastGood) -> None:
        self._last_good, self._remembered = last_good, await asyncio.to_thread(last_good.load)
        self._builder = SnapshotBuilder()
        self._holding = RemovalHolds(self._remembered.memory if self._remembered else None)
        self._holds = 0
        self._answered = False
        writing = asyncio.create_task(last_good.run())
        remembering = asyncio.create_task(self._serve_remembered_when_late())
        try:
            retries = self._timing.retries
            async with aclosing(contained_events(registry, self._report_fault, retries)) as events:
                async for event in events:
                    self.arrived = time.monotonic()
                    self._answered = True
                    observation = self._apply_event(event)
                    self._observe(observation)
                    last_good.observe(observation)
                    self._report_held()
                    if observation.stale is not None and self.snapshot is None:
                        self._serve_remembered()
        except Exception as error:
            self._log.error("the registry can no longer be followed", exc_info=error)
            raise
        finally:
            self._expire_at(None)
            remembering.cancel()
            writing.cancel()
            await asyncio.gather(remembering, writing, return_exceptions=True)
            self._ended()

    def _apply_event(self, event: RegistryEvent) -> Observation:
        """Take in what the event says, but for the removals that are held."""
        before = self._builder.snapshot
        known: Iterable[str] = ()
        if before is not None:
            known = (each.key for each in before.backends())
        elif self._remembered is not None:
            known = self._remembered.records
        decision = self._holding.take(event, known, time.monotonic())
        keep = decision.keep
        if not keep or before is None:
            kept = list(self._remembered.backends(keep)) if keep and self._remembered else []
        else:
            kept = [backend for backend in before.backends() if backend.key in keep]
        return self._builder.apply(decision.event, kept)

    def _stop_holding(self, keys: Collection[str]) -> None:
        """Serve these held records no longer."""
        if keys:
            self.arrived = time.monotonic()
            snapshot = self._builder.drop(keys).snapshot
            if snapshot is not None:
                self._serve(snapshot)
                if self._last_good is not None and (self.stale is not None or self.from_disk):
                    self._last_good.serve(snapshot)
                elif self._last_good is not None:
                    self._last_good.observe(Observation(snapshot))
        self._report_held()

    def _expire(self) -> None:
        self._expiry = None
        self._stop_holding(self._holding.expire(time.monotonic()))

    def _expire_at(self, instant: float | None) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        self._expiry_at = instant
        if instant is not None:
            delay = max(0.0, instant - time.monotonic())
            self._expiry = asyncio.get_running_loop().call_later(delay, self._expire)

    def _report_held(self) -> None:
        """Log when a hold begins and ends, not for each record; and see to its end."""
        held = self._holding.held
        if self._holding.next_end != self._expiry_at or self._expiry is None:
            self._expire_at(self._holding.next_end)
        if len(held) > self._holds == 0:
            first = next(iter(held.values()))
            self._log.warning(
                "removals are not believed and the records stay in service; `discovery release` gives them up",
                cause=first.cause.value,
                records=len(held),
                unleased=sum(each.ttl is None for each in held.values()),
            )
        elif not held and self._holds:
            ended = self._holding.ended()
            self._log.info(
                "no removal is held any more",
                returned=ended.returned,
                expired=ended.expired,
                released=ended.released,
            )
        self._holds = len(held)

    def _memory(self) -> RememberedHolds:
        return self._holding.memory(time.monotonic())

    def _lease_changes(self) -> LeaseChanges | None:
        return self._holding.lease_changes(time.monotonic())

    def _observe(self, observation: Observation) -> None:
        if observation.stale is not None:
            if observation.stale != self.stale:
                revision = self.snapshot.revision if self.snapshot else None
                self._log.warning("registry cannot be followed", reason=observation.stale, serving_revision=revision)
            if self.stale is None and not self.from_disk:
                self.snapshot_time = time.monotonic() if self.snapshot is not None else None
            self.stale = observation.stale
            return
        if self.stale is not None:
            self._log.info(
                "registry is followed again", revision=observation.snapshot and observation.snapshot.revision
            )
        self.stale = None
        self.resets += observation.reset
        if observation.snapshot is not None:
            self.from_disk = False
            self.snapshot_time = time.monotonic()
            self._serve(observation.snapshot)

    def _serve(self, snapshot: Snapshot) -> None:
        self._owners = self._builder.owners
        if snapshot is self.snapshot:
            return
        before, self.snapshot = self.snapshot, snapshot
        known, more = (before.rejected, before.more_rejected) if before else ((), 0)
        if snapshot.rejected is not known or snapshot.more_rejected != more:
            # Not compared for each of many changes.
            self._report_rejected(snapshot, frozenset(known), max(0, snapshot.more_rejected - more))
        self._publish(snapshot)

    def _report_rejected(self, snapshot: Snapshot, known: Collection[Rejected], more: int) -> None:
        """Log the first few that are new, and the number of the rest."""
        fresh = [rejected for rejected in snapshot.rejected if rejected not in known]
        for at, rejected in enumerate(fresh):
            if not self._rejections.take():
                more += len(fresh) - at
                break
            what = "record rejected" if rejected.field is None else f"field {rejected.field!r} ignored"
            self._log.warning(what, key=rejected.key, reason=rejected.reason)
        self._untold += more
        if self._untold and self._sums.take():
            self._log.warning(
                f"and {self._untold} more rejections; /api/snapshot and `discovery services` list them",
                rejected=len(snapshot.rejected) + snapshot.more_rejected,
            )
            self._untold = 0

    def _report_fault(self, error: BaseException) -> None:
        """Log where the watch of a registry, which may be a plugin's, failed. The Stale that follows is shown."""
        reason = describe(error)
        if self._faults.add(reason):
            known = isinstance(error, DiscoveryError | OSError)
            self._log.error("the watch of the registry failed", reason=reason, exc_info=None if known else error)

    async def _serve_remembered_when_late(self) -> None:
        """Serve the snapshot on disk, and later report the fault, if the registry neither answers nor fails."""
        remember_after, silent_after = self._timing.remember_after, self._timing.silent_after
        await asyncio.sleep(remember_after)
        if self.snapshot is None:
            self._serve_remembered()
        await asyncio.sleep(silent_after - remember_after)
        if not self._answered:
            self._observe(Observation(self.snapshot, stale=f"the registry has told nothing for {silent_after:g} s"))

    def _serve_remembered(self) -> None:
        remembered = self._remembered
        if remembered is None:
            return
        self._log.warning(
            "serving the snapshot that an earlier run remembered",
            revision=remembered.snapshot.revision,
            age_seconds=round(remembered.age),
        )
        self.from_disk = True
        self.arrived = time.monotonic()
        self.snapshot_time = self.arrived - remembered.age
        self._builder.restore(remembered.snapshot)
        self._serve(remembered.snapshot)
        if self._last_good is not None:
            self._last_good.serve(remembered.snapshot)  # with the doubt, which the next run has to know
