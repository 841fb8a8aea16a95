"""Registry events fold into snapshots that equal the registry's contents, whatever the road there."""

from zlib import crc32

from hypothesis import given
from hypothesis import strategies as st

from discovery.consuming.watcher import SnapshotBuilder
from discovery.model import Changes, Service, Snapshot, diff
from discovery.registry import Delta, Record, Reset, Stale, decode
from discovery.testing import backend

KEYS = st.sampled_from([f"{service}/{id_}" for service in ("a", "b", "c") for id_ in ("1", "2", "3", "4")])
VALUES = st.sampled_from(
    [
        b"10.0.0.1:80",
        b"10.0.0.2:80",
        b'{"host": "h", "port": 1, "weight": 7}',
        b'{"host": "h", "port": 1, "weight": 7, "owner": "this"}',
        b'{"host": "10.0.0.1", "port": 80, "owner": "that"}',
        b"nonsense",
        b"",
        b'{"host": "h", "port": 1, "haproxy_server_options": "backup"}',
    ]
)
RECORDS = st.dictionaries(KEYS, VALUES)
CHANGES = st.lists(st.tuples(st.dictionaries(KEYS, VALUES, max_size=3), st.frozensets(KEYS, max_size=3)), max_size=12)


def owners_of(contents: dict[str, bytes]) -> dict[str, str | None]:
    records = {key: decode(key, value) for key, value in contents.items()}
    return {key: record.owner for key, record in records.items() if isinstance(record, Record)}


def of_contents(revision: int, contents: dict[str, bytes]) -> Snapshot | None:
    return SnapshotBuilder().apply(Reset(revision, contents)).snapshot


@given(RECORDS, CHANGES)
def test_snapshot_is_a_function_of_contents(records: dict[str, bytes], changes: list[tuple[dict, frozenset]]) -> None:
    builder = SnapshotBuilder()
    contents = dict(records)
    assert builder.apply(Reset(1, records)).snapshot == of_contents(1, contents)
    for revision, (puts, deletes) in enumerate(changes, start=2):
        deleted = frozenset(deletes - puts.keys())
        contents = {key: value for key, value in contents.items() if key not in deleted} | puts
        snapshot = builder.apply(Delta(revision, puts, deleted)).snapshot
        expected = of_contents(revision if puts or deleted else snapshot.revision, contents)
        assert snapshot == expected
        assert snapshot.services == expected.services
        assert list(snapshot.services) == sorted(snapshot.services)
        assert builder.owners.told.by_key == owners_of(contents)
        assert all(service.backends for service in snapshot.services.values())


# Ids enough for several runs of a service, those that end one among them.
MANY = [f"b{number}" for number in range(2000)]
ENDS = [id_ for id_ in MANY if crc32(id_.encode()) % 64 == 0]
SOME = st.sampled_from([*ENDS, *MANY[:20], "a", "zz"])
EDITS = st.lists(st.dictionaries(SOME, st.sampled_from([None, 80, 81]), min_size=1, max_size=8), max_size=8)


@given(st.sets(st.sampled_from(MANY), max_size=300), EDITS)
def test_a_service_reached_by_changes_equals_one_made_at_once(
    ids: set[str], edits: list[dict[str, int | None]]
) -> None:
    contents = {id_: backend("web", id_) for id_ in [*ids, *ENDS]}
    service = Service.of("web", contents.values())
    for edit in edits:
        changes = {id_: None if port is None else backend("web", id_, port=port) for id_, port in edit.items()}
        before, service = service, service.with_changes(changes)
        contents = {id_: each for id_, each in {**contents, **changes}.items() if each is not None}
        assert service == Service.of("web", contents.values())
        assert service.backends == tuple(contents[id_] for id_ in sorted(contents))
        assert len(service) == len(contents)
        assert diff(Snapshot(1, {"web": before}), Snapshot(2, {"web": service})) == naive(before, service)


def naive(before: Service, after: Service) -> Changes:
    was, now = ({each.id: each for each in service.backends} for service in (before, after))
    return Changes(
        added=tuple(now[id_] for id_ in sorted(now.keys() - was.keys())),
        updated=tuple(now[id_] for id_ in sorted(now.keys() & was.keys()) if now[id_] != was[id_]),
        removed=tuple(was[id_] for id_ in sorted(was.keys() - now.keys())),
    )


def test_one_change_in_a_large_service_shares_what_did_not_change() -> None:
    service = Service.of("web", (backend("web", id_) for id_ in MANY))
    assert len(service.runs) > 3
    changed = service.with_changes({MANY[1000]: backend("web", MANY[1000], port=81)})
    shared = {id(run) for run in service.runs} & {id(run) for run in changed.runs}
    assert len(shared) == len(service.runs) - 1


