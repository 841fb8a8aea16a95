"""The place in which a provider's contract is tested: what a derived class sets, and how a provider is followed."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import structlog

from discovery.plugin import AnyProvider, Context, Inventory, PluginConfig
from discovery.system.either import iterated
from discovery.testing import process
from discovery.testing.clauses import BrokenError, difference, expect
from discovery.testing.consumers.life import CALL_SECONDS, STOP_SECONDS, call
from discovery.testing.recorder import unrecorded
from discovery.testing.support import eventually
from discovery.testing.watching import limited, run_loop

_ARRANGE_SECONDS = 50.0
"""Seconds for the author's `arrange`, which may start containers."""
_MOST = 5000
"""Inventories after which a provider that yields without an end is stopped, before memory is full."""


class ProviderPlace:
    """The attributes and methods that a derived class sets for a provider."""

    provider: ClassVar[type[AnyProvider]]
    """The class under test."""
    config: Mapping[str, Any] = {}
    """The provider's options, as in the configuration file."""
    other_configs: Sequence[Mapping[str, Any]] = ()
    """Other valid options, for a provider with `reconfigure`. If empty, the tests change single options themselves."""
    patience: float = 10.0
    """Seconds within which the provider finds the backends of a world, and notices a change."""

    def arrange(self, world: int) -> None:
        """Change what there is to find to world 0 or world 1, and return when that is done.

        The provider finds different candidates in the two worlds, and at least one candidate in one of them. Called
        before a provider is made, and while a provider runs, on another thread than the provider's.
        """
        raise NotImplementedError

    def blind(self) -> AbstractContextManager[object] | None:
        """Return a context in which the provider cannot see what there is. None, the default, skips the test.

        The context is entered and left on another thread than the provider's.
        """
        return None

    @property
    def _plugin(self) -> type:
        """The class whose faults the messages name."""
        return self.provider

    def _make(self, run_dir: Path, config: PluginConfig | None = None) -> AnyProvider:
        config = config or self.provider.Config.model_validate(self.config)
        log = structlog.get_logger("contract")
        return self.provider(config, Context("contract", run_dir, log, request_discovery=_Requests()))

    def _run(self, check: Callable[[AnyProvider], Coroutine[Any, Any, None]]) -> None:
        async def run() -> None:
            await self._arrange(0)
            before = asyncio.all_tasks()
            async with self._another() as provider:
                await check(provider)

            def over() -> bool:
                left = process.other_tasks(before)
                expect(not left, "no task after teardown", left)
                return True

            await eventually(over, "its tasks to end", self.patience)

        run_loop(run())

    async def _arrange(self, world: int) -> None:
        with limited(f"arrange({world}) of the contract", _ARRANGE_SECONDS):
            await asyncio.to_thread(self._arrange_unrecorded, world)

    def _arrange_unrecorded(self, world: int) -> None:
        with unrecorded():
            self.arrange(world)

    @asynccontextmanager
    async def _another(
        self, directory: Path | None = None, config: PluginConfig | None = None
    ) -> AsyncIterator[AnyProvider]:
        """Set up an instance in `directory`, by default a temporary one, and tear the instance down at the end."""
        with tempfile.TemporaryDirectory() as temporary:
            provider = self._make(directory or Path(temporary), config)
            try:
                await call("setup", CALL_SECONDS, provider.setup)
                yield provider
            finally:
                await call("teardown", STOP_SECONDS, provider.teardown)

    @asynccontextmanager
    async def _watching(self, provider: AnyProvider, rests: "Rests | None" = None) -> AsyncIterator["Watcher"]:
        watcher = Watcher(provider, self.patience, rests)
        try:
            yield watcher
        finally:
            if not watcher.task.done():
                watcher.task.cancel()
                with limited("discover, after it was cancelled,", CALL_SECONDS):
                    await asyncio.wait([watcher.task])
                # The test has seen an error before the cancellation. An error during the cancellation is raised here.
                if not watcher.task.cancelled():
                    watcher.task.result()
            elif not watcher.task.cancelled():
                watcher.task.exception()


class _Requests:
    """Counts the requests of an instance for another `discover`."""

    count = 0

    def __call__(self) -> None:
        self.count += 1


def requests_of(provider: AnyProvider) -> int:
    """Return how often an instance that `ProviderPlace` has made asked for another `discover`."""
    requests = provider.context.request_discovery
    return requests.count if isinstance(requests, _Requests) else 0


Rests = Callable[[Inventory], bool]


def at_first(inventory: Inventory) -> bool:
    """Let a `Watcher` rest at its first inventory."""
    return True


