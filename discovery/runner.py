"""Runs one consumer: a thread and loop of its own, latest wins, retry, health. Knows no registry."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from discovery.backoff import delays
from discovery.isolation import HEALTH_EVERY, Isolated, Phase, PluginStatus
from discovery.model import Snapshot, diff
from discovery.plugin import AnyConsumer, Context, PluginConfig, Update

FINISH_GRACE = 2.0
SLOW_APPLY = 30.0


@dataclass(frozen=True, slots=True)
class ConsumerStatus(PluginStatus):
    """One consumer as the core measures it."""

    offered_revision: int | None = None
    applied_revision: int | None = None
    behind_since: float | None = None
    applies: int = 0
    apply_seconds: float = 0.0

    @property
    def problem(self) -> str | None:
        """Why it is not well, in a line, or None."""
        busy = time.monotonic() - self.phase_since
        if self.phase is Phase.APPLYING and busy > SLOW_APPLY:
            return f"an apply has been running for {busy:.0f} s"
        return super(ConsumerStatus, self).problem


@dataclass(frozen=True, slots=True)
class Instance:
    """A consumer as configured: its name, its plugin, and how to make it.

    `quiet_period` is how many seconds to wait after a change, so that those that follow closely are applied with it.
    """

    name: str
    plugin: str
    consumer: type[AnyConsumer]
    config: PluginConfig
    quiet_period: float = 0.0


class Runner(Isolated[Instance, AnyConsumer, ConsumerStatus]):
    """One consumer, isolated. An apply in progress is given a moment when it is to stop, then cancelled."""

    KIND = "consumer"

    def __init__(
        self,
        instance: Instance,
        run_dir: Path,
        log: FilteringBoundLogger,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; `start` begins. The instance's own directory is made, and locked, in `run_dir`."""
        super().__init__(instance, ConsumerStatus(instance.name, instance.plugin), run_dir, log, changed)
        self._offered: Snapshot | None = None
        self._behind_since = 0.0
        self._applied: Snapshot | None = None
        self._apply_requested = False

    @property
    def status(self) -> ConsumerStatus:
        """How it is now; from any thread."""
        applied, offered = self._applied, self._offered
        return replace(
            super().status,
            offered_revision=None if offered is None else offered.revision,
            behind_since=None if offered is applied else self._behind_since,
        )

    def offer(self, snapshot: Snapshot) -> None:
        """Make `snapshot` the one to apply next, in place of any that still waits. Returns at once."""
        if self._offered is self._applied:
            self._behind_since = time.monotonic()
        self._offered = snapshot
        self._wake.set()

    def request_apply(self) -> None:
        """Apply the latest snapshot even if it has not changed, without waiting out a retry. Returns at once."""
        self._apply_requested = True
        self._wake.set()

    def _make(self, instance: Instance) -> AnyConsumer:
        return instance.consumer(instance.config, Context(instance.name, self._run_dir, self._log, self.request_apply))

    def _begin(self) -> None:
        self._applied, self._behind_since = None, time.monotonic()
        super()._begin()

    def _grace(self) -> float:
        return FINISH_GRACE if self._phase[0] is Phase.APPLYING else 0.0

    async def _follow(self, consumer: AnyConsumer, instance: Instance) -> Instance | None:
        waits = delays()
        not_before = 0.0  # absolute: a new snapshot does not shorten the wait after a failure
        next_health = 0.0
        anyway = False
        while not self._stopping.is_set():
            latest = self._instance
            if latest is not instance:
                if not await consumer.reconfigure(latest.config):
                    return latest
                instance, anyway, not_before = latest, True, 0.0
            if self._apply_requested:
                self._apply_requested, anyway, not_before = False, True, 0.0
            snapshot = self._offered
            due = snapshot is not None and (anyway or snapshot is not self._applied)
            if snapshot is not None and due and time.monotonic() >= not_before:
                if await self._apply(consumer, snapshot, anyway=anyway):
                    waits, not_before, anyway = delays(), 0.0, False
                else:
                    # How far it got nobody knows, so that even what was applied before must be applied.
                    not_before, anyway = time.monotonic() + next(waits), True
                continue
            if time.monotonic() >= next_health:
                await self._check_health(consumer)
                next_health = time.monotonic() + HEALTH_EVERY
            wake_at = min(next_health, not_before) if due else next_health
            woken = await self._wake.wait(wake_at - time.monotonic())
            # Counted from the first change: others do not put it off.
            if woken and not due and instance.quiet_period and self._applied:
                not_before = time.monotonic() + instance.quiet_period
        return None

    async def _apply(self, consumer: AnyConsumer, snapshot: Snapshot, *, anyway: bool) -> bool:
        previous = self._applied
        changes = diff(previous, snapshot)
        if previous is not None and not changes and not anyway:
            self._applied = snapshot
            self._report(applied_revision=snapshot.revision)
            return True
        begun = time.monotonic()
        self._enter(Phase.APPLYING)
        try:
            await consumer.apply(Update(snapshot, previous, changes))
        except BaseException as error:
            if self._ends_us(error):
                raise
            self._fail("apply failed", error)
            return False
        took = time.monotonic() - begun
        self._applied = snapshot
        self._report(
            Phase.WAITING,
            applied_revision=snapshot.revision,
            applies=self._status.applies + 1,
            apply_seconds=self._status.apply_seconds + took,
            error=None,
        )
        self._log.debug("applied", revision=snapshot.revision, seconds=took)
        return True
