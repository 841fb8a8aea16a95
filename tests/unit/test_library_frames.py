"""States that pass from the helper process to the application, and the services that an application asks for."""

import json
from typing import Any

from discovery.library.following import FollowerState
from discovery.library.frames import Decoder, Encoder
from discovery.library.selection import Selection
from discovery.model import Rejected, Snapshot
from discovery.testing import backend


def document(frame: bytes) -> dict[str, Any]:
    return dict(json.loads(frame)["state"])


def test_a_state_arrives_as_it_was_and_unchanged_services_are_not_repeated() -> None:
    web, api = backend("web", "a", labels={"zone": "ä"}), backend("api", "b", host="::1", weight=0)
    encoder, decoder = Encoder(), Decoder()
    first = FollowerState(Snapshot.of(3, [web, api], [Rejected("web/c", "no port")], 2), held=frozenset({"web/a"}))
    assert decoder.state(document(encoder.frame(first))) == first
    assert first.snapshot is not None
    services = {**first.snapshot.services, "db": Snapshot.of(4, [backend("db", "x")]).services["db"]}
    del services["api"]
    second = FollowerState(Snapshot(4, services), "no member answers", true_at=12.5)
    told = document(encoder.frame(second))
    assert list(told["snapshot"]["changed"]) == ["db"]
    assert decoder.state(told) == second


def test_a_state_without_a_snapshot_leaves_the_reader_without_one() -> None:
    state = FollowerState(None, "it does not answer")
    assert Decoder().state(document(Encoder().frame(state))) == state


def test_an_equal_snapshot_is_the_same_object_for_the_reader() -> None:
    encoder, decoder = Encoder(), Decoder()
    state = FollowerState(Snapshot.of(3, [backend("web", "a")]))
    known = decoder.state(document(encoder.frame(state))).snapshot
    assert decoder.state(document(encoder.frame(state))).snapshot is known


def test_a_selection_has_the_services_of_its_names_and_patterns() -> None:
    snapshot = Snapshot.of(
        3,
        [backend(name, "a") for name in ("api", "web-1", "web-2")],
        [Rejected("db/x", "bad"), Rejected("api/x", "bad")],
    )
    assert list(Selection("web-*").of(snapshot).services) == ["web-1", "web-2"]
    part = Selection(["api"]).of(snapshot)
    assert list(part.services) == ["api"]
    assert part.rejected == (Rejected("api/x", "bad"),)
    assert Selection(None).of(snapshot) is snapshot


def test_a_change_of_another_service_is_no_new_snapshot() -> None:
    selection = Selection("web")
    first = selection.of(Snapshot.of(3, [backend("web", "a")]))
    assert selection.of(Snapshot.of(4, [backend("web", "a"), backend("api", "a")])) is first
    assert selection.of(Snapshot.of(5, [backend("web", "b")])) is not first
