"""The rules of a watch, on histories told in every way in which a server may tell them."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.registry import Delta, Reset
from discovery.registry.etcd.follower import Canceled, ResyncNeeded, WatchHistory
from discovery.registry.etcd.listing import PrefixListing, mark
from discovery.registry.etcd.messages import DELETE, PUT, Event, KeyValue, ResponseHeader, WatchResponse

PREFIX = b"/services/"
CLUSTER = 7
KEYS = ["a/1", "a/2", "b/1", "b/2"]


def header(revision: int, cluster: int = CLUSTER, term: int = 2) -> Any:
    return ResponseHeader(cluster_id=cluster, revision=revision, raft_term=term)


def put(key: str, revision: int, value: bytes = b"v") -> Any:
    return Event(type=PUT, kv=KeyValue(key=PREFIX + key.encode(), value=value, mod_revision=revision))


def delete(key: str, revision: int) -> Any:
    return Event(type=DELETE, kv=KeyValue(key=PREFIX + key.encode(), mod_revision=revision))


def response(revision: int, *events: Any, **fields: Any) -> Any:
    return WatchResponse(header=header(revision), events=events, **fields)


def listing(revision: int, records: Mapping[str, tuple[int, bytes]], **fields: Any) -> PrefixListing:
    return PrefixListing(
        revision,
        header(revision, **fields),
        {PREFIX + key.encode(): value for key, (_, value) in records.items()},
        {PREFIX + key.encode(): mark(*record) for key, record in records.items()},
    )


@pytest.fixture
def follower() -> WatchHistory:
    follower = WatchHistory(PREFIX)
    follower.reset(listing(10, {"a/1": (4, b"one")}))
    follower.opened()
    follower.receive(response(10, created=True))
    return follower


def test_a_listing_is_a_reset_with_keys_relative_to_the_prefix() -> None:
    assert WatchHistory(PREFIX).reset(listing(10, {"a/1": (4, b"one")})) == Reset(10, {"a/1": b"one"})


def test_created_does_not_advance(follower: WatchHistory) -> None:
    follower.opened()
    assert follower.receive(response(5000, created=True)) == ()
    assert follower.present == 5000
    assert follower.created
    assert follower.revision == 10
    assert follower.receive(response(5000, put("a/2", 11))) == (Delta(11, {"a/2": b"v"}),)


def test_one_response_of_several_revisions_is_several_deltas(follower: WatchHistory) -> None:
    told = follower.receive(response(13, put("a/2", 11), delete("a/1", 12), put("b/1", 12), put("b/2", 13)))
    assert told == (
        Delta(11, {"a/2": b"v"}),
        Delta(12, {"b/1": b"v"}, frozenset({"a/1"})),
        Delta(13, {"b/2": b"v"}),
    )


def test_fragments_are_told_when_the_last_has_come(follower: WatchHistory) -> None:
    assert follower.receive(response(11, put("a/1", 11), fragment=True)) == ()
    assert follower.receive(response(11, put("a/2", 11), fragment=True)) == ()
    assert follower.receive(response(11, put("b/1", 11))) == (Delta(11, dict.fromkeys(["a/1", "a/2", "b/1"], b"v")),)


def test_a_new_stream_drops_the_fragments_of_the_last(follower: WatchHistory) -> None:
    follower.receive(response(11, put("a/1", 11), fragment=True))
    follower.opened()
    assert follower.revision == 10
    assert follower.receive(response(11, put("b/1", 11))) == (Delta(11, {"b/1": b"v"}),)


def test_what_was_told_before_is_not_told_again(follower: WatchHistory) -> None:
    follower.receive(response(12, put("a/1", 12)))
    assert follower.receive(response(13, put("b/1", 9), put("a/1", 12), put("b/2", 13))) == (Delta(13, {"b/2": b"v"}),)


def test_progress_advances_what_is_known(follower: WatchHistory) -> None:
    assert follower.receive(response(40)) == ()
    assert follower.revision == 40
    assert follower.receive(response(30)) == ()
    assert follower.revision == 40


def test_requested_progress_is_only_a_sign_of_life(follower: WatchHistory) -> None:
    assert follower.receive(response(40, watch_id=-1)) == ()
    assert follower.revision == 10


def test_progress_amid_fragments_does_not_advance(follower: WatchHistory) -> None:
    follower.receive(response(11, put("a/1", 11), fragment=True))
    assert follower.receive(response(11)) == ()
    assert follower.revision == 10
    assert follower.receive(response(11, put("b/1", 11))) == (Delta(11, {"a/1": b"v", "b/1": b"v"}),)


def test_the_known_revision_is_dropped_when_it_comes_again_in_fragments(follower: WatchHistory) -> None:
    """Point 1. A watch is opened at the known revision."""
    follower.receive(response(11, put("a/1", 11), put("a/2", 11), delete("b/1", 11)))
    follower.opened()
    assert follower.receive(response(12, created=True)) == ()
    assert follower.receive(response(12, put("a/1", 11), fragment=True)) == ()
    assert follower.receive(response(12, put("a/2", 11), delete("b/1", 11), put("a/1", 12, b"new"))) == (
        Delta(12, {"a/1": b"new"}),
    )
    assert follower.agrees_with(listing(12, {"a/1": (12, b"new"), "a/2": (11, b"v")}))


@pytest.mark.parametrize("fields", [{"created": True}, {"canceled": True}, {}])
def test_a_compaction_is_doubt(follower: WatchHistory, fields: dict[str, bool]) -> None:
    assert isinstance(follower.receive(response(50, compact_revision=30, **fields)), ResyncNeeded)


def test_canceled_counts_even_with_created(follower: WatchHistory) -> None:
    refused = response(0, created=True, canceled=True, cancel_reason="etcdserver: invalid auth token")
    assert follower.receive(refused) == Canceled("etcdserver: invalid auth token")


def test_another_cluster_is_doubt(follower: WatchHistory) -> None:
    assert isinstance(
        follower.receive(WatchResponse(header=header(11, cluster=8), events=[put("a/1", 11)])), ResyncNeeded
    )


def test_a_revision_that_comes_late_is_doubt(follower: WatchHistory) -> None:
    assert isinstance(follower.receive(response(12, put("a/1", 12), put("b/1", 11))), ResyncNeeded)


def test_a_key_that_is_not_text_hurts_no_other(follower: WatchHistory) -> None:
    odd = Event(type=PUT, kv=KeyValue(key=PREFIX + b"a/\xff", value=b"v", mod_revision=11))
    assert follower.receive(response(11, odd, put("a/2", 11))) == (Delta(11, {"a/\\xff": b"v", "a/2": b"v"}),)


class TestAgreement:
    def test_with_the_same(self, follower: WatchHistory) -> None:
        assert follower.agrees_with(listing(10, {"a/1": (4, b"one")}))
        follower.receive(response(12, put("b/1", 11), delete("a/1", 12)))
        assert follower.agrees_with(listing(12, {"b/1": (11, b"v")}))

    @pytest.mark.parametrize(
        "other",
        [
            listing(10, {}),
            listing(10, {"a/1": (5, b"one")}),
            listing(10, {"a/1": (4, b"two")}),
            listing(10, {"a/1": (4, b"one"), "a/2": (4, b"")}),
            listing(9, {"a/1": (4, b"one")}),
            listing(10, {"a/1": (4, b"one")}, term=1),
            listing(10, {"a/1": (4, b"one")}, cluster=8),
        ],
        ids=["key gone", "key newer", "other value", "key more", "revision back", "term back", "other cluster"],
    )
    def test_not_with_another_history(self, follower: WatchHistory, other: PrefixListing) -> None:
        assert not follower.agrees_with(other)


class History:
    """What a server went through: at each revision some keys changed, or (elsewhere) none of ours."""

    def __init__(self, steps: list[dict[str, bytes | None]]) -> None:
        self.events: dict[int, list[Any]] = {}
        self.deltas: list[Delta] = []
        self.records: list[dict[str, tuple[int, bytes]]] = [{}]
        for revision, step in enumerate(steps, 1):
            records = dict(self.records[-1])
            puts = {key: value for key, value in step.items() if value is not None}
            deletes = frozenset(key for key, value in step.items() if value is None and key in records)
            for key in deletes:
                del records[key]
            records |= {key: (revision, value) for key, value in puts.items()}
            self.records.append(records)
            if puts or deletes:
                self.deltas.append(Delta(revision, puts, deletes))
                changed = [put(key, revision, value) for key, value in puts.items()]
                self.events[revision] = changed + [delete(key, revision) for key in sorted(deletes)]
        self.last = len(steps)


histories = st.lists(
    st.dictionaries(st.sampled_from(KEYS), st.none() | st.binary(max_size=2), max_size=3), min_size=1, max_size=25
).map(History)


@pytest.mark.costly
@given(st.data(), histories)
def test_however_it_is_told_it_is_the_same_history(data: st.DataObject, history: History) -> None:
    """Batches, fragments, progress of both kinds, repeats and lost streams, in any order."""
    begin = data.draw(st.integers(0, history.last), "begin")
    follower = WatchHistory(PREFIX)
    reset = follower.reset(listing(begin, history.records[begin]))
    assert reset.records == {key: value for key, (_, value) in history.records[begin].items()}
    told: list[Delta] = []

    def hear(message: Any) -> None:
        outcome = follower.receive(message)
        assert isinstance(outcome, tuple)
        told.extend(outcome)

    sent = history.last
    while sent < history.last or follower.revision < max([begin, *history.events]):  # type: ignore[operator]
        action = data.draw(st.sampled_from(["batch", "batch", "batch", "cut", "progress", "requested", "stream"]))
        if action == "stream" or not follower.created:
            follower.opened()
            # From the known revision on, which therefore comes again.
            sent = max(0, (follower.revision or 0) - 1)
            hear(response(history.last, created=True))
        elif action == "progress":
            hear(response(sent))
        elif action == "requested":
            hear(response(history.last, watch_id=-1))
        else:
            again = data.draw(st.integers(0, 2), "repeated revisions")
            upto = data.draw(st.integers(sent, history.last), "up to")
            events = [e for r in range(max(1, sent + 1 - again), upto + 1) for e in history.events.get(r, ())]
            if not events:
                sent = upto
                continue
            cuts = sorted(data.draw(st.sets(st.integers(1, len(events) - 1)), "cuts")) if len(events) > 1 else []
            parts = [events[i:j] for i, j in zip([0, *cuts], [*cuts, len(events)], strict=True)]
            if action == "cut":  # the stream is lost between the fragments
                parts = parts[: data.draw(st.integers(0, len(parts) - 1), "parts that arrive")]
                for part in parts:
                    hear(response(history.last, *part, fragment=True))
                follower.opened()
            else:
                for part in parts[:-1]:
                    hear(response(history.last, *part, fragment=True))
                hear(response(history.last, *parts[-1]))
                sent = upto
    assert told == [delta for delta in history.deltas if delta.revision > begin]
    assert follower.agrees_with(listing(history.last, history.records[-1]))


def test_events_have_the_revisions_that_created_the_records(follower: WatchHistory) -> None:
    found = listing(10, {"a/1": (4, b"one")})
    found.created[PREFIX + b"a/1"] = 3
    assert WatchHistory(PREFIX).reset(found).created == {"a/1": 3}
    event = put("a/1", 11)
    event.kv.create_revision = 3
    told = follower.receive(response(12, event, delete("a/2", 11)))
    assert isinstance(told, tuple)
    assert [delta.created for delta in told] == [{"a/1": 3}]
