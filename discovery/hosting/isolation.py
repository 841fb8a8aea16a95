"""The isolation of a plugin: a thread and event loop, a locked run directory, retries of setup, and the end."""

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from structlog.typing import FilteringBoundLogger

from discovery.errors import CannotStartError, DiscoveryError, describe
from discovery.hosting.downlog import DownLog
from discovery.hosting.wake import Wake
from discovery.plugin import Health
from discovery.system import rundir
from discovery.system.asyncio_tools import is_being_cancelled
from discovery.system.backoff import delays
from discovery.system.either import STEP_SECONDS, completed
from discovery.system.frequency import Failures, times
from discovery.system.terminal import printable

STOP_SECONDS = 10.0
"""Seconds that a plugin may take to stop, as long as service managers usually wait before they kill."""
MOST_DOWN = 1000
"""Backends that a plugin reports as down: of 100,000 that are, nobody reads more."""
_LOOK_SECONDS = 0.01
"""Seconds between two looks at a thread that ends: a thread wakes no loop when it has ended."""
BEGIN_SECONDS = 10.0
"""Seconds from the start of an instance in which a successor waits for it: the first snapshot takes 3 s at most."""


class Timing(NamedTuple):
    """Times in seconds."""

    setup_retries: Callable[[], Iterator[float]] = delays
    """Before each further setup after a failure."""
    health_every: float = 2.0
    """Between two health checks of a plugin: a supervisor that polls each few seconds sees a fault at once."""
    health_timeout: float = 10.0
    """For a health check: one that takes longer is a fault of the plugin."""
    finish_grace: float = 2.0
    """For an apply in progress when the consumer is to stop: half-applied changes are avoided."""
    step: float = STEP_SECONDS
    """For the running step of a plain generator when its discovery ends."""


TIMING = Timing()
"""The times unless a test gives others."""


class Phase(StrEnum):
    """The present work of a consumer or provider."""

    STARTING = "starting"
    WAITING = "waiting"
    APPLYING = "applying"
    RETRYING = "retrying"
    STOPPED = "stopped"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class PluginStatus:
    """The state of an instance of a plugin. Instants are `time.monotonic()`, durations seconds.

    `lock_tried` is whether the attempt to lock the run directory has ended, either way; `setup_tried` whether a setup
    has, and `set_up` whether one has succeeded.
    """

    name: str
    plugin: str
    phase: Phase = Phase.STARTING
    phase_since: float = field(default_factory=time.monotonic)
    lock_tried: bool = False
    setup_tried: bool = False
    set_up: bool = False
    failures: int = 0
    error: str | None = None
    health: Health = field(default_factory=Health)
    run_dir_error: str | None = None

    @property
    def problem(self) -> str | None:
        """Why the instance is not healthy, in a line; None if it is."""
        return self.error or self.run_dir_error or (None if self.health.ok else self.health.detail or "unhealthy")

    @property
    def degraded(self) -> str | None:
        """Why a healthy instance does only a part of its work, in a line; or None."""
        return None if self.problem is not None else fault_of(self.health)

    @property
    def state(self) -> str:
        """The state in a word: ok, degraded or failing."""
        return "failing" if self.problem is not None else self.health.state


