"""The checker: what is published and when, changes of the set, bounds, and probes that misbehave."""

import asyncio
from typing import Any, Self

import pytest
import structlog
from checking import D, F, P, Published, Scripted, candidate, checking, quick, verdict_of
from structlog.testing import capture_logs

from discovery.checks import Check, Outcome, Verdict
from discovery.model import Backend, State
from discovery.plugin import Candidate
from discovery.probes import ReportedProbe, TcpProbe
from discovery.providing.checker import Checker
from discovery.system.lookups import Lookup, RememberedLookups
from discovery.testing import eventually


async def test_without_checks_a_backend_is_registered_at_once() -> None:
    async with checking(candidate(port=1), candidate(port=2)) as (_, published):
        await eventually(lambda: published)
        assert [each.port for each in published[0]] == [1, 2]


async def test_nothing_is_published_before_the_first_set() -> None:
    published = Published()
    checker = Checker(published.append, structlog.get_logger(), RememberedLookups())
    running = asyncio.create_task(checker.run())
    for _ in range(10):
        await asyncio.sleep(0)  # turns of the loop, in which the checker could publish
    assert published == []
    checker.set([])
    await eventually(lambda: published == [()])
    running.cancel()


async def test_the_first_publication_waits_for_every_first_outcome() -> None:
    slow = Scripted(gate=asyncio.Event())
    fast = Scripted()
    async with checking(candidate(quick(fast), port=1), candidate(quick(slow), port=2), patience=60) as (_, published):
        await eventually(lambda: fast.runs > 3)
        assert published == []
        slow.gate.set()  # type: ignore[union-attr]
        await eventually(lambda: published)
        assert [each.port for each in published[0]] == [1, 2]


async def test_the_first_publication_does_not_wait_for_what_was_added_or_removed_meanwhile() -> None:
    slow = Scripted(gate=asyncio.Event())
    one, two, three = (candidate(quick(p), port=n) for n, p in enumerate((Scripted(), slow, slow), 1))
    async with checking(one, two, patience=60) as (checker, published):
        await eventually(lambda: checker.status["web/127.0.0.1:1"].verdict)
        checker.set([one, three])
        await eventually(lambda: published)
        assert published.ids == ["127.0.0.1:1"]


async def test_the_first_publication_does_not_wait_longer_than_its_patience() -> None:
    slow = Scripted(gate=asyncio.Event())
    async with checking(candidate(), candidate(quick(slow), port=2), patience=0.1) as (_, published):
        await eventually(lambda: published)
        assert published.ids == ["127.0.0.1:8080"]


async def test_a_failure_withdraws_after_fall_and_returns_after_rise() -> None:
    probe = Scripted()
    async with checking(candidate(quick(probe, rise=3, fall=4))) as (checker, published):
        await eventually(lambda: published and published.ids)
        probe.outcome, before = Outcome(F, "no"), probe.runs
        await eventually(lambda: published.ids == [])
        assert probe.runs - before in (4, 5)  # a run may have been under way
        assert checker.status["web/127.0.0.1:8080"].detail == "no"
        probe.outcome, before = Outcome(), probe.runs
        await eventually(lambda: published.ids)
        assert probe.runs - before in (3, 4)
    assert len(published) == 3


async def test_a_failure_drains_what_has_passed_before() -> None:
    probe, never = Scripted(), Scripted(Outcome(F))
    rules = {"on_failure": "drain", "fall": 1}
    async with checking(candidate(quick(probe, **rules)), candidate(quick(never, **rules), port=1)) as (_, published):
        await eventually(lambda: published)
        probe.outcome = Outcome(F)
        await eventually(lambda: published[-1][0].state is State.DRAINING)
        assert published.ids == ["127.0.0.1:8080"]


async def test_draining_as_the_probe_or_the_provider_says() -> None:
    probe = Scripted(Outcome(D, "stopping"))
    given = candidate(quick(Scripted()), port=2, state=State.DRAINING)
    async with checking(candidate(quick(probe), port=1), given) as (_, published):
        await eventually(lambda: published)
        assert [each.state for each in published[0]] == [State.DRAINING, State.DRAINING]
        probe.outcome = Outcome()
        await eventually(lambda: published[-1][0].state is State.ACTIVE)
        assert published[-1][1].state is State.DRAINING


async def test_weights_are_announced_at_once_and_then_at_most_once_in_their_interval() -> None:
    probe = Scripted(Outcome(weight=100))
    async with checking(candidate(quick(probe, interval=0.05, weight_interval=0.5))) as (_, published):
        await eventually(lambda: published)
        assert published[0][0].weight == 100
        probe.outcome = Outcome(weight=10)
        await eventually(lambda: published[-1][0].weight < 20)
        assert [each[0].weight for each in published] == sorted({each[0].weight for each in published}, reverse=True)
        assert len(published) - 1 <= (probe.starts[-1] - probe.starts[0]) / 0.5 + 1


