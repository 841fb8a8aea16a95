"""Runs a consumer: a thread and loop of its own, latest wins, retry, health. Knows no registry."""

import asyncio
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from structlog.typing import FilteringBoundLogger

from discovery.consuming.histograms import NO_DELAYS, DelayHistograms
from discovery.consuming.history import AppliedHistory, Change, Delay, delay_by
from discovery.consuming.inheritance import Identity, Inheritance
from discovery.consuming.latest import Latest
from discovery.consuming.resolving import Step
from discovery.consuming.schedule import ApplySchedule
from discovery.consuming.selection import Selection, missing_services
from discovery.consuming.waiting import WaitingChanges
from discovery.errors import describe
from discovery.hosting.details import Details
from discovery.hosting.isolation import STOP_SECONDS, TIMING, Isolated, Phase, PluginStatus, Timing
from discovery.hosting.tables import Filter
from discovery.model import Addresses, Backend, Changes, Snapshot, diff
from discovery.plugin import AnyConsumer, Consumer, Context, LastResort, LeftOut, PluginConfig, Sample, Update
from discovery.system.asyncio_tools import wait_for_tasks
from discovery.system.backoff import delays
from discovery.system.either import called, completed
from discovery.system.frequency import times
from discovery.system.terminal import printable

_LOOK_SECONDS = 0.002
"""Seconds between two looks at what a thread hands over: short beside the hand-over, of which they are a part."""
SLOW_APPLY = 30.0
"""Seconds after which an apply counts as a problem: consumers apply within seconds."""
HAND_OVER_SECONDS = 10.0
"""Seconds that a consumer has to hand over its sockets: a successor, and its clients, wait meanwhile."""


@dataclass(frozen=True, slots=True)
class ConsumerStatus(PluginStatus):
    """Measurements of a consumer."""

    offered_revision: int | None = None
    applied_revision: int | None = None
    behind_since: float | None = None
    applies: int = 0
    apply_seconds: float = 0.0
    delays: DelayHistograms = NO_DELAYS

    @property
    def problem(self) -> str | None:
        """The reason, in a line, why the consumer is not well, or None."""
        busy = time.monotonic() - self.phase_since
        if self.phase is Phase.APPLYING and busy > SLOW_APPLY:
            return f"an apply has been running for {busy:.0f} s"
        return super(ConsumerStatus, self).problem


class ConsumerInstance(NamedTuple):
    """A consumer as configured: its name, its plugin, and how to make it.

    `quiet_period` is how many seconds to wait after a change, so that those that follow closely are applied with it.
    `filter` selects the services and backends that the consumer is told of.
    """

    name: str
    plugin: str
    consumer: type[AnyConsumer]
    config: PluginConfig
    quiet_period: float = 0.0
    filter: Filter | None = None


class _Desired(NamedTuple):
    """The state that a consumer is to apply, and the step that leads to the snapshot, if that is known."""

    snapshot: Snapshot
    addresses: Addresses | None
    step: Step | None

    def changes_since(self, applied: "_Desired | None") -> Changes:
        """Return the changes since the state that the consumer has applied; None for no state."""
        if applied is None:
            return self.step.changes if self.step is not None and self.step.is_first else diff(None, self.snapshot)
        if self.step is not None and applied.step is not None and self.step.number == applied.step.number + 1:
            return self.step.changes
        return diff(applied.snapshot, self.snapshot)