class _Named(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def plugin(self) -> str: ...


class _Plugin(Protocol):
    def setup(self) -> Awaitable[None] | None: ...
    def health(self) -> Awaitable[Health] | Health: ...
    def teardown(self) -> Awaitable[None] | None: ...


I = TypeVar("I", bound=_Named)  # noqa: E741 - an instance
P = TypeVar("P", bound=_Plugin)
S = TypeVar("S", bound=PluginStatus)


class Isolated(ABC, Generic[I, P, S]):
    """An instance of a plugin, isolated: it may block, fail or be slow without delaying anybody.

    `changed` is called, on the plugin's thread, once its lock and its setup have been tried, and when it can never run
    again.
    """

    KIND = "plugin"

    def __init__(
        self,
        instance: I,
        status: S,
        run_dir: Path,
        log: FilteringBoundLogger,
        changed: Callable[[], None],
        timing: Timing,
    ) -> None:
        """Prepare; `start` begins. The instance's own directory is made, and locked, in `run_dir`."""
        self._instance = instance
        self._timing = timing
        self._base = run_dir
        self._run_dir = run_dir / instance.name
        self._lock_path = lock_path(run_dir, instance.name)
        self._log = log.bind(**{self.KIND: instance.name})
        self._changed = changed
        self._status = status
        self._failures = Failures()
        self._down_log = DownLog(self._log)
        self._phase = (Phase.STARTING, time.monotonic())
        self._begun = time.monotonic()
        self._wake = Wake()
        self._stopping = threading.Event()
        self._releasing = False
        self._health_asked: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._lock: rundir.Lock | None = None
        self._thread = threading.Thread(target=self._run, name=f"{self.KIND}-{instance.name}", daemon=True)

    @abstractmethod
    def _make(self, instance: I) -> P:
        """The plugin as `instance` says; nothing is set up yet."""

    @abstractmethod
    async def _follow(self, plugin: P, instance: I) -> I | None:
        """Do the work of a plugin that is set up, until stopped (None) or told to become another, which is returned."""

    def _begin(self) -> None:
        """Note that the setup has succeeded."""
        self._report(Phase.WAITING, setup_tried=True, set_up=True, error=None)
        if failed := self._failures.end():
            self._log.info(f"set up after {times(failed)}")
        self._changed()

    def _problems(self) -> Mapping[str, str]:
        """Return the problems of the instance that the core sees, by name: they degrade the health of the plugin."""
        return {}

    def _is_own_cancellation(self, error: BaseException) -> bool:
        """Return True if `error` is the core's cancellation, and no failure of the plugin, which may raise anything."""
        return isinstance(error, GeneratorExit) or (isinstance(error, asyncio.CancelledError) and is_being_cancelled())

    @property
    def instance(self) -> I:
        """The instance as configured last."""
        return self._instance

    @property
    def status(self) -> S:
        """The status now. From any thread."""
        phase, phase_since = self._phase
        status = replace(self._status, phase=phase, phase_since=phase_since)
        asked = self._health_asked
        if asked is not None and time.monotonic() - asked > self._timing.health_timeout:
            return replace(status, health=self._late())  # it blocks its loop, on which its limit of time would come
        return status

    def start(self) -> None:
        """Begin, on a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the instance to stop. Returns at once: see `join`."""
        self._stopping.set()
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # it has ended by itself
                loop.call_soon_threadsafe(self._on_stop)

    async def join(self, timeout: float) -> bool:
        """Wait until the instance has stopped.

        False if it has not within `timeout` seconds: its thread is then abandoned.
        """
        deadline = time.monotonic() + timeout
        while self._thread.is_alive() and time.monotonic() < deadline:  # noqa: ASYNC110 - a thread wakes no loop
            await asyncio.sleep(_LOOK_SECONDS)
        return not self._thread.is_alive()

    @property
    def stop_seconds(self) -> float:
        """Seconds that the instance may take to stop."""
        return STOP_SECONDS

    @property
    def has_had_time_to_begin(self) -> bool:
        """True once a successor of the daemon need not wait any longer for the first work of the instance."""
        return time.monotonic() - self._begun > BEGIN_SECONDS

    def reconfigure(self, instance: I) -> None:
        """Go on as `instance`. Returns at once."""
        self._begun = time.monotonic()
        self._instance = instance
        self._wake.set()

    def unlock(self) -> None:
        """Leave the run directory to another; from any thread."""
        if self._lock is not None:
            self._lock.release()

    def _remains(self, instance: I) -> bool:
        """Return True if the runner is neither to stop nor to become another than `instance`."""
        return self._instance is instance and not self._is_stopping()

    def _is_stopping(self) -> bool:
        """True if no instance is to run any more."""
        return self._stopping.is_set()

    def _grace(self) -> float:
        """Return the seconds that the running work has to finish at a stop."""
        return 0.0

    def _is_final(self, error: BaseException) -> bool:
        """Return True if a setup that failed so is never tried again."""
        return isinstance(error, CannotStartError)

    def _on_stop(self) -> None:
        asyncio.get_running_loop().call_later(self._grace(), self._interrupt)

    def _interrupt(self) -> None:
        if self._task is not None and not self._releasing:
            self._task.cancel()

    @contextmanager
    def _uninterruptible(self) -> Iterator[None]:
        """Within, nothing is cut short: what is not released would outlive us."""
        before, self._releasing = self._releasing, True
        try:
            yield
        finally:
            self._releasing = before

    def _run_dir_changed(self, reason: str | None) -> None:
        """Take note that the run directory was removed and made again; `reason` tells why that is impossible."""
        self._report(run_dir_error=reason)

    def _enter_phase(self, phase: Phase) -> None:
        self._phase = (phase, time.monotonic())

    def _report(self, phase: Phase | None = None, **changes: Any) -> None:
        self._status = replace(self._status, **changes)
        if phase is not None:
            self._enter_phase(phase)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except CannotStartError as error:
            self._log.error("cannot start", reason=str(error))
            self._report_dead(str(error))
        except BaseException as error:  # noqa: BLE001 - the thread is the boundary: what a plugin raises ends here
            self._log.error(f"{self.KIND} died", reason=describe(error), exc_info=error)
            self._report_dead(describe(error))
        else:
            self._enter_phase(Phase.STOPPED)

    def _report_dead(self, reason: str) -> None:
        self._report(Phase.DEAD, error=reason, lock_tried=True, setup_tried=True)
        self._changed()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._wake.open()
        try:
            await self._run_locked()
        finally:
            self._wake.close()

    async def _run_locked(self) -> None:
        way_out = "stop it first, take over from it with --replace, or choose another --run-dir"
        with rundir.lock(self._lock_path, f"{self.KIND} {self._instance.name!r}", way_out) as self._lock:
            self._report(lock_tried=True)
            self._changed()
            keeping = asyncio.create_task(
                rundir.keep(self._lock, self._base, self._log, changed=self._run_dir_changed), name="run directory"
            )
            self._task = asyncio.create_task(self._run_instances())
            with suppress(asyncio.CancelledError):
                await self._task
            keeping.cancel()

    async def _run_instances(self) -> None:
        """Run an instance after another, until stopped."""
        following: I | None = self._instance
        waits = self._timing.setup_retries()
        while following is not None and not self._is_stopping():
            instance = following
            try:
                following, waits = await self._run_instance(instance), self._timing.setup_retries()
            except BaseException as error:  # a plugin may raise anything, SystemExit too
                if self._is_own_cancellation(error) or self._is_final(error):
                    raise
                self._report_failure("setup failed", error)
                self._changed()
                until = time.monotonic() + next(waits)
                while self._remains(instance) and (left := until - time.monotonic()) > 0:
                    await self._wake.wait(left)
                following = self._instance

    async def _run_instance(self, instance: I) -> I | None:
        """Be `instance` until stopped (None) or told to become another, which is returned."""
        self._enter_phase(Phase.STARTING)
        plugin = self._make(instance)
        try:
            await completed(plugin.setup())
            self._begin()
            return await self._follow(plugin, instance)
        finally:
            with self._uninterruptible():
                await self._release(plugin)

    async def _release(self, plugin: P) -> None:
        # A task of its own: this one may be cancelled, and in a cancelled task asyncio.timeout of Debian 12's Python,
        # 3.11.2, raises no TimeoutError.
        await asyncio.wait({asyncio.create_task(self._tear_down(plugin))})

    async def _tear_down(self, plugin: P) -> None:
        try:
            await completed(plugin.teardown())
        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
            self._log.error("teardown failed", reason=describe(error))

    async def _check_health(self, plugin: P) -> None:
        limit, answered = asyncio.timeout(self._timing.health_timeout), True
        self._health_asked = time.monotonic()
        try:
            async with limit:
                health: Any = await completed(plugin.health())
            if not isinstance(health, Health):
                raise TypeError(f"its health answered {health!r}")
            down = dict(islice(health.down.items(), MOST_DOWN))
            problems = {**self._problems(), **health.problems}
            watched = frozenset(map(printable, health.watched))
            health = replace(health, problems=printable_lines(problems), down=printable_lines(down), watched=watched)
        except BaseException as error:  # a plugin may raise anything, SystemExit too
            if self._is_own_cancellation(error):
                raise
            answered = False
            health = self._late() if limit.expired() else Health(ok=False, detail=describe(error))
        finally:
            self._health_asked = None
        if health != self._status.health:
            self._report_problems(self._status.health.problems, health.problems)
            self._report(health=health)
        if answered:  # a health that cannot be had says of no backend that it has recovered
            self._down_log.tell(health.down, self._address_of)

    def _late(self) -> Health:
        return Health(ok=False, detail=f"its health has not answered within {self._timing.health_timeout:g} s")

    def _report_problems(self, before: Mapping[str, str], problems: Mapping[str, str]) -> None:
        """Log new and ended problems."""
        for what, reason in problems.items():
            if before.get(what) != reason:
                self._log.warning("there is a problem", what=what, reason=reason)
        for what in before.keys() - problems.keys():
            self._log.info("no longer a problem", what=what)

    def _address_of(self, key: str) -> str | None:
        """Return the address of the backend `key`; None if the instance does not have the backend (any more)."""
        del key
        return "unknown"

    def _report_failure(self, what: str, error: BaseException) -> None:
        reason = describe(error)
        known = isinstance(error, DiscoveryError | OSError)
        repeated = reason == self._status.error
        if self._failures.add(f"{what}: {reason}"):
            count = {"failures": self._failures.count} if self._failures.count > 1 else {}
            self._log.error(what, reason=reason, exc_info=None if known or repeated else error, **count)
        self._report(Phase.RETRYING, setup_tried=True, failures=self._status.failures + 1, error=reason)


def fault_of(health: Health) -> str | None:
    """Return why `health` is degraded or failing, in a line; None if the health is ok."""
    if health.state == "ok":
        return None
    told = [f"{what}: {reason}" for what, reason in health.problems.items()]
    return health.detail or "; ".join(told) or health.state


def printable_lines(told: Mapping[str, str]) -> Mapping[str, str]:
    """Return texts by name, each name and each text on a single line."""
    return MappingProxyType({printable(what): printable(text) for what, text in told.items()})


def lock_path(run_dir: Path, name: str) -> Path:
    """Return the path of the lock that the running instance `name` holds."""
    return run_dir / name / "lock"
