"""Explanations of many records: what a question of a large service looks at."""

import time
from collections.abc import Iterator

from discovery.admin.explaindocument import explain_document
from discovery.admin.explaining import Reason, View, explain, keys_of, last_changes
from discovery.admin.status import DaemonStatus
from discovery.consuming.history import Applied, Change, Named
from discovery.consuming.runner import ConsumerStatus
from discovery.hosting.isolation import Phase
from discovery.model import Rejected, Snapshot, State
from discovery.plugin import Health, LastResort
from discovery.providing.provider import RunningProviderStatus
from discovery.providing.runner import ProviderStatus
from discovery.testing import backend


class Counted(list[Change]):
    """Counts how often the changes are looked through."""

    looks = 0

    def __reversed__(self) -> Iterator[Change]:
        self.looks += 1
        return super().__reversed__()


def change(number: int, *named: str, more: int = 0, listing: bool = False, service: str = "web") -> Change:
    names = tuple(Named("~", each, "") for each in named)
    updated = len(named) + more
    return Change(number, number, 0.0, 0.0, 0.0, listing, 0, updated, 0, 0, names, frozenset({service}))


def test_the_history_is_looked_through_once_for_all_records() -> None:
    snapshot = Snapshot.of(9, [backend("web", f"b{number}") for number in range(50)])
    changes = Counted([change(1, listing=True), change(2, "web/b7")])
    applies = [Applied(0, 1, 1, 1.0, 1.0), Applied(1, 2, 2, 1001.0, 1001.0)]
    views = [View(ConsumerStatus(name, "p"), None, snapshot, applies) for name in ("one", "two")]
    keys, more = keys_of(DaemonStatus("r", snapshot=snapshot), "web", 50)
    document = explain_document(DaemonStatus("r", snapshot=snapshot), views, changes, "web", keys, more=more)
    assert (len(document["records"]), document["more"], changes.looks) == (50, 0, 1)
    seconds = {each["key"]: [one["seconds"] for one in each["consumers"]] for each in document["records"]}
    assert all(early > late + 900 for early, late in zip(seconds["web/b1"], seconds["web/b7"], strict=True))


def test_the_last_change_of_a_record_is_known_as_far_as_the_history_tells() -> None:
    listing, second, third = change(1, listing=True), change(2, "web/a", "web/b"), change(3, "web/a")
    known = last_changes([listing, second, third], "web")
    assert [known.of(f"web/{each}") for each in "abc"] == [third, second, listing]
    large = change(2, "web/b", more=5)  # which may have changed all others
    assert [last_changes([listing, large, third], "web").of(f"web/{each}") for each in "abc"] == [third, large, None]
    foreign = change(2, "db/x", more=5, service="db")
    assert [last_changes([listing, foreign], "web").of(f"web/{each}") for each in "ab"] == [listing, listing]
    assert last_changes([third], "web").of("web/b") is None


def test_the_first_keys_of_a_service_are_told_and_the_number_of_the_others() -> None:
    rejected = [Rejected("web/b", "no"), Rejected("web/c", "an ignored field", "labels"), Rejected("db/x", "no")]
    snapshot = Snapshot.of(1, [backend("web", each) for each in "acd"] + [backend("other", "a")], rejected)
    status = DaemonStatus("r", snapshot=snapshot)
    assert keys_of(status, "web", 9) == (["web/a", "web/b", "web/c", "web/d"], 0)
    assert keys_of(status, "web", 2) == (["web/a", "web/b"], 2)
    assert keys_of(status, "db", 9) == (["db/x"], 0)
    assert keys_of(DaemonStatus("r"), "web", 9) == ([], 0)