class ConsumerRunner(Isolated[ConsumerInstance, AnyConsumer, ConsumerStatus]):
    """A consumer, isolated. An apply in progress is given a moment when it is to stop, then cancelled."""

    KIND = "consumer"

    def __init__(
        self,
        instance: ConsumerInstance,
        run_dir: Path,
        log: FilteringBoundLogger,
        changed: Callable[[], None] = lambda: None,
        inheritance: Inheritance | None = None,
        state_dir: Path | None = None,
        timing: Timing = TIMING,
        applied: Callable[[], None] = lambda: None,
        timed: Callable[[str, int, Sequence[tuple[Change, Delay]]], None] = lambda *_: None,
    ) -> None:
        """Prepare; `start` begins. The instance's own directory is made, and locked, in `run_dir`.

        `state_dir` is the instance's own state directory, by default one in its run directory. `applied` is called on
        the consumer's thread after each apply, `timed` then with the consumer's name, the number of the step, and what
        the consumer took for each change that concerned it.
        """
        super().__init__(instance, ConsumerStatus(instance.name, instance.plugin), run_dir, log, changed, timing)
        self._latest: Latest[_Desired] = Latest()
        self._selection = Selection(instance.filter)
        self._applied: _Desired | None = None
        self._told: _Desired | None = None  # the part of `_applied` that the filter let through to the consumer
        self.history = AppliedHistory()
        """The last applies. From any thread."""
        self._waiting = WaitingChanges()
        self._delays = NO_DELAYS
        self._apply_requested = False
        self._operator_request = False
        self._tell_applied, self._tell_timed = applied, timed
        self._inheritance = inheritance or Inheritance()
        self._state_dir = state_dir or self._run_dir / "state"
        self._offers: Mapping[Identity, socket.socket] = {}
        self._created: AnyConsumer | None = None  # from before its setup until after its teardown
        self._details: Details[AnyConsumer] = Details(self.KIND, self._log)
        self._retry_delays = delays()
        self._handing_over = False
        self._may_end = False
        self._told_to_end = asyncio.Event()
        self._ending_drain: asyncio.Task[None] | None = None
        self._handed_over_sockets: tuple[socket.socket, ...] = ()

    @property
    def status(self) -> ConsumerStatus:
        """The status now. From any thread."""
        offered = self._latest.value
        return replace(
            super().status,
            offered_revision=None if offered is None else offered.snapshot.revision,
            behind_since=self._latest.behind_since,
            delays=self._delays,
        )

    def offer(
        self,
        snapshot: Snapshot,
        addresses: Addresses | None = None,
        step: Step | None = None,
        changes: Sequence[Change] = (),
    ) -> None:
        """Apply `snapshot` next, in place of any snapshot that still waits. Returns at once.

        `addresses` are those of its backends that are registered by host name, where they were looked up. `step` leads
        to the snapshot; None: the snapshots are compared. `changes` are those since the snapshot that was offered
        before: how long the consumer takes for each is counted.
        """
        self._waiting.put(changes)  # before an apply can cover them
        self._latest.offer(_Desired(snapshot, addresses, step))
        self._wake.set()

    def request_apply(self) -> None:
        """Apply the latest snapshot even if unchanged, without waiting out a retry. Returns at once."""
        self._apply_requested = True
        self._wake.set()

    def reload(self) -> None:
        """Apply the latest snapshot as `request_apply` does, at the request of an operator."""
        self._operator_request = True
        self.request_apply()

    @property
    def stop_seconds(self) -> float:
        """Seconds that the consumer may take to stop: by its own `stop_seconds`, at least 10."""
        seconds = STOP_SECONDS
        with suppress(Exception):  # a plugin may raise anything
            seconds = float(self._created.stop_seconds) if self._created is not None else seconds
        return max(STOP_SECONDS, seconds)

    @property
    def hands_over(self) -> bool:
        """True if the consumer may have sockets to hand over. If not, it ends before a successor begins."""
        return self._instance.consumer.hand_over is not Consumer.hand_over

    @property
    def settled(self) -> bool:
        """True if the consumer has applied a snapshot, has failed, or has had its time to begin.

        Clients that the consumer accepts earlier wait for its first backends: a replacement would lose these clients.
        """
        status = self.status
        if status.phase in (Phase.DEAD, Phase.STOPPED) or status.error is not None or self.has_had_time_to_begin:
            return True
        return status.phase is not Phase.STARTING and status.applied_revision is not None

    def stop(self) -> None:
        """Ask the consumer to stop, also after a hand-over of sockets. Returns at once: see `join`."""
        self._may_end = True
        super().stop()

    def hand_over(self) -> None:
        """Ask the consumer to hand over its sockets. Returns at once: see `handed_over`.

        A consumer that has sockets goes on with them until `stop`, so that none is lost if this process dies meanwhile.
        A consumer that has none stops.
        """
        self._handing_over = True
        super().stop()

    def end_drain(self) -> None:
        """Tell a consumer that has handed over, and is stopping, to end its connections. Returns at once."""
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._end_drain)

    async def handed_over(self, timeout: float) -> tuple[socket.socket, ...]:
        """The sockets, once a successor may begin or `timeout` seconds have passed. The consumer may stop later."""
        deadline = time.monotonic() + timeout
        while self._thread.is_alive() and not self._handed_over_sockets and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_SECONDS)
        return self._handed_over_sockets

    async def samples(self, timeout: float) -> tuple[Sample, ...]:
        """Return the consumer's own metrics. See `Details.samples`."""
        return await self._details.samples(timeout)

    @property
    def applied(self) -> Snapshot | None:
        """The part of the snapshot that the consumer has applied, as its filter selects; from any thread."""
        told = self._told
        return None if told is None else told.snapshot

    @property
    def applies(self) -> int:
        """How often the consumer has applied a state. From any thread."""
        return self._status.applies

    async def explain(self, backends: Sequence[Backend], timeout: float) -> Mapping[str, Sequence[str]]:
        """Return what the consumer makes of `backends`, by key; nothing if it fails or is late. For the core's loop."""
        try:
            told = await self._explained(backends, timeout)
            return {str(key): _harmless(lines) for key, lines in told.items() if _is_explanation(lines)}
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything, or be late
            self._log.debug("it does not explain backends", reason=describe(error))
            return {}

    @property
    def tells_places(self) -> bool:
        """Whether the consumer's plugin tells what it makes of backends."""
        return self._instance.consumer.explain is not Consumer.explain

    async def places(self, backends: Sequence[Backend], timeout: float) -> Mapping[str, bool]:
        """Return whether the consumer makes anything of each of `backends`, by key. A key is missing if it tells not.

        For the core's loop. Raises DiscoveryError while the consumer is not set up, TimeoutError after `timeout`
        seconds, or what the consumer raises.
        """
        told = await self._explained(backends, timeout)
        return {str(key): bool(lines) for key, lines in told.items() if _is_explanation(lines)}

    async def _explained(self, backends: Sequence[Backend], timeout: float) -> Mapping[str, Sequence[str]]:
        return await self._details.ask(self._loop, lambda consumer: consumer.explain(backends), timeout)

    async def inspect(self, timeout: float) -> Mapping[str, Any]:
        """Return the consumer's details of its state. See `Details.inspect`."""
        return await self._details.inspect(self._loop, timeout)

    def _address_of(self, key: str) -> str | None:
        service, _, id_ = key.partition("/")
        there = self.applied.services.get(service) if self.applied is not None else None
        backend = there.get(id_) if there is not None else None
        return None if backend is None else backend.address

    def _problems(self) -> Mapping[str, str]:
        desired = self._latest.value
        missing = missing_services(self._instance.filter, desired.snapshot) if desired is not None else ()
        return {"filter": f"the registry has no service {', '.join(map(repr, missing))}"} if missing else {}

    def _make(self, instance: ConsumerInstance) -> AnyConsumer:
        self._offers = self._inheritance.offer()
        inherited = tuple(self._offers.values())
        try:
            self._created = instance.consumer(
                instance.config,
                Context(instance.name, self._run_dir, self._log, self.request_apply, inherited, self._state_dir),
            )
        except BaseException:  # a plugin may raise anything; the offered sockets are settled first
            self._inheritance.settle(self._offers, kept=False)
            raise
        return self._created

    async def _collect_handed_over(self, consumer: AnyConsumer) -> None:
        giving = asyncio.ensure_future(called(consumer.hand_over))
        in_time = await wait_for_tasks({giving}, HAND_OVER_SECONDS)
        try:
            if not in_time:
                giving.cancel()
                raise TimeoutError(f"it has not ended within {HAND_OVER_SECONDS:g} s")
            sockets = tuple(giving.result())
        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
            self._log.error("nothing was handed over", reason=describe(error))
            return
        if sockets:
            self.unlock()
            self._handed_over_sockets = sockets

    def _on_stop(self) -> None:
        if self._may_end:
            self._told_to_end.set()
        super()._on_stop()

    def _end_drain(self) -> None:
        if self._created is not None and self._handed_over_sockets and self._ending_drain is None:
            self._ending_drain = asyncio.create_task(self._ask_to_end_drain(self._created))

    async def _ask_to_end_drain(self, consumer: AnyConsumer) -> None:
        try:
            await completed(consumer.end_drain())
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            self._log.error("connections are left to end by themselves", reason=describe(error))

    def _begin(self) -> None:
        self._inheritance.settle(self._offers, kept=True)
        self._applied = self._told = None
        self._selection = Selection(self._instance.filter)
        self._latest.reopen()
        if self._created is not None:
            self._details.begin(self._created)
        super()._begin()

    async def _release(self, plugin: AnyConsumer) -> None:
        live = await self._details.end()
        if live is not None and self._handing_over:
            await self._collect_handed_over(live)
            if self._handed_over_sockets:
                await self._told_to_end.wait()
        self._inheritance.settle(self._offers, kept=False)
        await super()._release(plugin)
        self._created = None

    def _run_dir_changed(self, reason: str | None) -> None:
        super()._run_dir_changed(reason)
        if reason is None:
            self.request_apply()  # what the consumer keeps there has gone as well

    def _grace(self) -> float:
        return self._timing.finish_grace if self._phase[0] is Phase.APPLYING else 0.0

    async def _follow(self, consumer: AnyConsumer, instance: ConsumerInstance) -> ConsumerInstance | None:
        schedule, self._retry_delays = ApplySchedule(), delays()
        next_health = 0.0
        while not self._stopping.is_set():
            if (latest := self._instance) is not instance:
                if latest.consumer is not instance.consumer:
                    return latest
                if latest.config != instance.config and not await self._details.adopts(latest.config):
                    return latest
                if latest.filter != instance.filter:
                    self._selection = Selection(latest.filter)
                instance, schedule, self._operator_request = latest, schedule.requested(), True
            if self._apply_requested:
                self._apply_requested, schedule = False, schedule.requested()
            desired = self._latest.value
            changed = desired is not self._applied
            applying = desired is not None and schedule.is_due(time.monotonic(), changed=changed)
            if applying:
                schedule = await self._apply_latest(consumer, schedule)
            if time.monotonic() >= next_health:
                async with self._details.turn:
                    await self._check_health(consumer)
                next_health = time.monotonic() + self._timing.health_every
            if applying:
                continue  # there may be more by now; under steady change there always is
            pending = desired is not None and schedule.is_pending(changed=changed)
            look_at = schedule.next_look(next_health, changed=changed) if pending else next_health
            woken = await self._wake.wait(look_at - time.monotonic())
            if woken and not pending and instance.quiet_period and self._applied:
                schedule = schedule.first_change_at(time.monotonic(), instance.quiet_period)
        return None

    async def _apply_latest(self, consumer: AnyConsumer, schedule: ApplySchedule) -> ApplySchedule:
        desired = self._latest.take()
        if desired is None:
            return schedule
        if await self._apply(consumer, desired, anyway=schedule.unconditional):
            self._latest.settle()
            self._retry_delays = delays()
            return schedule.succeeded()
        return schedule.failed(time.monotonic(), next(self._retry_delays))

    async def _apply(self, consumer: AnyConsumer, desired: "_Desired", *, anyway: bool) -> bool:
        before, snapshot = self._told, self._selection.of(desired.snapshot)
        addresses = self._selection.addresses_in(snapshot, desired.addresses)
        wanted = _Desired(snapshot, addresses, desired.step if snapshot is desired.snapshot else None)
        previous = before.snapshot if before is not None else None
        changes = wanted.changes_since(before)
        if before is not None and not changes and before.addresses == wanted.addresses and not anyway:
            self._applied, self._told = desired, wanted
            self._report(applied_revision=snapshot.revision)
            self._note_applied(desired, time.monotonic(), concerned=False)
            return True
        begun = time.monotonic()
        self._enter_phase(Phase.APPLYING)
        operator_request, self._operator_request = self._operator_request, False
        try:
            async with self._details.turn:
                update = Update(snapshot, previous, changes, wanted.addresses, operator_request)
                await completed(consumer.apply(update))
        except BaseException as error:  # a plugin may raise anything, SystemExit too
            if self._is_own_cancellation(error):
                raise
            self._report_failure("apply failed", error)
            return False
        took = time.monotonic() - begun
        self._applied, self._told = desired, wanted
        self._report(
            Phase.WAITING,
            applied_revision=snapshot.revision,
            applies=self._status.applies + 1,
            apply_seconds=self._status.apply_seconds + took,
            error=None,
        )
        failed = self._failures.end()
        self._note_applied(desired, begun, verify=_verify_seconds(consumer), failures=failed)
        if failed:
            self._log.info(f"applied again after {times(failed)}", revision=snapshot.revision)
        self._log.debug("applied", revision=snapshot.revision, seconds=took)
        return True

    def _note_applied(
        self,
        desired: _Desired,
        begun: float,
        *,
        verify: float | None = None,
        failures: int = 0,
        concerned: bool = True,
    ) -> None:
        self._tell_applied()
        if desired.step is None:
            return
        revision = desired.snapshot.revision
        applied = self.history.add(
            desired.step.number, revision, begun, verify=verify, failures=failures, concerned=concerned
        )
        if applied is None:
            return
        waited = self._waiting.take(applied.number)
        took = [(each, delay_by(each.change, applied)) for each in waited] if concerned else []
        if took:
            self._delays = self._delays.counting((delay, each.stands_for) for each, delay in took)
        self._tell_timed(self._instance.name, applied.number, [(each.change, delay) for each, delay in took])


def _is_explanation(lines: object) -> bool:
    """Return whether `lines` is what a consumer may tell of a backend: a sequence of texts, and not one text."""
    return isinstance(lines, Sequence) and not isinstance(lines, str) and all(isinstance(each, str) for each in lines)


def _harmless(lines: Sequence[str]) -> Sequence[str]:
    """Return what a consumer tells of a backend as text that a terminal shows as it is."""
    if isinstance(lines, LeftOut):
        return LeftOut(printable(str(lines.reason)))
    harmless = (printable(str(line)) for line in lines)
    return LastResort(harmless) if isinstance(lines, LastResort) else tuple(harmless)


def _verify_seconds(consumer: AnyConsumer) -> float | None:
    """Return how long the last apply waited for proof, as far as the consumer tells."""
    with suppress(Exception):  # a plugin may raise anything, or tell what is no number
        seconds = consumer.verify_seconds
        return None if seconds is None else float(seconds)
    return None
