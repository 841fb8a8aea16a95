"""The history of changes: what is kept of a change, how much at most, and each consumer's delay."""

import time
from pathlib import Path

import pytest
from consumers import instance, recorder, running

from discovery.admin.historydocument import history_document
from discovery.codec import encode
from discovery.consuming.history import (
    MOST_CHANGES,
    MOST_NAMED,
    Applied,
    AppliedHistory,
    Change,
    ChangeHistory,
    Named,
    change_of,
    delay,
    is_forgotten,
)
from discovery.consuming.resolving import Step
from discovery.consuming.watcher import SnapshotBuilder
from discovery.model import Backend, Snapshot, State, diff
from discovery.registry import Delta, Reset
from discovery.testing import backend, eventually_sync


def step(number: int, before: Snapshot | None, after: Snapshot) -> Step:
    return Step(number, diff(before, after), before is None)


def change(before: Snapshot | None, after: Snapshot) -> Change:
    return change_of(step(1, before, after), before, after, time.monotonic())


def at(number: int, arrived: float, offered: float) -> Change:
    return Change(number, number, 0.0, arrived, offered, False, 1, 0, 0, 0, (), frozenset({"web"}))


def test_a_change_says_what_is_different() -> None:
    was = [backend("web", "gone"), Backend("web", "w", "10.0.0.1", 80, weight=5, labels={"zone": "a", "same": "1"})]
    now = [Backend("web", "w", "10.0.0.2", 80, weight=0, state=State.DRAINING, labels={"zone": "b", "same": "1"})]
    now.append(Backend("db", "new", "10.0.0.3", 5432, weight=7))
    told = change(Snapshot.of(1, was), Snapshot.of(2, now))
    assert told.named == (
        Named("-", "web/gone", was[0].address),
        Named("~", "web/w", "address 10.0.0.1:80 -> 10.0.0.2:80, weight 5 -> 0, state active -> draining, labels zone"),
        Named("+", "db/new", "10.0.0.3:5432 weight=7"),
    )
    assert (told.added, told.updated, told.removed, told.size, told.revision) == (1, 1, 1, 3, 2)
    assert told.services == {"web", "db"}
    assert not told.concerns("cache")


def test_a_new_rejection_is_a_change_and_its_text_harms_no_terminal() -> None:
    builder = SnapshotBuilder()
    builder.apply(Reset(1, {"web/a": encode(backend("web", "a"))}))
    before = builder.snapshot
    after = builder.apply(Delta(2, {"web/bad": b"\x1b[31m not an address"}, frozenset())).snapshot
    assert after is not None
    told = change(before, after)
    assert (told.rejected, told.size, told.services) == (1, 1, {"web"})
    assert [(each.mark, each.key) for each in told.named] == [("!", "web/bad")]
    assert "\x1b" not in told.named[0].text
    assert change(after, Snapshot(3, after.services, after.rejected)).size == 0


def test_a_huge_change_takes_little_room_and_may_concern_any_service() -> None:
    told = change(None, Snapshot.of(1, [backend("web", str(number)) for number in range(20_000)]))
    assert (told.added, len(told.named), told.services) == (20_000, MOST_NAMED, None)
    assert told.concerns("web")
    many = change(Snapshot.of(1, []), Snapshot.of(2, [backend(f"s{number}", "a") for number in range(1000)]))
    assert (many.added, many.services) == (1000, None)
    label = Backend("web", "a", "10.0.0.1", 80, labels={"n" * 63 + str(number): "v" for number in range(60)})
    assert len(change(Snapshot.of(1, [backend("web", "a")]), Snapshot.of(2, [label])).named[0].text) < 300


def test_the_number_of_changes_and_of_applies_is_bounded() -> None:
    history, applied, before = ChangeHistory(), AppliedHistory(), None
    for number in range(1, 3 * MOST_CHANGES):
        after = Snapshot.of(number, [backend("web", "a", port=number)])
        history.take(step(number, before, after), before, after, time.monotonic())
        history.offered()
        applied.add(number, number, time.monotonic(), verify=None, failures=0, concerned=True)
        before = after
    assert [each.number for each in history.changes] == list(range(2 * MOST_CHANGES, 3 * MOST_CHANGES))
    assert len(applied.applies) == 2 * MOST_CHANGES
    assert all(delay(each, applied.applies) is not None for each in history.changes)


def test_a_record_that_is_written_again_is_no_change() -> None:
    history, same = ChangeHistory(), Snapshot.of(1, [backend("web", "a")])
    history.take(step(1, None, same), None, same, 0.0)
    history.take(Step(2, diff(same, same)), same, same, 0.0)
    history.offered()
    assert [each.number for each in history.changes] == [1]


def test_the_parts_of_a_delay_add_up() -> None:
    applies = [Applied(0, 1, 1, 10.0, 10.5), Applied(1, 4, 4, 20.3, 21.0, verify=0.4, failures=2)]
    took = delay(at(3, arrived=20.0, offered=20.1), applies)
    assert took is not None
    assert [round(each, 6) for each in (took.watch, took.queue, took.apply, took.total)] == [0.1, 0.2, 0.7, 1.0]
    assert (took.verify, took.by.failures, took.by.number) == (0.4, 2, 4)
    assert delay(at(5, 22.0, 22.0), applies) is None, "nothing has applied it yet"


def test_what_no_entry_can_tell_is_unknown_and_not_pending() -> None:
    applies = [Applied(7, 9, 9, 30.0, 31.0)]
    assert is_forgotten(at(7, 20.0, 20.0), applies, since=1.0), "older than the oldest apply that is kept"
    assert not is_forgotten(at(8, 29.0, 29.0), applies, since=1.0)
    assert is_forgotten(at(1, 20.0, 20.0), (), since=25.0), "the consumer was made later"
    assert not is_forgotten(at(1, 26.0, 26.0), (), since=25.0)


@pytest.mark.parametrize(("told", "kept"), [(0.25, 0.25), (None, None), ("long", None)])
def test_a_consumer_tells_how_long_the_proof_took(tmp_path: Path, told: object, kept: float | None) -> None:
    snapshot = Snapshot.of(1, [backend("web", "a")])
    with running(instance(recorder(verify_seconds=told)), tmp_path) as runner:
        runner.offer(snapshot, None, step(1, None, snapshot))
        eventually_sync(lambda: bool(runner.history.applies))
        (applied,) = runner.history.applies
    assert (applied.number, applied.verify) == (1, kept)


def test_an_apply_again_of_the_same_state_adds_nothing() -> None:
    applied = AppliedHistory()
    for number in (1, 1, 3, 2):
        applied.add(number, number, 0.0, verify=None, failures=0, concerned=True)
    assert [(each.after, each.number) for each in applied.applies] == [(0, 1), (1, 3)]


def test_the_document_has_the_newest_first_and_tells_pending_from_unknown() -> None:
    early = AppliedHistory()
    early.since = 0.0
    late = AppliedHistory()
    late.since = 50.0
    changes = [at(1, 10.0, 10.0), at(2, 60.0, 60.0)]
    document = history_document(changes, {"early": early, "late": late})
    assert [each["number"] for each in document["changes"]] == [2, 1]
    assert document["changes"][0]["consumers"] == {"early": None, "late": None}
    assert document["changes"][1]["consumers"] == {"early": None}
    assert history_document(changes, {}, service="db")["changes"] == []
    assert len(history_document(changes, {}, limit=1)["changes"]) == 1
