"""The lives of a consumer that the clauses of its contract share: each takes place once for all clauses."""

import asyncio
import gc
import shutil
import tempfile
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from discovery.testing import process
from discovery.testing.consumers.life import Life
from discovery.testing.consumers.place import ConsumerPlace
from discovery.testing.consumers.states import Named, states
from discovery.testing.watching import run_loop

T = TypeVar("T")
P = ParamSpec("P")

SLOW = 0.15
"""Seconds of an apply from which on states are left out, so that the contract takes less than 20 s."""
VERY_SLOW = 0.4
"""Seconds of an apply from which on nothing is applied a third time."""
_LEAK_SECONDS = 3.0
"""Seconds for what a teardown has ended to be gone."""
_LEAK_AGAIN_SECONDS = 1.0
"""The same, if the life before has left something, too."""


@dataclass
class Ending:
    """The state of the process at the end of a life, compared with its beginning."""

    settings_within: dict[str, object] = field(default_factory=dict)
    settings_after: dict[str, object] = field(default_factory=dict)
    tasks: list[str] = field(default_factory=list)
    left: dict[str, list[str]] = field(default_factory=dict)
    outlasting: tuple[object, object] | None = None
    """The effect before and after the teardown of a consumer that is not resident; None if it is resident."""


class Session:
    """The lives of a contract's consumer, in the same run directory, so that files that name the directory are equal.

    `life` runs a script with an instance in the directory. `kept` returns the result of a function, which runs once.
    """

    def __init__(self, contract: ConsumerPlace) -> None:
        """Prepare. Directories are made when a life begins."""
        self.contract = contract
        self.states = states(contract.snapshots)
        for number, state in enumerate(contract.snapshots):
            self.states[f"snapshot {number}"] = Named(state)
        self.endings: list[Ending] = []
        self.apply_seconds = 0.0
        self._instances: list[Life] = []
        """The instances of the present life: what they hold open is seen, and not closed by the garbage collector."""
        self._results: dict[object, object] = {}
        self._top = Path(tempfile.mkdtemp(prefix="contract-"))
        self._end = weakref.finalize(self, shutil.rmtree, self._top, ignore_errors=True)
        self.run_dir, self.state_dir = self._top / "run", self._top / "state" / "contract"

    @property
    def top(self) -> Path:
        """The directory that has the run directory and the state directory."""
        return self._top

    @property
    def is_very_slow(self) -> bool:
        """True if an apply takes so long that the contract leaves out whatever is not needed."""
        return self.apply_seconds > VERY_SLOW

    @property
    def is_slow(self) -> bool:
        """True if an apply takes so long that states are left out."""
        return self.apply_seconds > SLOW

    @property
    def snapshots(self) -> tuple[Named, Named]:
        """The author's snapshots; of a very slow consumer the second first, since its first life ends at the first."""
        first, second = self.snapshot_names
        return self.states[first], self.states[second]

    @property
    def snapshot_names(self) -> tuple[str, str]:
        """The names of `snapshots`."""
        return ("snapshot 1", "snapshot 0") if self.is_very_slow else ("snapshot 0", "snapshot 1")

    def kept(
        self,
        contract: ConsumerPlace,
        function: Callable[Concatenate["Session", P], T],
        *arguments: P.args,
        **options: P.kwargs,
    ) -> T:
        """Return `function(self, *arguments)`, called the first time with `contract`, or raise its exception again."""
        if function not in self._results:
            self.contract = contract
            try:
                self._results[function] = function(self, *arguments, **options)
            except BaseException as error:  # noqa: BLE001 - kept for the next clause
                self._results[function] = error
        result = self._results[function]
        if isinstance(result, BaseException):
            raise result
        return cast("T", result)

    def life(
        self, script: Callable[[Life], Coroutine[Any, Any, None]], *, wiped: bool = True, leaves: bool = False
    ) -> Ending:
        """Run `script` with an instance that is set up and torn down, in an event loop of its own.

        With `wiped` the directories are empty at the beginning; else they have what the life before has left. With
        `leaves` the instance may leave processes to the next one.
        """
        if wiped:
            self.wipe()
        ending = Ending()
        gc.collect()  # what only an earlier instance held is closed now, and not during this life
        before, settings = process.Holdings.now(), process.settings()
        try:
            run_loop(self._live(script, ending, settings))
            ending.settings_after = process.changed_settings(settings, process.settings())
        finally:
            process.restore(settings)
        if not leaves:
            left_before = bool(self.endings and self.endings[-1].left)
            ending.left = process.left_since(before, _LEAK_AGAIN_SECONDS if left_before else _LEAK_SECONDS)
            self.endings.append(ending)
        self._instances.clear()
        self.contract.listen(lambda: None)
        return ending

    def wipe(self) -> None:
        """Replace the run directory by an empty one, and remove the state directory, whose parent stays."""
        for directory in (self.run_dir, self.state_dir.parent):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)

    async def _live(
        self, script: Callable[[Life], Coroutine[Any, Any, None]], ending: Ending, settings: Mapping[str, object]
    ) -> None:
        tasks = asyncio.all_tasks()
        async with self.instance() as life:
            await script(life)
            ending.settings_within = process.changed_settings(settings, process.settings())
            effect = life.world()
        if life.consumer.resident is False:
            ending.outlasting = effect, life.world()
        for _ in range(20):  # tasks that teardown has cancelled end within a few turns of the loop
            await asyncio.sleep(0)
        ending.tasks = process.other_tasks(tasks)

    @asynccontextmanager
    async def instance(self) -> AsyncIterator[Life]:
        """Make an instance, set the instance up, and tear the instance down at the end."""
        life = Life(self.contract, self.contract._make, self.run_dir, self.state_dir)
        self.contract.listen(life.requested)
        self._instances.append(life)
        try:
            await life.begin()
            yield life
        finally:
            await life.end()


_sessions: "weakref.WeakKeyDictionary[type, dict[str, Session]]" = weakref.WeakKeyDictionary()


def session_of(contract: ConsumerPlace) -> Session:
    """Return the session of the class of `contract` and its configuration; of its class, if each test has its own."""
    sessions = _sessions.setdefault(type(contract), {})
    key = "of each test" if "config" in vars(contract) else repr(contract.config)
    if key not in sessions:
        sessions[key] = Session(contract)
    return sessions[key]
