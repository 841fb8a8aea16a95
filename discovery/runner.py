"""Runs one consumer: a thread and loop of its own, latest wins, retry, health. Knows no registry."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from discovery import rundir
from discovery.backoff import delays
from discovery.errors import CannotStartError, DiscoveryError
from discovery.model import Snapshot, diff
from discovery.plugin import AnyConsumer, Context, Health, PluginConfig, Update

HEALTH_EVERY = 2.0
FINISH_GRACE = 2.0
SLOW_APPLY = 30.0


class Phase(StrEnum):
    """What a consumer is doing."""

    STARTING = "starting"
    WAITING = "waiting"
    APPLYING = "applying"
    RETRYING = "retrying"
    STOPPED = "stopped"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class ConsumerStatus:
    """One consumer as the core measures it. Instants are `time.monotonic()`, durations seconds."""

    name: str
    plugin: str
    phase: Phase = Phase.STARTING
    phase_since: float = field(default_factory=time.monotonic)
    setup_tried: bool = False
    offered_revision: int | None = None
    applied_revision: int | None = None
    behind_since: float | None = None
    applies: int = 0
    failures: int = 0
    apply_seconds: float = 0.0
    error: str | None = None
    health: Health = field(default_factory=Health)

    @property
    def problem(self) -> str | None:
        """Why it is not well, in a line, or None."""
        busy = time.monotonic() - self.phase_since
        if self.phase is Phase.APPLYING and busy > SLOW_APPLY:
            return f"an apply has been running for {busy:.0f} s"
        return self.error or (None if self.health.ok else self.health.detail or "unhealthy")


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


class Runner:
    """One consumer, isolated: it may block, fail or be slow without delaying anybody.

    `changed` is called, on the consumer's thread, once its setup has been tried and when it can never run again.
    """

    def __init__(
        self,
        instance: Instance,
        run_dir: Path,
        log: FilteringBoundLogger,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; `start` begins. The instance's own directory is made, and locked, in `run_dir`."""
        self._instance = instance
        self._run_dir = run_dir / instance.name
        self._log = log.bind(consumer=instance.name)
        self._changed = changed
        self._status = ConsumerStatus(instance.name, instance.plugin)
        self._phase = (Phase.STARTING, time.monotonic())
        self._wake = _Wake()
        self._offered: Snapshot | None = None
        self._behind_since = 0.0
        self._applied: Snapshot | None = None
        self._apply_requested = False
        self._stopping = False
        self._tearing_down = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name=f"consumer-{instance.name}", daemon=True)

    @property
    def instance(self) -> Instance:
        """What it was last told to be."""
        return self._instance

    @property
    def status(self) -> ConsumerStatus:
        """How it is now; from any thread."""
        (phase, phase_since), applied, offered = self._phase, self._applied, self._offered
        return replace(
            self._status,
            phase=phase,
            phase_since=phase_since,
            offered_revision=None if offered is None else offered.revision,
            behind_since=None if offered is applied else self._behind_since,
        )

    def start(self) -> None:
        """Begin, on a thread of its own."""
        self._thread.start()

    def offer(self, snapshot: Snapshot) -> None:
        """Make `snapshot` the one to apply next, in place of any that still waits. Returns at once."""
        if self._offered is self._applied:
            self._behind_since = time.monotonic()
        self._offered = snapshot
        self._wake.set()

    def reconfigure(self, instance: Instance) -> None:
        """Go on as `instance`: in place if the consumer can, else by a restart of it. Returns at once."""
        self._instance = instance
        self._wake.set()

    def request_apply(self) -> None:
        """Apply the latest snapshot even if it has not changed, without waiting out a retry. Returns at once."""
        self._apply_requested = True
        self._wake.set()

    def stop(self) -> None:
        """Ask it to stop; an apply in progress is given a moment, then cancelled. Returns at once: see `join`."""
        self._stopping = True
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # it has ended by itself
                loop.call_soon_threadsafe(self._on_stop)

    async def join(self, timeout: float) -> bool:
        """Wait until it has stopped. False if it has not within `timeout` seconds: its thread is then abandoned."""
        deadline = time.monotonic() + timeout
        while self._thread.is_alive() and time.monotonic() < deadline:  # noqa: ASYNC110 - a thread wakes no loop
            await asyncio.sleep(0.01)
        return not self._thread.is_alive()

    def _on_stop(self) -> None:
        grace = FINISH_GRACE if self._phase[0] is Phase.APPLYING else 0
        asyncio.get_running_loop().call_later(grace, self._interrupt)

    def _interrupt(self) -> None:
        # A teardown is never cut short: what it does not release would outlive us.
        if self._task is not None and not self._tearing_down:
            self._task.cancel()

    def _enter(self, phase: Phase) -> None:
        self._phase = (phase, time.monotonic())

    def _report(self, phase: Phase | None = None, **changes: Any) -> None:
        self._status = replace(self._status, **changes)
        if phase is not None:
            self._enter(phase)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except CannotStartError as error:
            self._log.error("cannot start", reason=str(error))
            self._die(str(error))
        except BaseException as error:  # noqa: BLE001 - the thread is the boundary: what a plugin raises ends here
            self._log.error("consumer died", reason=describe(error), exc_info=error)
            self._die(describe(error))
        else:
            self._enter(Phase.STOPPED)

    def _die(self, reason: str) -> None:
        self._report(Phase.DEAD, error=reason, setup_tried=True)
        self._changed()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._wake.open()
        with rundir.lock(self._run_dir / "lock", f"consumer {self._instance.name!r}"):
            self._task = asyncio.create_task(self._serve())
            with suppress(asyncio.CancelledError):
                await self._task

    async def _serve(self) -> None:
        """Be one instance after another, until stopped."""
        instance: Instance | None = self._instance
        waits = delays()
        while instance is not None and not self._stopping:
            try:
                instance, waits = await self._serve_as(instance), delays()
            except CannotStartError:
                raise
            except Exception as error:  # noqa: BLE001 - a plugin may raise anything
                wait = next(waits)
                self._fail("setup failed", error)
                self._changed()
                until = time.monotonic() + wait
                while self._instance is instance and (left := until - time.monotonic()) > 0:
                    await self._wake.wait(left)
                instance = self._instance

    async def _serve_as(self, instance: Instance) -> Instance | None:
        """Be `instance` until stopped (None) or told to become another, which is returned."""
        self._enter(Phase.STARTING)
        context = Context(instance.name, self._run_dir, self._log, self.request_apply)
        consumer = instance.consumer(instance.config, context)
        try:
            await consumer.setup()
            self._applied, self._behind_since = None, time.monotonic()
            self._report(Phase.WAITING, setup_tried=True, error=None)
            self._changed()
            return await self._follow(consumer, instance)
        finally:
            self._tearing_down = True
            try:
                await consumer.teardown()
            except Exception as error:  # noqa: BLE001 - a plugin may raise anything
                self._log.error("teardown failed", reason=describe(error))
            self._tearing_down = False

    async def _follow(self, consumer: AnyConsumer, instance: Instance) -> Instance | None:
        waits = delays()
        not_before = 0.0  # absolute: a new snapshot does not shorten the wait after a failure
        next_health = 0.0
        anyway = False
        while not self._stopping:
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
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
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

    async def _check_health(self, consumer: AnyConsumer) -> None:
        try:
            health = await consumer.health()
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            health = Health(ok=False, detail=describe(error))
        if health != self._status.health:
            self._report(health=health)

    def _fail(self, what: str, error: Exception) -> None:
        reason = describe(error)
        known = isinstance(error, DiscoveryError | OSError)
        repeated = reason == self._status.error
        self._log.error(what, reason=reason, exc_info=None if known or repeated else error)
        self._report(Phase.RETRYING, setup_tried=True, failures=self._status.failures + 1, error=reason)


class _Wake:
    """An event set from any thread and awaited on one loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._event = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._under_way = False
        self._woken = False

    def open(self) -> None:
        self._loop = asyncio.get_running_loop()

    def set(self) -> None:
        # At most one call is under way, so that a consumer that blocks its loop does not collect them.
        with self._lock:
            if self._loop is not None and not self._under_way:
                with suppress(RuntimeError):  # the loop was closed meanwhile: nobody is left to be told
                    self._loop.call_soon_threadsafe(self._arrive)
                    self._under_way = True

    async def wait(self, timeout: float) -> bool:
        """Whether it was set within `timeout` seconds."""
        alarm = asyncio.get_running_loop().call_later(timeout, self._event.set)
        try:
            await self._event.wait()
        finally:
            alarm.cancel()
        woken, self._woken = self._woken, False
        self._event.clear()
        return woken

    def _arrive(self) -> None:
        with self._lock:
            self._under_way = False
        self._woken = True
        self._event.set()


def describe(error: BaseException) -> str:
    """An exception in one line: our own in their own words, others with their type."""
    text = " ".join(str(error).split())
    return text if text and isinstance(error, DiscoveryError) else f"{type(error).__name__}: {text}".rstrip(": ")
