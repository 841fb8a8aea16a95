"""A provider's setup, restarts and end: what was found stands meanwhile, and nothing is cut short."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest
from providers import Finder, Options, Says, finder, found, instance, running

from discovery import CannotStartError, Health
from discovery.checks import Check, Verdict
from discovery.hosting.isolation import Phase, Timing
from discovery.plugin import Inventory
from discovery.providing.checker import Checker
from discovery.testing import eventually_sync, within


def test_setup_is_retried_with_a_fresh_provider_each_time(tmp_path: Path) -> None:
    async def setup(self: Finder) -> None:
        self.world.events.append("setup")
        if self.world.events.count("setup") < 3:
            raise OSError("not yet")

    provider = finder(found(80), setup=setup)
    with running(instance(provider), tmp_path) as it:
        eventually_sync(lambda: it.runner.status.setup_tried)
        it.publishes(80)
    assert provider.world.events == ["setup", "teardown", "setup", "teardown", "setup", "closed", "teardown"]


def test_cannot_start_is_final(tmp_path: Path) -> None:
    async def setup(self: Finder) -> None:
        raise CannotStartError("no such thing here")

    with running(instance(finder(found(80), setup=setup)), tmp_path) as it:
        it.in_phase(Phase.DEAD)
        eventually_sync(lambda: it.changes == [Phase.STARTING, Phase.DEAD])
        assert it.runner.status.problem == "no such thing here"
        assert it.runner.status.setup_tried
        assert it.published == []


def test_a_second_one_on_the_same_run_directory_is_refused_by_name(tmp_path: Path) -> None:
    with running(instance(finder(found(80))), tmp_path) as first:
        first.publishes(80)
        with running(instance(finder(found(80))), tmp_path) as second:
            second.in_phase(Phase.DEAD)
            assert "provider 'it'" in (second.runner.status.problem or "")
        assert first.runner.status.problem is None


def test_a_new_configuration_restarts_the_provider_while_what_was_published_stands(tmp_path: Path) -> None:
    provider = finder(found(80))
    with running(instance(provider, "a"), tmp_path) as it:
        it.publishes(80)
        it.runner.reconfigure(instance(provider, "b"))
        eventually_sync(lambda: "setup b" in provider.world.events)
        provider.world.now = found(80, 81)
        it.publishes(80, 81)
        assert it.runner.instance.config == Options(tag="b")
    assert [[each.port for each in each_set] for each_set in it.published] == [[80], [80, 81]]
    assert provider.world.events == ["setup a", "closed", "teardown a", "setup b", "closed", "teardown b"]


def test_an_equal_instance_or_one_that_is_only_registered_otherwise_restarts_nothing(tmp_path: Path) -> None:
    provider = finder(found(80))
    with running(instance(provider), tmp_path) as it:
        it.publishes(80)
        it.runner.reconfigure(instance(provider))
        it.runner.reconfigure(other := replace(instance(provider), ttl=20.0, owner="else"))
        provider.world.now = found(81)
        it.publishes(81)
        assert it.runner.instance == other
    assert provider.world.events == ["setup", "closed", "teardown"]


def test_a_new_configuration_that_cannot_start_leaves_what_stands_checked_and_can_be_mended(tmp_path: Path) -> None:
    async def setup(self: Finder) -> None:
        if self.config.tag == "bad":
            raise CannotStartError("no such engine")

    verdict = [Verdict.PASSING]
    check = Check(Says(lambda: verdict[0]), interval=0.02, rise=1, fall=1)
    provider = finder(found(80, checks=(check,)), setup=setup)
    with running(instance(provider), tmp_path) as it:
        it.publishes(80)
        it.runner.reconfigure(instance(provider, "bad"))
        eventually_sync(lambda: it.runner.status.problem == "no such engine")
        assert it.ports == [80]
        verdict[0] = Verdict.FAILING
        it.publishes()
        verdict[0] = Verdict.PASSING
        it.publishes(80)
        it.runner.reconfigure(instance(provider, "good"))
        eventually_sync(lambda: it.runner.status.problem is None)


def test_a_provider_that_breaks_its_loop_dies_alone_and_leaves_nothing_that_nobody_checks(tmp_path: Path) -> None:
    async def leave() -> None:
        raise SystemExit(1)

    async def discover(self: Finder) -> AsyncGenerator[Inventory, None]:
        yield self.world.now
        while self.world.now is not None:  # noqa: ASYNC110 - a test on another thread says when
            await asyncio.sleep(0.005)
        self.task = asyncio.create_task(leave())
        await asyncio.sleep(3600)

    provider = finder(found(80), discover=discover)
    with running(instance(provider), tmp_path) as it:
        it.publishes(80)
        provider.world.now = None
        it.publishes()
        it.in_phase(Phase.DEAD)
        assert it.runner.status.problem == "SystemExit: 1"


@pytest.mark.parametrize("where", ["discover", "setup", "teardown"])
def test_nothing_stands_that_nobody_checks_wherever_the_checks_break(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    broken, there = threading.Event(), threading.Event()

    class Breaking(Checker):
        async def run(self) -> None:
            running = asyncio.create_task(super().run())
            while not broken.is_set():  # noqa: ASYNC110 - a test on another thread says when
                await asyncio.sleep(0.005)
            running.cancel()
            raise ZeroDivisionError

    async def stay(self: Finder) -> None:
        if where == "teardown" or self.config.tag == "b":
            there.set()
            while not broken.is_set():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)  # the input: the plugin returns after the checks have broken
            if where == "setup":
                raise OSError("not yet")

    monkeypatch.setattr("discovery.providing.runner.Checker", Breaking)
    provider = finder(found(80), **({where: stay} if where != "discover" else {}))
    with running(instance(provider), tmp_path) as it:
        it.publishes(80)
        if where != "discover":
            it.runner.reconfigure(instance(provider, "b"))
            assert there.wait(within(10))
        broken.set()
        it.publishes()
        it.in_phase(Phase.DEAD)
        assert it.runner.status.problem == "ZeroDivisionError"


@pytest.mark.parametrize("stopped_in", ["discover", "teardown"])
def test_neither_the_end_of_a_discovery_nor_a_teardown_is_cut_short(tmp_path: Path, stopped_in: str) -> None:
    begun = {"discover": threading.Event(), "teardown": threading.Event()}

    async def discover(self: Finder) -> AsyncGenerator[Inventory, None]:
        try:
            yield self.world.now
            await asyncio.sleep(3600)
        finally:
            begun["discover"].set()
            await asyncio.sleep(0.6)  # the input: a slow end
            self.world.events.append("closed")

    async def teardown(self: Finder) -> None:
        begun["teardown"].set()
        await asyncio.sleep(0.3)  # the input: a slow teardown
        self.world.events.append("torn down")

    provider = finder(found(80), discover=discover, teardown=teardown)
    with running(instance(provider), tmp_path) as it:
        it.publishes(80)
        it.runner.reconfigure(instance(provider, "b"))
        assert begun[stopped_in].wait(within(10))
    assert provider.world.events == ["setup", "closed", "torn down"]
    assert it.runner.status.phase is Phase.STOPPED


def test_a_health_that_never_answers_is_a_problem_and_in_nobodys_way(tmp_path: Path) -> None:
    async def health(self: Finder) -> Health:
        await asyncio.sleep(3600)
        return Health()

    provider = finder(found(80), health=health)
    with running(instance(provider), tmp_path, Timing(health_timeout=0.1)) as it:
        eventually_sync(lambda: it.runner.status.problem == "its health has not answered within 0.1 s")
        it.runner.reconfigure(instance(provider, "b"))
        eventually_sync(lambda: "setup b" in provider.world.events)


def test_a_teardown_that_raises_hinders_nobody(tmp_path: Path) -> None:
    async def teardown(self: Finder) -> None:
        raise SystemExit(4)

    provider = finder(found(80), teardown=teardown)
    with running(instance(provider), tmp_path) as it:
        it.publishes(80)
        it.runner.reconfigure(instance(provider, "b"))
        eventually_sync(lambda: "setup b" in provider.world.events)
        provider.world.now = found(81)
        it.publishes(81)
    assert it.runner.status.phase is Phase.STOPPED
    assert [line["reason"] for line in it.logged("teardown failed")] == ["SystemExit: 4"] * 2


def test_a_discovery_that_swallows_its_cancellation_is_closed_at_its_next_yield(tmp_path: Path) -> None:
    async def discover(self: Finder) -> AsyncGenerator[Inventory, None]:
        while True:
            yield self.world.now
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self.world.events.append("swallowed")

    provider = finder(found(80), discover=discover)
    with running(instance(provider), tmp_path) as it:
        it.publishes(80)
    assert provider.world.events == ["setup", "swallowed", "teardown"]


def test_a_stop_before_anything_is_found_ends_it(tmp_path: Path) -> None:
    async def setup(self: Finder) -> None:
        self.world.events.append("setup")
        await asyncio.sleep(3600)

    provider = finder(found(80), setup=setup)
    with running(instance(provider), tmp_path) as it:
        eventually_sync(lambda: provider.world.events == ["setup"])
    assert provider.world.events == ["setup", "teardown"]
    assert it.published == []


def test_a_blocked_thread_is_abandoned_at_the_deadline_and_delays_nobody(tmp_path: Path) -> None:
    entered, leave = threading.Event(), threading.Event()

    async def discover(self: Finder) -> AsyncGenerator[Inventory, None]:
        yield self.world.now
        entered.set()
        leave.wait(within(60))

    with running(instance(finder(found(80), discover=discover), name="blocked"), tmp_path) as blocked:
        assert entered.wait(within(10))
        with running(instance(finder(found(81))), tmp_path) as other:
            other.publishes(81)
        assert blocked.runner.status.name == "blocked"
        blocked.runner.stop()
        assert asyncio.run(blocked.runner.join(0.1)) is False
        leave.set()