def at(wanted: Inventory) -> Rests:
    """Let a `Watcher` rest when it is told `wanted`."""
    return lambda inventory: inventory == wanted


class Watcher:
    """Follows a provider's `discover`. An end or an exception of `discover` is raised by the method that waits."""

    def __init__(self, provider: AnyProvider, patience: float, rests: Rests | None = None) -> None:
        """Begin to follow `provider`. Each wait takes `patience` seconds at most.

        The provider is asked for nothing after an inventory for which `rests` is true, until `go_on`. A provider that
        rests ends at once, and one that blocks ends after the step that runs.
        """
        self.inventories: list[Inventory] = []
        self.copies: list[object] = []
        """What each inventory was when it was yielded."""
        self._patience = patience
        self._rests = rests
        self._goes_on = asyncio.Event()
        self.task = asyncio.create_task(self._follow(provider))

    def go_on(self) -> None:
        """Let the provider go on, and rest no more."""
        self._rests = None
        self._goes_on.set()

    @property
    def latest(self) -> Inventory:
        """The inventory that was yielded last."""
        return self.inventories[-1]

    async def first(self) -> Inventory:
        """Wait for the first inventory."""
        await self.until(lambda: bool(self.inventories), "the first inventory")
        return self.inventories[0]

    async def another_than(self, inventory: Inventory) -> None:
        """Wait until the latest inventory differs from `inventory`."""
        await self.until(lambda: self.latest != inventory, "a change to be found")

    async def finds(self, inventory: Inventory, *, rests: bool = False) -> None:
        """Wait until the latest inventory is `inventory`; with `rests` the provider rests then."""
        if rests:
            self._rests = at(inventory)
        await self.first()
        await self._equals(lambda: inventory, "the inventory of the same world to be found")

    async def agrees_with(self, other: "Watcher") -> None:
        """Wait until the latest inventory is that of `other`."""
        await self._equals(lambda: other.latest, "two providers to find the same")

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until `condition` is true. `what` describes the condition in the message."""

        def holds() -> bool:
            self.raise_end()
            return condition()

        await eventually(holds, what, self._patience)

    async def _equals(self, wanted: Callable[[], Inventory], what: str) -> None:
        try:
            await self.until(lambda: self.latest == wanted(), what)
        except AssertionError as error:
            if self.task.done() or self.latest == wanted():
                raise  # the message has the end of `discover`
            differs = difference(_parts(self.latest), _parts(wanted()))
            raise BrokenError(
                what, f"waited {self._patience:g} s in vain; found, and to be found: {differs}"
            ) from error

    def raise_end(self) -> None:
        """Raise the exception of `discover`, or an error if `discover` has ended by itself."""
        if self.task.done():
            if self.task.cancelled():
                raise BrokenError("discover to go on", "discover raised CancelledError by itself")
            self.task.result()
            raise RuntimeError("discover ended by itself")

    async def _follow(self, provider: AnyProvider) -> None:
        inventories = iterated(provider.discover())
        is_destroyed = False
        try:
            async for inventory in inventories:
                expect(isinstance(inventory, Inventory), "an Inventory from discover", inventory)
                again = isinstance(inventory.candidates, tuple | list)
                expect(again, "candidates that can be read twice, as a tuple", inventory.candidates)
                self.inventories.append(inventory)
                self.copies.append(copy_of(inventory))
                expect(len(self.inventories) < _MOST, "an inventory when something may have changed", "no end of them")
                if self._rests and self._rests(inventory):
                    self._goes_on.clear()
                    await self._goes_on.wait()
                await asyncio.sleep(0)  # a provider that yields without a pause leaves no turn to others
        except GeneratorExit:  # a task of a loop that was abandoned: nothing can be awaited any more
            is_destroyed = True
            raise
        finally:
            if not is_destroyed:
                await inventories.aclose()


def _difference(found: Inventory, wanted: Inventory) -> str:
    """Return where two inventories differ, for a message: the candidates by key, and the other fields by name."""
    return difference(_parts(found), _parts(wanted)) or "the same candidates in another order or number"


def _parts(inventory: Inventory) -> dict[str, object]:
    # By number where a plugin yields what is no candidate.
    names = [getattr(getattr(each, "backend", None), "key", at) for at, each in enumerate(inventory.candidates)]
    candidates = {f"candidate {name}": each for name, each in zip(names, inventory.candidates, strict=True)}
    return {**candidates, **{each: getattr(inventory, each) for each in ("problems", "skipped", "machine")}}


def copy_of(inventory: Inventory) -> object:
    """Return the present contents of an inventory, which nothing changes later."""
    return [*inventory.candidates], dict(inventory.problems), dict(inventory.skipped)
