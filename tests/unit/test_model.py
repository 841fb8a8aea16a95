"""Snapshots are ordered and frozen, and their difference is what a comparison of everything would find."""

from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.model import Backend, Changes, Rejected, Snapshot, State, diff, join_host_port
from discovery.testing import backend, snapshot


def naive(old: Snapshot | None, new: Snapshot) -> Changes:
    before = {(b.service, b.id): b for b in old.backends()} if old else {}
    after = {(b.service, b.id): b for b in new.backends()}
    return Changes(
        added=tuple(after[key] for key in sorted(after.keys() - before.keys())),
        updated=tuple(after[key] for key in sorted(after.keys() & before.keys()) if after[key] != before[key]),
        removed=tuple(before[key] for key in sorted(before.keys() - after.keys())),
    )


_keys = st.tuples(st.sampled_from("ab"), st.integers(0, 99).map("{:02}".format))


@st.composite
def histories(draw: st.DrawFn) -> tuple[Snapshot, Snapshot]:
    """Two snapshots, the second made from the first: some backends are shared, some equal copies, some differ."""
    weights = draw(st.dictionaries(_keys, st.integers(0, 3), max_size=150))
    old = {key: backend(*key, weight=weight) for key, weight in weights.items()}
    new = dict(old)
    for key, act in draw(
        st.dictionaries(_keys, st.sampled_from(["copy", "change", "remove", "put"]), max_size=8)
    ).items():
        if act == "put":
            new[key] = backend(*key, weight=9)
        elif key in new and act == "remove":
            del new[key]
        elif key in new:
            new[key] = replace(new[key], weight=8) if act == "change" else replace(new[key])
    return Snapshot.of(1, old.values()), Snapshot.of(2, new.values())


@given(histories())
def test_the_difference_is_what_comparing_everything_finds(history: tuple[Snapshot, Snapshot]) -> None:
    old, new = history
    assert diff(old, new) == naive(old, new)
    assert diff(new, old) == naive(new, old)
    assert diff(None, new) == naive(None, new)
    assert not diff(new, new)


@pytest.mark.parametrize("place", [0, 1, 4_999, 9_998, 9_999])
@pytest.mark.parametrize("act", ["remove", "change", "add"])
def test_one_change_among_many_is_found_wherever_it_is(place: int, act: str) -> None:
    many = [backend(id=f"{n:05}") for n in range(10_000)]
    changed = many.copy()
    if act == "remove":
        del changed[place]
    elif act == "change":
        changed[place] = replace(many[place], weight=7)
    else:
        changed.append(backend(id=f"{place:05}x"))
    old, new = snapshot(*many), snapshot(*changed)
    assert diff(old, new) == naive(old, new)


@given(st.permutations([backend(s, i) for s in ("web", "db", "a.b") for i in ("10", "9", "a")]))
def test_a_snapshot_is_ordered_whatever_the_order_of_its_making(shuffled: list[Backend]) -> None:
    made = Snapshot.of(7, shuffled)
    assert made == Snapshot.of(7, sorted(shuffled, key=lambda b: (b.service, b.id)))
    assert list(made.services) == ["a.b", "db", "web"]
    assert [b.id for b in made.services["web"].backends] == ["10", "9", "a"]
    assert [(b.service, b.id) for b in made.backends()] == sorted((b.service, b.id) for b in shuffled)


def test_rejections_are_ordered_and_no_change() -> None:
    rejected = [Rejected("b/1", "x"), Rejected("a/1", "x", "f"), Rejected("a/1", "x")]
    made = Snapshot.of(1, [], rejected)
    assert [(r.key, r.field) for r in made.rejected] == [("a/1", None), ("a/1", "f"), ("b/1", None)]
    assert not diff(snapshot(), made)
    assert made.services == {}


def test_what_is_shared_between_threads_cannot_be_changed() -> None:
    labels = {"a": "b"}
    web = backend(labels=labels)
    labels["a"] = "c"
    assert web.labels == {"a": "b"}
    with pytest.raises(TypeError):
        web.labels["a"] = "c"  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        web.port = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        snapshot(web).services["x"] = snapshot(web).services["web"]  # type: ignore[index]


def test_equal_backends_are_one_in_a_set_and_labels_count() -> None:
    assert len({backend(labels={"a": "b"}), backend(labels={"a": "b"}), backend(labels={"a": "c"})}) == 2
    assert hash(snapshot(backend())) == hash(snapshot(backend()))


@pytest.mark.parametrize(
    ("some", "accepts"),
    [
        (backend(), True),
        (backend(weight=0), False),
        (backend(state=State.DRAINING), False),
    ],
)
def test_new_work_goes_to_active_backends_of_some_weight(some: Backend, accepts: bool) -> None:
    assert some.accepts_work is accepts


def test_an_ipv6_address_is_bracketed() -> None:
    assert backend(host="::1", port=80).address == "[::1]:80"
    assert backend(host="10.0.0.1", port=80).address == "10.0.0.1:80"


def test_of_backends_with_one_id_the_last_counts() -> None:
    first, last = backend(id="1", weight=3), backend(id="1", weight=4)
    assert list(Snapshot.of(1, [first, backend(id="2"), last]).backends()) == [last, backend(id="2")]


@pytest.mark.parametrize(
    ("host", "port", "written"),
    [("10.0.0.1", 80, "10.0.0.1:80"), ("web.example", "81", "web.example:81"), ("2001:db8::1", 80, "[2001:db8::1]:80")],
)
def test_an_ipv6_address_before_a_port_is_in_brackets(host: str, port: int | str, written: str) -> None:
    assert join_host_port(host, port) == written
