"""Whatever a client subscribes to, whenever the registry changes: in the end the client has what it wants."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from xds_clients import SERVICES, UNLISTED, Client, DeltaClient, SotwClient, catalog_of

from discovery_xds.protocol.catalog import Catalog, Kind
from discovery_xds.protocol.messages import Responses

KINDS = st.sampled_from(Kind)
NAMES = st.sets(st.sampled_from([*SERVICES, "none"]))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.dictionaries(st.sampled_from(SERVICES), st.integers(1, 3))),
        st.tuples(st.just("subscribe"), KINDS, NAMES, st.booleans()),
        st.tuples(st.sampled_from(["serve", "read", "deliver", "reconnect"])),
    ),
    max_size=60,
)

GIVEN_UP = [
    ("publish", {"a": 1, "b": 2}),
    ("subscribe", Kind.CLUSTER, {"a", "b"}, False),
    ("subscribe", Kind.CLUSTER, {"a"}, False),
]
"""A client gives a resource up before the client has read, and rejected, the response with the resource."""

RETURNS_BY_WILDCARD = [
    ("subscribe", Kind.LISTENER, {"a"}, False),
    ("deliver",),
    ("subscribe", Kind.LISTENER, set(), False),
    ("publish", {"a": 1}),
    ("serve",),
    ("publish", {}),
    ("subscribe", Kind.LISTENER, set(), True),
]
"""A client gives a name up, and asks for everything, before the client has read the response with the name."""
LIVE_BEFORE = [
    ("subscribe", Kind.ENDPOINTS, {"a"}, False),
    ("subscribe", Kind.ENDPOINTS, set(), False),
    ("deliver",),
    ("publish", {"a": 2}),
    ("subscribe", Kind.CLUSTER, {"a"}, False),
]
"""A revision is live with all subscriptions of a client until a further subscription brings a faulty resource."""


def run(kind: type[Client], steps: list[Any], bad: frozenset[str]) -> Client:
    client = kind(Responses(), bad)
    for step in steps:
        match step:
            case "publish", state:
                client.publish(catalog_of(state, client.revision + 1))
            case "subscribe", which, names, wildcard:
                client.subscribe(which, names, wildcard=wildcard)
            case ("serve",):
                client.serve()
            case ("read",):
                client.read()
            case ("deliver",):
                client.deliver()
            case ("reconnect",):
                client.reconnect()
    client.settle()
    return client


@pytest.mark.parametrize("kind", [SotwClient, DeltaClient])
@given(steps=STEPS)
@example(RETURNS_BY_WILDCARD)
def test_any_order_of_subscriptions_and_changes_ends_in_the_wanted_state(kind: type[Client], steps: list[Any]) -> None:
    client = run(kind, steps, frozenset())
    for which in client.subscriptions:
        assert client.known(which) == client.wanted(which), which
    assert client.stream.rejections == {}
    if client.catalog is not None and client.stream.subscriptions:
        assert client.stream.live_revision == client.revision


@pytest.mark.parametrize("kind", [SotwClient, DeltaClient])
@given(steps=STEPS, bad=st.sets(st.sampled_from(SERVICES), max_size=2))
@example(GIVEN_UP, {"b"})
@example(LIVE_BEFORE, {"a"})
def test_a_resource_that_clients_reject_hurts_itself_alone(kind: type[Client], steps: list[Any], bad: set[str]) -> None:
    client = run(kind, steps, frozenset(f"{name}=2" for name in bad))
    rejected = set()
    for which in client.subscriptions:
        wanted, known = client.wanted(which), client.known(which)
        bad_here = {name for name, contents in wanted.items() if contents in client.bad}
        assert {n: c for n, c in known.items() if n not in bad_here} == {
            n: c for n, c in wanted.items() if n not in bad_here
        }
        rejected |= {f"{which.label} {name}" for name in bad_here}
    assert set(client.stream.rejections) == rejected
    if rejected:
        assert client.stream.live_revision != client.revision


@given(states=st.lists(st.dictionaries(st.sampled_from(SERVICES), st.integers(1, 3)), min_size=2, max_size=6))
def test_a_delta_response_has_only_what_changed(states: list[dict[str, int]]) -> None:
    client = DeltaClient(Responses(), frozenset())
    client.subscribe(Kind.CLUSTER, set(), wildcard=True)
    before: dict[str, int] = {}
    for number, state in enumerate(states):
        client.publish(catalog_of(state, number + 1))
        client.settle()
        changed = {name for name in {*before, *state} - {UNLISTED} if before.get(name) != state.get(name)}
        assert client.told == changed
        client.told, before = set(), state


def test_nothing_is_sent_before_the_first_snapshot() -> None:
    for kind in (SotwClient, DeltaClient):
        client = kind(Responses(), frozenset())
        client.subscribe(Kind.CLUSTER, set(), wildcard=True)
        client.settle()
        assert client.responses == 0
        client.publish(Catalog(1, {}))
        client.settle()
        assert client.responses == 1


def test_streams_with_the_same_subscription_share_the_bytes() -> None:
    responses = Responses()
    clients = [SotwClient(responses, frozenset()) for _ in range(3)]
    catalog = catalog_of({"a": 1}, 1)
    for each in clients:
        each.subscribe(Kind.ENDPOINTS, {"a"}, wildcard=False)
        each.deliver()
        each.publish(catalog)
    sent = [each.stream.response(0.0) for each in clients]
    assert sent[0] is not None
    assert sent[0] is sent[1] is sent[2]