def test_a_flood_of_rejected_records_copies_no_services() -> None:
    """Point 22: beside thousands of services each rejected key would otherwise cost as much as all of them."""
    builder = SnapshotBuilder()
    before = builder.apply(Reset(1, {f"s{number}/b1": b"10.0.0.1:80" for number in range(3000)})).snapshot
    for revision, key in enumerate(("s1/junk", "junk/b1", "a/b/c"), 2):
        after = builder.apply(Delta(revision, {key: b"nonsense"})).snapshot
        assert after.services is before.services
    after = builder.apply(Delta(5, {}, frozenset({"s1/junk", "junk/b1", "a/b/c"}))).snapshot
    assert after.services is before.services
    assert (after.revision, after.rejected) == (5, ())


def test_not_synced_is_no_snapshot() -> None:
    builder = SnapshotBuilder()
    observation = builder.apply(Stale("down"))
    assert observation.snapshot is None
    assert observation.stale == "down"
    assert builder.apply(Reset(5, {})).snapshot == Snapshot(5)


def test_stale_keeps_the_last_snapshot_and_an_empty_delta_ends_it() -> None:
    builder = SnapshotBuilder()
    before = builder.apply(Reset(1, {"a/1": b"10.0.0.1:80"})).snapshot
    stale = builder.apply(Stale("down"))
    assert (stale.snapshot, stale.stale) == (before, "down")
    back = builder.apply(Delta(9, {}))
    assert back.snapshot is before
    assert back.stale is None


def test_rewriting_the_same_value_keeps_the_same_backend() -> None:
    builder = SnapshotBuilder()
    before = builder.apply(Reset(1, {"a/1": b"10.0.0.1:80", "a/2": b"10.0.0.2:80"})).snapshot
    after = builder.apply(Delta(2, {"a/1": b"10.0.0.1:80"})).snapshot
    assert after.revision == 2
    assert after.services["a"].backends[0] is before.services["a"].backends[0]


def test_another_owner_of_an_equal_backend_is_known_and_changes_no_service() -> None:
    builder = SnapshotBuilder()
    this, that = (f'{{"host": "10.0.0.1", "port": 80, "owner": "{owner}"}}'.encode() for owner in ("this", "that"))
    before = builder.apply(Reset(1, {"a/1": this, "a/2": b"10.0.0.2:80"})).snapshot
    at_first = builder.owners.told
    assert builder.apply(Delta(2, {"a/3": this})).snapshot is not None
    assert builder.owners.told.moves == at_first.moves, "a new record has a new backend"
    assert builder.owners.told is builder.owners.told, "nothing has changed, and nothing is copied"
    after = builder.apply(Delta(3, {"a/1": that, "a/2": b'{"host": "10.0.0.2", "port": 80, "owner": "that"}'})).snapshot
    assert diff(before, after) == Changes(added=(backend("a", "3", "10.0.0.1", 80),))
    assert after.services["a"].get("1") is before.services["a"].get("1")
    assert builder.owners.told.by_key == {"a/1": "that", "a/2": "that", "a/3": "this"}
    assert builder.owners.told.moves == at_first.moves + 2
    assert at_first.by_key == {"a/1": "this", "a/2": None}


def test_a_record_that_is_kept_keeps_its_owner_until_it_is_dropped() -> None:
    builder = SnapshotBuilder()
    this = b'{"host": "10.0.0.1", "port": 80, "owner": "this"}'
    before = builder.apply(Reset(1, {"a/1": this, "a/2": this})).snapshot
    builder.apply(Reset(2, {"a/3": this}), [each for each in before.backends() if each.id == "1"])
    assert builder.owners.told.by_key == {"a/1": "this", "a/3": "this"}
    builder.drop({"a/1"})
    assert builder.owners.told.by_key == {"a/3": "this"}


def test_a_record_gone_bad_leaves_and_says_why() -> None:
    builder = SnapshotBuilder()
    builder.apply(Reset(1, {"a/1": b"10.0.0.1:80", "a/2": b"10.0.0.2:80"}))
    after = builder.apply(Delta(2, {"a/1": b"10.0.0.1:0"})).snapshot
    assert [backend.id for backend in after.backends()] == ["2"]
    assert [rejected.key for rejected in after.rejected] == ["a/1"]
    assert "port" in after.rejected[0].reason
    healed = builder.apply(Delta(3, {"a/1": b"10.0.0.1:81"})).snapshot
    assert healed.rejected == ()
    assert [backend.id for backend in healed.backends()] == ["1", "2"]


def test_a_backend_knows_the_revision_that_created_its_record() -> None:
    builder = SnapshotBuilder()
    builder.apply(Reset(5, {"a/1": b"10.0.0.1:80", "a/2": b"10.0.0.2:80"}, created={"a/1": 3, "a/2": 4}))
    builder.apply(Delta(6, {"a/1": b"10.0.0.9:80", "a/3": b"10.0.0.3:80"}, created={"a/1": 3, "a/3": 6}))
    snapshot = builder.apply(Delta(7, {}, frozenset({"a/2"}))).snapshot
    assert snapshot is not None
    assert {each.id: each.created for each in snapshot.backends()} == {"1": 3, "3": 6}
    [first, *_] = snapshot.backends()
    assert first == backend("a", "1", "10.0.0.9", 80)
    assert [each.created for each in SnapshotBuilder().apply(Reset(5, {"a/1": b"h:80"})).snapshot.backends()] == [None]