def test_a_record_that_was_removed_is_told_of_with_its_address_and_since_when() -> None:
    def removal(number: int, *keys: str) -> Change:
        named = tuple(Named("-", key, f"10.0.0.{number}:80") for key in keys)
        return change(number)._replace(named=named, updated=0, removed=len(keys), arrived=time.monotonic() - 100)

    listing, back = change(1, listing=True), change(4, "web/b")
    last = last_changes([listing, removal(2, "web/a", "web/b", "db/x"), removal(3, "web/a"), back], "web")
    status = DaemonStatus("r", snapshot=Snapshot.of(4, [backend("web", "b"), backend("web", "c")]))
    assert keys_of(status, "web", 9, last.removed) == (["web/a", "web/b", "web/c"], 0)
    found = explain(status, (), last, "web/a")
    (absent,) = found.reasons
    text = "the registry has no record web/a at revision 4: it was removed, and had the address 10.0.0.3:80"
    assert (absent.kind, absent.text) == ("absent", text)
    assert absent.seconds is not None
    assert absent.seconds >= 100
    (never,) = explain(status, (), last, "web/never").reasons
    assert never == Reason("absent", "the registry has no record web/never at revision 4")


def test_only_the_records_removed_last_are_told_of() -> None:
    status = DaemonStatus("r", snapshot=Snapshot.of(4, []))
    removed = [f"web/r{number:02}" for number in range(40)]
    keys, more = keys_of(status, "web", 200, removed)
    assert (keys, more) == (removed[: len(keys)], 0)
    assert 0 < len(keys) <= 20


def test_a_consumer_that_has_the_record_and_does_not_work_says_so() -> None:
    snapshot = Snapshot.of(1, [backend("web", "a")])
    for down in ({}, {"web/a": "refused"}):
        health = Health(False, "the port is in use", down=down)
        views = [
            View(ConsumerStatus("edge", "haproxy", health=health, applied_revision=1), None, snapshot),
            View(ConsumerStatus("names", "dns", applied_revision=1), None, snapshot),
        ]
        found = explain(DaemonStatus("r", snapshot=snapshot), views, last_changes([], "web"), "web/a")
        kinds = [(each.kind, each.instance) for each in found.reasons]
        assert kinds == [("consumer-failing", "edge"), *[("down", "edge") for _ in down]]
        assert found.reasons[0].text == "the port is in use"
        assert [each.used for each in found.consumers] == [not down, True]


def test_a_provider_that_fails_now_is_not_said_to_have_failed_for_as_long_as_it_runs() -> None:
    runner = ProviderStatus("finds", "docker", phase=Phase.WAITING, phase_since=0.0, health=Health(False, "no engine"))
    provider = RunningProviderStatus(runner, "host-1", 10.0, frozenset(), frozenset(), {}, None, True)
    found = explain(DaemonStatus("r", providers=(provider,)), (), last_changes([], "web"), "web/a")
    assert Reason("provider-failing", "no engine", "finds", None) in found.reasons


def test_a_consumer_that_gives_work_to_the_last_backend_although_it_drains_uses_it() -> None:
    for kind, last in (
        ("draining", backend("web", "a", state=State.DRAINING)),
        ("weight-zero", backend("web", "a", weight=0)),
    ):
        snapshot = Snapshot.of(1, [last])
        lines = {"names": LastResort(["a record"]), "edge": ("a server",)}
        views = {
            name: View(ConsumerStatus(name, "p", applied_revision=1), None, snapshot, (), {"web/a": told})
            for name, told in lines.items()
        }
        status = DaemonStatus("r", snapshot=snapshot)
        found = explain(status, views.values(), last_changes([], "web"), "web/a")
        assert found.used
        assert {each.consumer: each.used for each in found.consumers} == {"names": True, "edge": False}
        reasons = {each.instance: (each.kind, each.text) for each in found.reasons}
        assert reasons.keys() == {"names", "edge"}, "nothing is said of all consumers"
        assert {each for each, _ in reasons.values()} == {kind}
        assert "it gets new work, since every backend of the service drains or has the weight 0" in reasons["names"][1]
        assert "it gets no new work" in reasons["edge"][1]

        found = explain(status, [views["edge"]], last_changes([], "web"), "web/a")
        assert (found.used, [each.instance for each in found.reasons]) == (False, [None])
