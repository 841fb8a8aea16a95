"""One provider of the daemon: what it finds is registered, wherever and under whatever name it is to be."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from discovery import Candidate, Inventory, PluginConfig, Provider, Verdict
from discovery.codec import decode
from discovery.errors import OwnedByAnotherError, RegistryUnavailableError
from discovery.providing.checker import CandidateStatus
from discovery.providing.provider import RunningProvider, RunningProviderStatus
from discovery.providing.runner import ProviderInstance, ProviderStatus
from discovery.registry.memory import MemoryLease, MemoryRegistry
from discovery.system.lookups import RememberedLookups
from discovery.testing import backend, eventually, within


class Ports(PluginConfig):
    ports: tuple[int, ...] = (80,)


class Fixed(Provider[Ports]):
    """Finds a backend at each of its ports."""

    Config = Ports

    async def discover(self) -> Any:
        yield Inventory(tuple(Candidate(backend(id=f"p{port}", port=port)) for port in self.config.ports))
        await asyncio.Event().wait()


INSTANCE = ProviderInstance("local", "fixed", Fixed, Ports(), ttl=10, owner="us")


@asynccontextmanager
async def providing(registry: MemoryRegistry, run_dir: Path) -> AsyncIterator[RunningProvider]:
    one = RunningProvider(INSTANCE, registry, run_dir, structlog.get_logger(), RememberedLookups(), lambda: None)
    one.start()
    try:
        await eventually(lambda: one.status.ready)
        yield one
    finally:
        one.stop()
        assert await one.join(within(10))


def keys(registry: MemoryRegistry) -> set[str]:
    return set(registry.records)


def owner(registry: MemoryRegistry) -> Any:
    return getattr(decode("web/p80", registry.records["web/p80"]), "owner", None)


class Watched(MemoryRegistry):
    """Counts how often the key web/p80 went, and forgets no lease."""

    def __init__(self) -> None:
        super().__init__()
        self.gone = 0
        self.leases: list[MemoryLease] = []

    async def open_lease(self, owner: str, ttl: float) -> MemoryLease:
        self.leases.append(await super().open_lease(owner, ttl))
        return self.leases[-1]

    def change(self, puts: Any, deletes: Any = (), holder: MemoryLease | None = None) -> None:
        there = "web/p80" in self.records
        super().change(puts, deletes, holder)
        self.gone += there and "web/p80" not in self.records


async def test_what_is_found_is_registered_and_withdrawn_at_the_end(tmp_path: Path) -> None:
    registry = MemoryRegistry()
    async with providing(registry, tmp_path):
        assert keys(registry) == {"web/p80"}
        assert owner(registry) == "us"
    assert keys(registry) == set()


async def test_another_ttl_or_configuration_leaves_no_gap(tmp_path: Path) -> None:
    registry = Watched()
    async with providing(registry, tmp_path) as one:
        changed = replace(INSTANCE, ttl=3)
        assert await one.reconfigure(changed, registry)
        assert registry.leases[-1].ttl == 3
        assert not await one.reconfigure(changed, registry)
        assert await one.reconfigure(replace(changed, config=Ports(ports=(80, 81))), registry)
        await eventually(lambda: keys(registry) == {"web/p80", "web/p81"})
        assert one.status.ttl == 3
        assert registry.gone == 0
    assert keys(registry) == set()


async def test_another_owner_has_its_keys_at_once(tmp_path: Path) -> None:
    registry, other = MemoryRegistry(), MemoryRegistry()
    async with providing(registry, tmp_path) as one:
        assert await one.reconfigure(replace(INSTANCE, owner="they"), registry)
        assert owner(registry) == "they"
        assert await one.reconfigure(replace(INSTANCE, owner="we"), other)
        assert (keys(registry), owner(other)) == (set(), "we")


async def test_another_registry_has_everything_before_it_leaves_the_one(tmp_path: Path) -> None:
    other = MemoryRegistry()
    there_when_it_went = []

    class Left(MemoryRegistry):
        def change(self, puts: Any, deletes: Any = (), holder: MemoryLease | None = None) -> None:
            if deletes:
                there_when_it_went.append(keys(other))
            super().change(puts, deletes, holder)

    registry = Left()
    async with providing(registry, tmp_path) as one:
        assert await one.reconfigure(INSTANCE, other)
        assert there_when_it_went == [{"web/p80"}]
        assert (keys(registry), keys(other)) == (set(), {"web/p80"})
    assert keys(other) == set()


async def test_a_registry_that_raises_anything_is_the_providers_problem_and_tried_again(tmp_path: Path) -> None:
    class Odd(MemoryRegistry):
        well = False

        async def open_lease(self, owner: str, ttl: float) -> MemoryLease:
            if not self.well:
                raise ZeroDivisionError("never mind")
            return await super().open_lease(owner, ttl)

    registry = Odd()
    one = RunningProvider(INSTANCE, registry, tmp_path, structlog.get_logger(), RememberedLookups(), lambda: None)
    one.start()
    await eventually(lambda: one.status.problem == "ZeroDivisionError: never mind")
    assert one.status.why_not("web/p80") == "ZeroDivisionError: never mind"
    assert not one.status.ready
    registry.well = True
    await eventually(lambda: one.status.ready)
    assert one.status.problem is None
    one.stop()
    assert await one.join(within(10))


async def test_a_lease_that_fails_to_close_does_not_begin_anew(tmp_path: Path) -> None:
    class Failing(MemoryRegistry):
        leases = 0

        async def open_lease(self, owner: str, ttl: float) -> MemoryLease:
            self.leases += 1

            class Lease(MemoryLease):
                async def close(self) -> None:
                    raise ZeroDivisionError

            return Lease(self, owner, ttl)

    registry = Failing()
    async with providing(registry, tmp_path):
        pass
    assert registry.leases == 1


async def test_a_second_request_to_stop_does_not_cut_the_withdrawing_short(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    class Slow(MemoryRegistry):
        async def open_lease(self, owner: str, ttl: float) -> MemoryLease:
            class Lease(MemoryLease):
                async def close(self) -> None:
                    await go_on.wait()
                    await super().close()

            return Lease(self, owner, ttl)

    registry = Slow()
    async with providing(registry, tmp_path) as one:
        one.stop()
        assert not await one.join(0.1)
        one.stop()
        assert not await one.join(0.1)
        go_on.set()
    assert keys(registry) == set()


@pytest.mark.parametrize(
    ("verdict", "given", "expected"),
    [
        (Verdict.PASSING, {"wanted": {"web/a"}, "registered": {"web/a"}}, None),
        (None, {}, "not checked yet"),
        (Verdict.PASSING, {}, "others are not checked yet"),
        (Verdict.FAILING, {"wanted": set()}, "connection refused"),
        (Verdict.PASSING, {"wanted": {"web/a"}}, "not written yet"),
        (Verdict.PASSING, {"wanted": {"web/a"}, "fault": "broken"}, "broken"),
        (
            Verdict.PASSING,
            {"wanted": {"web/a"}, "failing": {"web/a": OwnedByAnotherError("it belongs to them")}},
            "it belongs to them",
        ),
    ],
)
def test_why_a_candidate_is_not_registered(
    verdict: Verdict | None, given: dict[str, Any], expected: str | None
) -> None:
    candidate = CandidateStatus(backend(id="a"), verdict, "connection refused")
    defaults: dict[str, Any] = {"wanted": None, "registered": set(), "failing": {}, "fault": None}
    runner = ProviderStatus("local", "fixed", candidates={"web/a": candidate})
    status = RunningProviderStatus(runner=runner, owner="us", ttl=10, ready=False, **{**defaults, **given})
    assert status.why_not("web/a") == expected


def test_a_registry_that_is_away_is_no_problem_of_the_providers() -> None:
    status = RunningProviderStatus(
        ProviderStatus("local", "fixed"),
        "us",
        10,
        frozenset({"web/a"}),
        frozenset(),
        {"web/a": RegistryUnavailableError("nobody answers")},
        None,
        ready=False,
    )
    assert status.problem is None
    assert replace(status, fault="broken").problem == "broken"
