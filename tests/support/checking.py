"""A Checker under way, and a probe that does what a test tells it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import structlog

from discovery.checks import Check, Outcome, Verdict
from discovery.model import Backend
from discovery.plugin import Candidate
from discovery.providing.checker import Checker
from discovery.system.lookups import Lookup, RememberedLookups
from discovery.testing import backend

P, D, F = Verdict.PASSING, Verdict.DRAINING, Verdict.FAILING


@dataclass(eq=False)
class Scripted:
    """A probe that does what the test tells it."""

    outcome: Outcome | BaseException | Any = field(default_factory=Outcome)
    runs: int = 0
    under_way: int = 0
    most_under_way: int = 0
    gate: asyncio.Event | None = None
    wait: Callable[[], Awaitable[None]] | None = None
    starts: list[float] = field(default_factory=list)

    async def __call__(self, backend: Backend) -> Outcome:
        self.runs += 1
        self.starts.append(asyncio.get_running_loop().time())
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.wait is not None:
                await self.wait()
        finally:
            self.under_way -= 1
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome  # type: ignore[no-any-return]


def quick(probe: Any, **rules: Any) -> Check:
    return Check(probe, **{"interval": 0.02, "timeout": 5.0, **rules})


def candidate(*checks: Check, port: int = 8080, **fields: Any) -> Candidate:
    return Candidate(backend(port=port, **fields), checks)


class Published(list[tuple[Backend, ...]]):
    @property
    def ids(self) -> list[str]:
        return [each.id for each in self[-1]]


@asynccontextmanager
async def checking(
    *candidates: Candidate, lookup: Lookup | None = None, **options: Any
) -> AsyncIterator[tuple[Checker, Published]]:
    published = Published()
    checker = Checker(published.append, structlog.get_logger(), lookup or RememberedLookups(), **options)
    checker.set(candidates)
    running = asyncio.create_task(checker.run())
    try:
        yield checker, published
        assert not running.done()
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def verdict_of(checker: Checker) -> Verdict | None:
    (status,) = checker.status.values()
    return status.verdict