async def test_an_equal_set_changes_nothing() -> None:
    probe = Scripted()
    async with checking(candidate(quick(probe))) as (checker, published):
        await eventually(lambda: probe.runs > 2)
        for _ in range(50):
            checker.set([candidate(quick(probe))])
            await asyncio.sleep(0)
        before = probe.runs
        await eventually(lambda: probe.runs > before + 2)
        assert probe.most_under_way == 1
        assert len(published) == 1


async def test_other_labels_are_published_without_another_check() -> None:
    probe = Scripted()
    async with checking(candidate(quick(probe, interval=60))) as (checker, published):
        await eventually(lambda: published)
        checker.set([candidate(quick(probe, interval=60), labels={"zone": "a"})])
        checker.set([candidate(published_check := quick(probe, interval=60), labels={"zone": "b"})])
        await eventually(lambda: published[-1][0].labels == {"zone": "b"})
        assert published_check.probe is probe
        assert len(published) == 2


async def test_other_checks_keep_the_verdict_until_their_first_outcome() -> None:
    before, after = Scripted(), Scripted(Outcome(F), gate=asyncio.Event())
    async with checking(candidate(quick(before))) as (checker, published):
        await eventually(lambda: published)
        checker.set([candidate(quick(after))])
        await eventually(lambda: after.under_way)
        assert verdict_of(checker) is P
        assert published.ids
        runs = before.runs
        after.gate.set()  # type: ignore[union-attr]
        await eventually(lambda: published.ids == [])
        assert before.runs == runs


async def test_another_address_begins_anew() -> None:
    probe = Scripted()
    slow = Scripted(gate=asyncio.Event())
    async with checking(candidate(quick(probe), id="x")) as (checker, published):
        await eventually(lambda: published)
        checker.set([candidate(quick(slow), id="x", port=9)])
        await eventually(lambda: published[-1] == ())
        slow.gate.set()  # type: ignore[union-attr]
        await eventually(lambda: [each.port for each in published[-1]] == [9])


@pytest.mark.parametrize("meanwhile", [[], [candidate(quick(Scripted()), id="x", labels={"a": "b"})]])
async def test_what_was_removed_is_cancelled_and_its_late_result_ignored(meanwhile: list[Candidate]) -> None:
    leave = asyncio.Event()
    swallowed = asyncio.Event()

    class Stubborn:
        async def __call__(self, backend: Backend) -> Outcome:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed.set()
                await leave.wait()
            return Outcome(F, "late")

    stubborn = quick(Stubborn())
    calm = candidate(quick(Scripted()), id="x")
    async with checking(candidate(stubborn, id="x"), patience=0.01) as (checker, published):
        await eventually(lambda: published == [()])
        checker.set(meanwhile)
        await eventually(swallowed.is_set)
        checker.set([calm])
        await eventually(lambda: [dict(each.labels) for each in published[-1]] == [{}])
        before = len(published)
        leave.set()
        for _ in range(20):
            await asyncio.sleep(0.005)
        assert verdict_of(checker) is P
        assert len(published) == before


