"""The life of a provider that the clauses of its contract share: what is done, and in which order."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path

from discovery.errors import describe
from discovery.plugin import AnyProvider, Inventory
from discovery.system.either import iterated
from discovery.testing import process
from discovery.testing.clauses import expect
from discovery.testing.consumers.answers import is_health_told
from discovery.testing.consumers.gentle import INSPECT_SECONDS, Asked, ask, outcome
from discovery.testing.consumers.life import CALL_SECONDS, call, dump_of
from discovery.testing.providers.observing import Observed, Part, files_outside, idle, look_at_all, quiet
from discovery.testing.providers.place import ProviderPlace, Rests, Watcher, at, at_first, requests_of
from discovery.testing.recorder import Recorder
from discovery.testing.support import eventually
from discovery.testing.watching import limited

_QUICK_SECONDS = 0.5
"""Seconds until a change of the world is made and found, up to which the world is changed many times in turn."""


def observe(place: ProviderPlace) -> Observed:
    """Run a provider through the worlds of `place`, and return what was seen.

    A part that fails is noted in the observations. Parts of which the next depend end the life.
    """
    observed, settings, before = Observed(), process.settings(), process.Holdings.now()

    async def script(provider: AnyProvider) -> None:
        try:
            await _Life(place, provider, observed, settings).run()
        except Exception as error:  # noqa: BLE001 - raised again by the clauses about what has not taken place
            observed.end = error

    try:
        with observed.part(Part.TEARDOWN):
            place._run(script)  # noqa: SLF001 - its own place
    finally:
        process.restore(settings)
    observed.left = process.left_since(before, left_seconds(place))
    return observed


def left_seconds(place: ProviderPlace) -> float:
    """Return the time limit, in seconds, for what a teardown has ended to disappear."""
    return min(place.patience, 3.0)


class _Life:
    """A life of `provider`: three discoveries in turn, and beside them those of other instances, of the same world."""

    def __init__(
        self, place: ProviderPlace, provider: AnyProvider, observed: Observed, settings: Mapping[str, object]
    ) -> None:
        self.place, self.provider, self.observed, self.settings = place, provider, observed, settings
        self.is_quick = False

    async def run(self) -> None:
        place, provider, observed = self.place, self.provider, self.observed
        blinded = place.blind()
        observed.can_be_blinded = blinded is not None
        before = dump_of(provider.config)
        await self._ask("before discover")
        with Recorder() as recorder:
            async with place._watching(provider) as seen:  # noqa: SLF001
                first = await self._change(seen)
        with observed.part(Part.COURSE, ends=True):
            observed.config = before, dump_of(provider.config)
            observed.outside = files_outside(place, provider, recorder.written)
            observed.changed = process.changed_settings(self.settings, process.settings())
            await look_at_all(observed)
        with tempfile.TemporaryDirectory() as directory:
            left = Path(directory, "run")
            with observed.part(Part.KILLED):
                shutil.copytree(provider.context.run_dir, left, ignore=_not_regular)
            async with self._begun_again(left, first, Part.AGAIN) as again:
                with observed.part(Part.BURST):
                    if self.is_quick:
                        await self._change_often(again, first)
                if blinded is not None:
                    with observed.part(Part.BLIND):
                        await self._blind(again, blinded)
            sees_again = Part.AGAIN if blinded is None else Part.BLIND
            async with self._begun_again(left, first, sees_again, at(first)):
                pass

    async def _ask(self, moment: str) -> None:
        asked = Asked(moment)
        with self.observed.part(Part.ASKED):
            await ask(asked, self.provider)
            asked.details = await outcome("inspect", INSPECT_SECONDS, self.provider.inspect)
            self.observed.asked.append(asked)

    async def _change(self, seen: Watcher) -> Inventory:
        """Change the world and change the world back, before the eyes of a twin. Return what is found in world 0."""
        place, observed = self.place, self.observed
        await self._ask("before the first inventory")
        async with place._another() as other, place._watching(other, at_first) as twin:  # noqa: SLF001
            with observed.part(Part.FIRST, ends=True):
                first = await seen.first()
            await self._ask("after the first inventory")
            observed.phases.append(len(seen.inventories))
            with observed.part(Part.EQUAL):
                await twin.first()
                if twin.latest != seen.latest:
                    twin.go_on()
                await seen.agrees_with(twin)
                observed.twins.append((seen.latest, twin.latest))
            with observed.part(Part.CHANGE, ends=True):
                await place._arrange(1)  # noqa: SLF001
                twin.go_on()
                second = await self._second(seen, first)
                observed.phases.append(len(seen.inventories))
            with observed.part(Part.MOMENT):
                await twin.finds(second)  # the world 1 of another time may be another, such as one with other ports
        with observed.part(Part.CHANGE, ends=True):
            begun = time.monotonic()
            await place._arrange(0)  # noqa: SLF001
            await seen.finds(first)
            self.is_quick = time.monotonic() - begun < _QUICK_SECONDS
            await quiet(seen)
            observed.phases.append(len(seen.inventories))
        observed.inventories, observed.copies = seen.inventories, seen.copies
        await idle(seen, self.provider, observed)
        return first

    async def _second(self, seen: Watcher, first: Inventory) -> Inventory:
        """Return what is found in world 1, by the provider and by another that begins there."""
        place = self.place
        async with place._another() as other, place._watching(other, at_first) as afresh:  # noqa: SLF001
            await seen.another_than(first)
            second = await afresh.first()
            await seen.finds(second)
            self.observed.twins.append((seen.latest, second))
            await quiet(seen)
            return second

    @asynccontextmanager
    async def _begun_again(
        self, left: Path, first: Inventory, part: Part, rests: Rests | None = None
    ) -> AsyncIterator[Watcher]:
        """Begin another discovery, as `part`, and meanwhile an instance in the directory `left`. Both find `first`."""
        place, requests = self.place, requests_of(self.provider)
        async with place._watching(self.provider, rests) as again:  # noqa: SLF001
            with self.observed.part(Part.KILLED):
                async with place._another(left) as other, place._watching(other, at(first)) as seen:  # noqa: SLF001
                    await seen.finds(first)
            with self.observed.part(part, ends=True):
                await again.finds(first)
            self.observed.requests_when_begun.append(requests_of(self.provider) - requests)
            yield again

    async def _change_often(self, seen: Watcher, first: Inventory) -> None:
        try:
            for world in (1, 0, 1, 0, 1):
                await self.place._arrange(world)  # noqa: SLF001
            await self._second(seen, first)
        finally:
            await self.place._arrange(0)  # noqa: SLF001
        await seen.finds(first)

    async def _blind(self, seen: Watcher, blinded: AbstractContextManager[object]) -> None:
        """Take the sight from a provider, and give the sight back when two discoveries have raised."""
        place, provider = self.place, self.provider
        count, first = len(seen.inventories), seen.latest
        await asyncio.to_thread(blinded.__enter__)
        try:
            await eventually(seen.task.done, "discover to raise", place.patience)
            less = [each for each in seen.inventories[count:] if each != first]
            expect(not less, "an exception, and no other inventory", less)
            ended = None if seen.task.cancelled() else seen.task.exception()
            expect(isinstance(ended, Exception), "an exception that tells the reason", ended)
            is_health_told(await call("health", CALL_SECONDS, provider.health), "after an exception of discover")
            await self._raises_again()
        finally:
            await asyncio.to_thread(blinded.__exit__, None, None, None)

    async def _raises_again(self) -> None:
        patience = self.place.patience
        with limited("discover, which cannot see,", patience + 1):
            begun = iterated(self.provider.discover())
            try:
                async with asyncio.timeout(patience):
                    found: object = await anext(begun)
            except Exception as error:  # noqa: BLE001 - after any exception the core tries again
                expect(not isinstance(error, StopAsyncIteration), "an exception that tells the reason", describe(error))
                return
            finally:
                await begun.aclose()
        expect(False, "an exception again", found)


def _not_regular(directory: str, names: Sequence[str]) -> list[str]:
    """Return the names of sockets and pipes in a directory, which cannot be copied."""
    return [name for name in names if not (path := Path(directory, name)).is_file() and not path.is_dir()]
