"""When the checker checks, on a clock that jumps."""

import asyncio
import resource
import selectors
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import pytest
from checking import F, Scripted, candidate, checking, quick

from discovery.checks import Check, Outcome


class _Instant(selectors.SelectSelector):
    """Nothing is waited for: the clock jumps to what comes next."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now += timeout or 0
        return super().select(0)


def on_a_clock_that_jumps(main: Awaitable[None]) -> None:
    selector = _Instant()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]
    try:
        loop.run_until_complete(main)
    finally:
        loop.close()


@pytest.mark.costly
def test_a_thousand_candidates_are_never_probed_in_one_burst() -> None:
    probe = Scripted(wait=lambda: asyncio.sleep(0.001))

    async def main() -> None:
        candidates = [candidate(Check(probe, interval=5 + n * 1e-9), port=n) for n in range(1, 1001)]
        async with checking(*candidates) as (_, published):
            await asyncio.sleep(1.5)
            assert len(published) == 1  # all at once, in spite of the spread
            assert len(published[0]) == 1000
            await asyncio.sleep(20)

    on_a_clock_that_jumps(main())
    assert probe.most_under_way <= 64
    starts = sorted(probe.starts)
    assert 4_000 <= len(starts) <= 6_000  # every 4.5 to 5 s
    for at in range(600):
        tenth = sum(at / 10 <= start < (at + 1) / 10 for start in starts)
        assert tenth <= 150, f"{tenth} in the tenth of a second at {at / 10} s"


@pytest.mark.costly
def test_a_mass_hang_is_noticed_as_soon_as_a_single_one() -> None:
    """Point 28. With 64 slots it took minutes for 1,000 candidates."""

    async def hang() -> None:
        await asyncio.sleep(3600 if hanging else 0.001)

    hanging = False
    probe = Scripted(wait=hang)

    async def main() -> None:
        nonlocal hanging
        async with checking(*(candidate(Check(probe), port=n) for n in range(1, 1001))) as (_, published):
            await asyncio.sleep(2)
            assert len(published[-1]) == 1000
            hanging = True
            check = Check(probe)
            await asyncio.sleep(check.fall * (check.interval + check.timeout))
            assert published[-1] == ()

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    try:
        on_a_clock_that_jumps(main())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_probes_leave_descriptors_for_everything_else() -> None:
    """Point 28."""
    probe = Scripted(wait=lambda: asyncio.sleep(3600))

    async def main() -> None:
        async with checking(*(candidate(Check(probe), port=n) for n in range(1, 2001))):
            await asyncio.sleep(2)

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, limits[1]))
    try:
        on_a_clock_that_jumps(main())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert 64 < probe.most_under_way <= 1024 / 4


def test_the_interval_is_kept() -> None:
    probe = Scripted()

    async def main() -> None:
        async with checking(candidate(Check(probe, interval=10))):
            await asyncio.sleep(200)
            probe.outcome = Outcome(F)
            await asyncio.sleep(200)

    on_a_clock_that_jumps(main())
    gaps = [later - earlier for earlier, later in zip(probe.starts, probe.starts[1:], strict=False)]
    assert 5 <= gaps[0] <= 10
    assert all(9 <= gap <= 10.001 for gap in gaps[1:])


def test_the_weight_of_the_candidate_counts_where_no_probe_tells_one() -> None:
    async def main() -> None:
        one = candidate(quick(Scripted()), weight=7)
        async with checking(one) as (checker, published):
            await asyncio.sleep(1)
            assert published[-1][0].weight == 7
            checker.set([replace(one, backend=replace(one.backend, weight=3))])
            await asyncio.sleep(1)
            assert published[-1][0].weight == 3

    on_a_clock_that_jumps(main())