@pytest.mark.parametrize(
    ("raised", "detail"),
    [
        (OSError(5, "disk on fire"), "OSError: [Errno 5] disk on fire"),
        (RuntimeError("two\nlines\x1b[2J"), r"RuntimeError: two lines\x1b[2J"),
        (asyncio.CancelledError(), "the probe cancelled itself"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (TimeoutError("its own"), "TimeoutError: its own"),
        (None, "TypeError: the probe returned NoneType, not Outcome"),
        (Outcome("fine"), "ValueError: 'fine' is not a valid Verdict"),  # type: ignore[arg-type]
        (Outcome(F, "x" * 5000), "x" * 199 + "…"),
    ],
)
async def test_a_probe_that_misbehaves_fails_in_one_line_and_goes_on(raised: Any, detail: str) -> None:
    probe = Scripted(raised)
    async with checking(candidate(quick(probe))) as (checker, _):
        await eventually(lambda: probe.runs > 2)
        (status,) = checker.status.values()
        assert (status.verdict, status.detail, status.registered) == (F, detail, False)
        probe.outcome = Outcome()
        await eventually(lambda: verdict_of(checker) is P)


class Unprepared(Scripted):
    def with_lookup(self, _: Lookup) -> Self:
        raise SystemExit("no lookup\nfor me")


async def test_a_probe_that_cannot_be_given_a_lookup_fails_alone() -> None:
    async with checking(candidate(quick(Unprepared()), port=1), candidate(quick(Scripted()), port=2)) as (
        checker,
        published,
    ):
        await eventually(lambda: published and published.ids == ["127.0.0.1:2"])
        failing = checker.status["web/127.0.0.1:1"]
        assert (failing.verdict, failing.detail) == (F, "SystemExit: no lookup for me")


@pytest.mark.parametrize(("told", "announced"), [(1000, 256), (-3, 0), (12.7, 12)])
async def test_a_weight_out_of_its_range_is_brought_into_it(told: Any, announced: int) -> None:
    async with checking(candidate(quick(Scripted(Outcome(weight=told))))) as (_, published):
        await eventually(lambda: published)
        assert published[0][0].weight == announced


async def test_a_probe_that_hangs_is_ended_by_its_timeout_and_delays_only_itself() -> None:
    hung, fine = Scripted(gate=asyncio.Event()), Scripted()
    checks = candidate(quick(hung, timeout=0.1), port=1), candidate(quick(fine), port=2)
    async with checking(*checks) as (checker, published):
        await eventually(lambda: published)
        assert published.ids == ["127.0.0.1:2"]
        assert checker.status["web/127.0.0.1:1"].detail == "no answer within 0.1 s"
        await eventually(lambda: hung.runs > 2)
        assert hung.most_under_way == 1
        assert fine.runs > hung.runs


async def test_what_is_reported_counts_at_once_without_a_run() -> None:
    def reported(verdict: Verdict) -> Check:
        return Check(ReportedProbe(Outcome(verdict, f"Docker says {verdict}")), rise=9, fall=9)

    async with checking(candidate(reported(P))) as (checker, published):
        await eventually(lambda: published)
        for verdict, registered in ((F, []), (P, ["127.0.0.1:8080"]), (D, ["127.0.0.1:8080"])):
            checker.set([candidate(reported(verdict))])
            assert verdict_of(checker) is verdict
            await eventually(lambda registered=registered: published.ids == registered)
        assert checker.status["web/127.0.0.1:8080"].detail == "Docker says draining"


async def test_every_check_must_pass() -> None:
    one, two = Scripted(), Scripted(Outcome(F, "two"))
    async with checking(candidate(quick(one), quick(two))) as (checker, published):
        await eventually(lambda: published)
        assert published == [()]
        two.outcome = Outcome()
        await eventually(lambda: published.ids)
        assert checker.status["web/127.0.0.1:8080"].registered


async def test_at_most_so_many_run_and_all_have_their_turn_beside_those_that_hang() -> None:
    hung = Scripted(gate=asyncio.Event())
    fine = [Scripted() for _ in range(20)]
    bad = [candidate(quick(hung, timeout=0.3, interval=0.02 + n * 1e-6), port=n) for n in range(1, 41)]
    good = [candidate(quick(probe), port=100 + n) for n, probe in enumerate(fine)]
    async with checking(*bad, *good, concurrency=8) as (_, published):
        await eventually(lambda: published and len(published[-1]) == 20, timeout=30)
        before = [probe.runs for probe in fine]
        # By now the failing ones want all of the slots, and may have only three quarters of them.
        await eventually(lambda: all(p.runs > n + 10 for p, n in zip(fine, before, strict=True)), timeout=30)
        assert hung.most_under_way <= 8
        assert hung.under_way <= 6


async def test_a_verdict_is_logged_when_it_changes() -> None:
    probe = Scripted()
    with capture_logs() as logs:
        async with checking(candidate(quick(probe, fall=1, rise=1))) as (checker, _):
            await eventually(lambda: probe.runs > 3)
            for outcome in (Outcome(F, "no page"), Outcome(D, "busy"), Outcome()):
                probe.outcome = outcome
                await eventually(lambda outcome=outcome: verdict_of(checker) is outcome.verdict)
                before = probe.runs
                await eventually(lambda before=before: probe.runs > before + 2)
    assert [(each["event"], each.get("reason"), each["log_level"]) for each in logs] == [
        ("check failing", "no page", "warning"),
        ("check says draining", "busy", "info"),
        ("check passing", None, "info"),
    ]
    assert all(each["key"] == "web/127.0.0.1:8080" for each in logs)


async def test_another_reason_of_the_same_verdict_is_logged_once_and_not_without_end() -> None:
    probe = Scripted()
    with capture_logs() as logs:
        async with checking(candidate(quick(probe, fall=1, rise=1))) as (checker, _):
            await eventually(lambda: verdict_of(checker) is P)
            for detail in ("refused", "answered 500", "answered 404", "refused", *(f"process {n}" for n in range(30))):
                probe.outcome = Outcome(F, detail)
                await eventually(lambda detail=detail: checker.status["web/127.0.0.1:8080"].detail == detail)
    told = [(each["event"], each["reason"], each["log_level"]) for each in logs]
    assert told[:3] == [
        ("check failing", "refused", "warning"),
        ("check still failing", "answered 500", "warning"),
        ("check still failing", "answered 404", "warning"),
    ]
    assert len(told) == len(set(told)) == 10


async def test_a_server_that_is_just_starting_is_soon_found() -> None:
    listener = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    listener.close()
    await listener.wait_closed()
    async with checking(candidate(Check(TcpProbe(), interval=3600), port=port)) as (_, published):
        await eventually(lambda: published == [()])
        async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port):
            await eventually(lambda: published.ids)


async def test_its_end_cancels_every_probe() -> None:
    hung = Scripted(gate=asyncio.Event())
    async with checking(*(candidate(quick(hung), port=n) for n in range(1, 30))):
        await eventually(lambda: hung.under_way == 29)
    assert hung.under_way == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}
