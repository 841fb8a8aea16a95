"""One provider: what it finds is checked and handed on, whatever it raises or yields."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from providers import Finder, Says, finder, found, instance, running
from sampling import sampled

from discovery import CannotStartError, DiscoveryError, Health
from discovery.checks import Check, Verdict
from discovery.hosting.isolation import Phase
from discovery.plugin import Candidate, Inventory
from discovery.providing.runner import valid_candidates
from discovery.testing import backend, eventually_sync


def test_what_is_found_is_handed_on_and_what_is_no_longer_found_is_not(tmp_path: Path) -> None:
    provider = finder(found(80, 81))
    with running(instance(provider), tmp_path) as it:
        it.publishes(80, 81)
        status = it.runner.status
        assert status.candidates.keys() == {backend(port=80).key, backend(port=81).key}
        assert (status.name, status.plugin, status.published, status.problem) == ("it", "test", True, None)
        provider.world.now = found(81, 82)
        it.publishes(81, 82)
        provider.world.now = found()
        it.publishes()
    assert it.runner.status.phase is Phase.STOPPED
    assert provider.world.events == ["setup", "closed", "teardown"]
    assert it.changes == [Phase.STARTING, Phase.WAITING]  # its lock and its setup have been tried


def test_an_equal_inventory_makes_no_difference(tmp_path: Path) -> None:
    provider = finder(found(80))
    with running(instance(provider), tmp_path) as it:
        it.publishes(80)
        for _ in range(20):
            provider.world.now = found(80)
        provider.world.now = found(80, 81)
        it.publishes(80, 81)
    assert len(it.published) == 2


def test_checks_decide_what_is_handed_on(tmp_path: Path) -> None:
    verdict = [Verdict.PASSING]
    check = Check(Says(lambda: verdict[0]), interval=0.02, rise=1, fall=1)
    with running(instance(finder(found(80, checks=(check,)))), tmp_path) as it:
        it.publishes(80)
        verdict[0] = Verdict.FAILING
        it.publishes()
        assert it.runner.status.candidates[backend(port=80).key].verdict is Verdict.FAILING
        assert it.runner.status.problem is None


def test_while_discovery_fails_what_was_found_stands_and_is_still_checked(tmp_path: Path) -> None:
    verdict = [Verdict.PASSING]
    check = Check(Says(lambda: verdict[0]), interval=0.02, rise=1, fall=1)
    provider = finder(found(80, checks=(check,)))
    with running(instance(provider), tmp_path) as it:
        it.publishes(80)
        provider.world.now = OSError("the engine is away")
        eventually_sync(lambda: it.runner.status.problem == "OSError: the engine is away")
        assert it.runner.status.phase is Phase.RETRYING
        assert it.ports == [80]
        verdict[0] = Verdict.FAILING
        it.publishes()
        verdict[0] = Verdict.PASSING
        it.publishes(80)
        provider.world.now = found(80, 81)
        it.publishes(80, 81)
        assert it.runner.status.problem is None
        assert it.runner.status.phase is Phase.WAITING
    assert provider.world.events.count("setup") == 1


@pytest.mark.parametrize(
    ("error", "told", "traceback"),
    sampled(
        [
            pytest.param(DiscoveryError("no permission for the socket"), "no permission for the socket", False),
            pytest.param(OSError("away"), "OSError: away", False),
            pytest.param(RuntimeError("a\nbug"), "RuntimeError: a bug", True),
            pytest.param(asyncio.CancelledError(), "CancelledError", True),
            pytest.param(SystemExit(3), "SystemExit: 3", True),
            pytest.param(KeyboardInterrupt(), "KeyboardInterrupt", True),
            pytest.param(CannotStartError("not now"), "not now", False),
        ],
        2,
    ),
)
def test_a_discovery_that_fails_is_tried_again_and_told_once(
    tmp_path: Path, error: BaseException, told: str, traceback: bool
) -> None:
    provider = finder(error)
    with running(instance(provider), tmp_path) as it:
        eventually_sync(lambda: it.runner.status.failures >= 2)
        assert it.runner.status.problem == told
        (line,) = it.logged("discovery failed")
        assert line["reason"] == told
        assert bool(line["exc_info"]) is traceback
        assert it.published == []
        provider.world.now = found(80)
        it.publishes(80)
        assert it.runner.status.problem is None
        assert len(it.logged("discovery works again")) == 1


async def _ends(self: Finder) -> AsyncGenerator[Inventory, None]:
    yield self.world.now


async def _nonsense(self: Finder) -> AsyncGenerator[Any, None]:
    yield ["web/a"]


async def _bare(self: Finder) -> AsyncGenerator[Any, None]:
    yield Inventory((backend(),))  # type: ignore[arg-type]


def _no_generator(self: Finder) -> Any:
    return None


@pytest.mark.parametrize(
    ("discover", "told"),
    [
        (_ends, "the provider has ended its discovery by itself"),
        (_nonsense, "TypeError: it yields a list, and no Inventory"),
        (_bare, "TypeError: its Inventory has a Backend among the candidates"),
        (_no_generator, "TypeError: it is a NoneType, and neither a generator nor an asynchronous generator"),
    ],
)
def test_a_discovery_that_is_none_is_a_problem(tmp_path: Path, discover: Any, told: str) -> None:
    with running(instance(finder(found(80), discover=discover)), tmp_path) as it:
        eventually_sync(lambda: it.runner.status.failures >= 2)
        assert it.runner.status.problem == told
        assert it.ports == ([80] if discover is _ends else None)


def test_an_invalid_backend_hurts_itself_alone(tmp_path: Path) -> None:
    bad = Candidate(backend(host="0.0.0.0", id="bad"))
    inventory = Inventory((*found(80).candidates, bad), {"container db-1": "has no\nport"})
    provider = finder(inventory)
    with running(instance(provider), tmp_path) as it:
        it.publishes(80)
        problems = it.runner.status.problems
        assert problems.keys() == {"web/bad", "container db-1"}
        assert "0.0.0.0" in problems["web/bad"]
        assert problems["container db-1"] == r"has no\nport"
        assert it.runner.status.problem is None
        assert [line["what"] for line in it.logged("there is a problem")] == ["container db-1", "web/bad"]


def test_a_problem_is_told_when_it_appears_changes_and_goes(tmp_path: Path) -> None:
    provider = finder(found(80, problems={"a": "first", "b": "other"}))
    with running(instance(provider), tmp_path) as it:
        for now in (
            found(80, 81, problems={"a": "first", "b": "other"}),
            found(80, problems={"a": "second", "b": "other"}),
            found(80, 82, problems={"b": "other"}),
        ):
            it.publishes(*[candidate.backend.port for candidate in provider.world.now.candidates])
            eventually_sync(lambda: it.runner.status.problems == provider.world.now.problems)
            provider.world.now = now
        it.publishes(80, 82)
        assert it.runner.status.problems == {"b": "other"}
    told = [(line["what"], line["reason"]) for line in it.logged("there is a problem")]
    assert told == [("a", "first"), ("b", "other"), ("a", "second")]
    assert [line["what"] for line in it.logged("no longer a problem")] == ["a"]


def test_a_probe_that_may_not_be_hashed_hurts_its_candidate_alone(tmp_path: Path) -> None:
    class Unhashable(Says):
        __hash__ = None  # type: ignore[assignment]

    checked = found(81, checks=(Check(Unhashable(lambda: Verdict.PASSING)),)).candidates
    with running(instance(finder(Inventory((*found(80).candidates, *checked)))), tmp_path) as it:
        it.publishes(80)
        assert "unhashable" in it.runner.status.problems[backend(port=81).key]


def test_health_is_asked_and_a_raising_health_is_a_problem(tmp_path: Path) -> None:
    answers: list[Any] = [Health(ok=False, detail="one engine of two is away")]

    async def health(self: Finder) -> Health:
        if isinstance(answers[0], BaseException):
            raise answers[0]
        return answers[0]

    with running(instance(finder(found(80), health=health)), tmp_path) as it:
        eventually_sync(lambda: it.runner.status.problem == "one engine of two is away")
        it.publishes(80)
        answers[0] = asyncio.CancelledError()
        eventually_sync(lambda: it.runner.status.problem == "CancelledError")
        answers[0] = None
        eventually_sync(lambda: it.runner.status.problem == "TypeError: its health answered None")
        answers[0] = Health()
        eventually_sync(lambda: it.runner.status.problem is None)


def test_what_is_skipped_is_kept_and_logged_once_for_debugging(tmp_path: Path) -> None:
    """Point 18. It is no problem."""

    def skipping(**rules: str) -> Inventory:
        return Inventory((Candidate(backend(port=80)),), skipped=rules)

    provider = finder(skipping(one="it is not ours", other="it is\npaused"))
    with running(instance(provider), tmp_path) as it:
        it.publishes(80)
        assert it.runner.status.skipped == {"one": "it is not ours", "other": r"it is\npaused"}
        provider.world.now = skipping(one="it is not ours")
        eventually_sync(lambda: list(it.runner.status.skipped) == ["one"])
        assert it.runner.status.problem is None
        assert not it.runner.status.problems
    assert [each["what"] for each in it.logged("skipped")] == ["one", "other"]
    assert [each["what"] for each in it.logged("no longer skipped")] == ["other"]


ids = st.sampled_from(["a", "b", "not an id", "c\n"])
candidates = st.builds(lambda id_, port: Candidate(backend(id=id_, port=port)), ids, st.integers(0, 3))


@given(st.lists(candidates, max_size=8))
def test_each_candidate_is_admitted_or_its_key_is_a_problem(listed: list[Candidate]) -> None:
    admitted, problems = valid_candidates(Inventory(tuple(listed), {"x": "y"}))
    keys = [each.backend.key for each in admitted]
    assert len(keys) == len(set(keys))
    for candidate in listed:
        key = candidate.backend.key
        rivals = {each for each in listed if each.backend.key == key and each.backend.port}
        sound = "not" not in key and "\n" not in key and candidate.backend.port > 0
        assert (candidate in admitted) == (sound and len(rivals) == 1)
        assert candidate in admitted or key.replace("\n", r"\n") in problems
    assert problems["x"] == "y"
    assert all("\n" not in text for pair in problems.items() for text in pair)
