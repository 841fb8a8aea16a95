"""What `discovery watch` tells, and that both kinds of readers end with the truth."""

import json
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from discovery.cli.records import change_set, change_set_json, change_set_lines
from discovery.consuming.watcher import Observation
from discovery.documents import backend_document, snapshot_document
from discovery.model import Backend, Rejected, Snapshot, State
from discovery.system.terminal import printable
from discovery.testing import backend, snapshot

_BACKENDS = st.lists(
    st.builds(
        backend,
        service=st.sampled_from(["web", "db"]),
        id=st.sampled_from(["a", "b", "c"]),
        weight=st.integers(0, 2),
    ),
    unique_by=lambda each: (each.service, each.id),
    max_size=6,
)
_STEPS = st.lists(st.tuples(_BACKENDS, st.booleans()), max_size=8)


def told(steps: Iterable[tuple[list[Backend], bool]]) -> list[str]:
    """The lines for a series of snapshots, each either listed as a whole or changed."""
    lines, previous = [], None
    for revision, (backends, reset) in enumerate(steps):
        observation = Observation(snapshot(*backends, revision=revision), reset=reset or previous is None)
        if changes := change_set(previous, observation):
            lines.append(change_set_json(changes))
        previous = observation.snapshot
    return lines


@given(_STEPS)
def test_one_who_begins_again_and_one_who_only_applies_differences_both_end_right(
    steps: list[tuple[list[Backend], bool]],
) -> None:
    listed: dict[tuple[str, str], object] = {}
    differences: dict[tuple[str, str], object] = {}
    for line in map(json.loads, told(steps)):
        if line["reset"]:
            listed.clear()
            assert line["updated"] == []
        for state in (listed, differences):
            for each in line["added"] + line["updated"]:
                state[each["service"], each["id"]] = each
            for each in line["removed"]:
                state.pop((each["service"], each["id"]), None)
    last = steps[-1][0] if steps else []
    assert listed == differences == {(each.service, each.id): backend_document(each) for each in last}


def test_nothing_is_told_of_a_stale_registry_or_a_change_that_changed_nothing() -> None:
    now = snapshot(backend())
    assert change_set(None, Observation(None, stale="gone")) is None
    assert change_set(now, Observation(now, stale="gone")) is None
    assert change_set(now, Observation(snapshot(backend(), revision=2))) is None


def test_a_listing_is_told_even_if_it_is_empty() -> None:
    changes = change_set(None, Observation(snapshot(revision=7), reset=True))
    assert changes is not None
    expected = {"revision": 7, "reset": True, "added": [], "updated": [], "removed": []}
    assert json.loads(change_set_json(changes)) == expected
    assert list(change_set_lines(changes)) == [("=", "revision 7: 0 backends")]


def test_lines_for_people() -> None:
    old = snapshot(backend(id="a"), backend(id="b"))
    new = snapshot(backend(id="b", weight=5, state=State.DRAINING, labels={"z": "1", "a": "x y"}), backend(id="c"))
    changes = change_set(old, Observation(new))
    assert changes is not None
    assert list(change_set_lines(changes)) == [
        ("+", "web/c 127.0.0.1:8080"),
        ("~", "web/b 127.0.0.1:8080 weight=5 draining a=x y z=1"),
        ("-", "web/a 127.0.0.1:8080"),
    ]


def test_a_snapshot_document() -> None:
    bad = Rejected("web/bad", "no host")
    document = snapshot_document(Snapshot.of(3, [backend(id="a", labels={"k": "v"})], [bad]), {"web/a": "me"})
    assert document == {
        "revision": 3,
        "services": {
            "web": [
                {
                    "service": "web",
                    "id": "a",
                    "host": "127.0.0.1",
                    "port": 8080,
                    "weight": 1,
                    "state": "active",
                    "labels": {"k": "v"},
                    "owner": "me",
                }
            ]
        },
        "rejected": [{"key": "web/bad", "reason": "no host", "field": None}],
    }


@given(st.text())
def test_printable_text_is_one_harmless_line(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(text) == text or not text.isprintable()
