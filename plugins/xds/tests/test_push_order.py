"""The order of pushes on a stream, and the rules of the protocol for single requests."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from envoy.service.discovery.v3 import discovery_pb2
from hypothesis import example, given
from hypothesis import strategies as st
from xds_clients import Client, DeltaClient, SotwClient, catalog_of, made

from discovery_xds.limits import LIMITS, Limits
from discovery_xds.protocol.catalog import TYPE_URLS, Catalog, Kind, Resource, changes_between
from discovery_xds.protocol.messages import Responses
from discovery_xds.protocol.stream import WARMING_SECONDS, SotwStream
from discovery_xds.protocol.subscription import TooManyNamesError

BIND = "127.0.0.1:80"
STATES = st.lists(
    st.tuples(st.dictionaries(st.sampled_from("abc"), st.integers(1, 2)), st.text("srd", max_size=12)),
    min_size=1,
    max_size=5,
)
"""The services at each revision, with the version of the cluster's definition, and the steps of the network then.

Without steps everything arrives before the next revision.
"""


SECRET = "ca"
"""A secret that the clusters of version 2 need."""


def mesh(state: dict[str, int], revision: int) -> Catalog:
    """A listener whose routes lead to every service."""
    services = "+".join(sorted(state))
    return Catalog(
        revision,
        {
            Kind.CLUSTER: {name: cluster(name, version) for name, version in state.items()},
            Kind.ENDPOINTS: {name: made(Kind.ENDPOINTS, name, f"{name}=1") for name in state},
            Kind.SECRET: {SECRET: made(Kind.SECRET, SECRET, f"{SECRET}=1")} if 2 in state.values() else {},
            Kind.LISTENER: {BIND: made(Kind.LISTENER, BIND, f"{BIND}=1")},
            Kind.ROUTES: {BIND: made(Kind.ROUTES, BIND, f"{BIND}={services}")},
        },
    )


def cluster(name: str, version: int) -> Resource:
    """The definition of a cluster, which needs endpoints and, in version 2, a secret."""
    made_before = made(Kind.CLUSTER, name, f"{name}={version}")
    return replace(made_before, needs=made_before.needs | ({(Kind.SECRET, SECRET)} if version == 2 else set()))


class Mesh:
    """A client that asks as Envoy does, and checks at each step that its routes lead to clusters with endpoints."""

    def __init__(self, kind: type[Client], bad: frozenset[str] = frozenset()) -> None:
        self.client = kind(Responses(), bad)
        self.client.subscribe(Kind.CLUSTER, set(), wildcard=True)
        self.client.subscribe(Kind.LISTENER, set(), wildcard=True)
        self.routed: set[str] = set()

    def read(self) -> None:
        client = self.client
        before = {kind: dict(client.has[kind]) for kind in Kind}
        client.read()
        clusters = set(client.known(Kind.CLUSTER))
        if clusters != set(before[Kind.CLUSTER]):
            client.subscribe(Kind.ENDPOINTS, clusters, wildcard=False)
        secured = {name for name, contents in client.known(Kind.CLUSTER).items() if contents.endswith("=2")}
        # As Envoy, which asks for the secrets of a cluster once the cluster has endpoints, and keeps those that it has.
        there = SECRET in client.has.get(Kind.SECRET, {})
        wanted = {SECRET} if secured and (there or secured & client.has[Kind.ENDPOINTS].keys()) else set()
        if wanted != client.subscriptions.get(Kind.SECRET, (set(),))[0]:
            client.subscribe(Kind.SECRET, wanted, wildcard=False)
        if client.known(Kind.LISTENER).keys() != before[Kind.LISTENER].keys():
            client.subscribe(Kind.ROUTES, set(client.known(Kind.LISTENER)), wildcard=False)
        for routes in client.known(Kind.ROUTES).values():
            targets = {name for name in routes.partition("=")[2].split("+") if name}
            assert targets <= clusters, "a route leads to a cluster that is not there"
            assert targets <= client.has[Kind.ENDPOINTS].keys(), "a route leads to a cluster without endpoints"
            if new := targets & secured - self.routed:
                assert SECRET in client.has[Kind.SECRET], f"routes lead to {new}, which have no secret"
            self.routed = targets

    def settle(self) -> None:
        for _ in range(200):
            self.client.deliver()
            self.client.serve()
            self.read()
            if not self.client.to_server and not self.client.to_client:
                if self.client.stream.look_at is None and self.client.stream.is_settled:
                    return
                self.client.now = self.client.stream.look_at or self.client.now
        raise AssertionError("the client never has everything")


@pytest.mark.parametrize("kind", [SotwClient, DeltaClient])
@given(states=STATES)
@example([({"a": 2}, ""), ({"a": 1, "b": 2}, "")])
@example([({"a": 2}, ""), ({}, "srds"), ({"a": 2}, "")])
def test_no_route_leads_nowhere_at_any_moment(kind: type[Client], states: list[tuple[dict[str, int], str]]) -> None:
    mesh_client = Mesh(kind)
    actions = {"s": mesh_client.client.serve, "r": mesh_client.read, "d": mesh_client.client.deliver}
    for number, (state, steps) in enumerate(states):
        mesh_client.client.publish(mesh(state, number + 1))
        for step in steps:
            actions[step]()
        if not steps:
            mesh_client.settle()
    mesh_client.settle()
    assert set(mesh_client.client.known(Kind.CLUSTER)) == set(states[-1][0])


def request(kind: Kind, *names: str, nonce: str = "") -> Any:
    return discovery_pb2.DiscoveryRequest(type_url=TYPE_URLS[kind], resource_names=names, response_nonce=nonce)


def stream_with(state: dict[str, int], limits: Limits = LIMITS) -> SotwStream:
    stream = SotwStream(Responses(), limits)
    catalog = catalog_of(state, 1)
    stream.publish(catalog, changes_between(None, catalog))
    return stream


def names(stream: SotwStream) -> list[str] | None:
    response = stream.response(0.0)
    return None if response is None else [each.name for each in response.resources]


def test_a_request_with_a_stale_nonce_is_ignored() -> None:
    stream = stream_with({"a": 1, "b": 1})
    stream.request(request(Kind.ENDPOINTS, "a"))
    first = stream.response(0.0)
    assert first is not None
    stream.request(request(Kind.ENDPOINTS, "a", "b", nonce="of-another-time"))
    assert names(stream) is None
    stream.request(request(Kind.ENDPOINTS, "a", "b", nonce=first.nonce))
    assert names(stream) == ["b"]


def test_the_nonce_of_a_first_request_means_nothing() -> None:
    stream = stream_with({"a": 1})
    stream.request(request(Kind.ENDPOINTS, "a", nonce="of-the-stream-before"))
    assert names(stream) == ["a"]


def test_names_that_are_subscribed_to_again_without_a_change_are_not_sent_again() -> None:
    stream = stream_with({"a": 1})
    stream.request(request(Kind.ENDPOINTS, "a"))
    response = stream.response(0.0)
    assert response is not None
    for _ in range(3):
        stream.request(request(Kind.ENDPOINTS, "a", nonce=response.nonce))
        assert names(stream) is None


def test_a_name_that_does_not_exist_is_absent_from_clusters_and_nothing_is_sent_of_endpoints() -> None:
    stream = stream_with({"a": 1})
    stream.request(request(Kind.CLUSTER, "none"))
    assert names(stream) == []
    stream.request(request(Kind.ENDPOINTS, "none"))
    assert names(stream) is None


def test_an_empty_list_after_names_is_no_wildcard() -> None:
    stream = stream_with({"a": 1})
    stream.request(request(Kind.CLUSTER, "a"))
    first = stream.response(0.0)
    assert first is not None
    stream.request(request(Kind.CLUSTER, nonce=first.nonce))
    assert not stream.subscriptions[Kind.CLUSTER].wildcard
    assert stream.subscriptions[Kind.CLUSTER].names == set()


def test_an_empty_list_after_an_explicit_wildcard_is_no_wildcard() -> None:
    stream = stream_with({"a": 1})
    stream.request(request(Kind.CLUSTER, "*"))
    first = stream.response(0.0)
    assert first is not None
    stream.request(request(Kind.CLUSTER, nonce=first.nonce))
    assert not stream.subscriptions[Kind.CLUSTER].wildcard


def test_of_all_clusters_the_one_that_the_reason_names_is_rejected_and_stays_so() -> None:
    client = SotwClient(Responses(), frozenset({"a=2"}))
    client.subscribe(Kind.CLUSTER, {"a"}, wildcard=False)
    client.publish(catalog_of({"a": 2, "b": 1}, 1))
    client.settle()
    client.subscribe(Kind.CLUSTER, set(), wildcard=True)
    client.settle()
    assert list(client.stream.rejections) == ["cds a"]
    client.publish(catalog_of({"a": 1, "b": 1}, 2))
    client.settle()
    assert client.stream.rejections == {}


def test_an_unknown_type_is_noted_and_not_answered() -> None:
    stream = stream_with({"a": 1})
    for number in range(100):
        stream.request(discovery_pb2.DiscoveryRequest(type_url=f"type.googleapis.com/unknown{number}"))
    assert names(stream) is None
    assert len(stream.unknown) == 20


def test_a_client_cannot_fill_the_memory_with_names() -> None:
    stream = stream_with({"a": 1}, Limits(names=3))
    with pytest.raises(TooManyNamesError):
        stream.request(request(Kind.ENDPOINTS, *"abcd"))


def test_a_stuck_client_gets_the_latest_state_alone() -> None:
    client = SotwClient(Responses(), frozenset())
    client.subscribe(Kind.ENDPOINTS, {"a"}, wildcard=False)
    client.deliver()
    for version in range(1, 50):
        client.publish(catalog_of({"a": version}, version))
        client.serve()
    assert client.responses == 1
    client.settle()
    assert client.responses == 2
    assert client.known(Kind.ENDPOINTS) == {"a": "a=49"}


def test_routes_wait_a_limited_time_for_a_client_that_asks_for_no_endpoints() -> None:
    client = SotwClient(Responses(), frozenset())
    for kind in (Kind.CLUSTER, Kind.LISTENER):
        client.subscribe(kind, set(), wildcard=True)
    client.publish(catalog_of({"a": 1}, 1))

    def turns() -> Iterator[bool]:
        for _ in range(10):
            client.deliver()
            client.serve()
            client.read()
            yield Kind.LISTENER in client.nonces

    assert not any(turns())
    assert client.stream.look_at == WARMING_SECONDS
    client.now = WARMING_SECONDS
    assert any(turns())


def test_endpoints_of_a_replaced_cluster_are_sent_again() -> None:
    mesh_client = Mesh(SotwClient)
    mesh_client.client.publish(mesh({"a": 1}, 1))
    mesh_client.settle()
    mesh_client.client.told = set()
    before = mesh_client.client.responses
    mesh_client.client.publish(mesh({"a": 2}, 2))
    mesh_client.settle()
    assert mesh_client.client.told == {"a", SECRET}
    assert mesh_client.client.responses - before == 3  # the cluster, its endpoints, and its secret


def test_endpoints_of_a_replaced_cluster_are_sent_again_when_another_cluster_is_rejected() -> None:
    """Envoy takes the good clusters of a response over, and the new ones wait for endpoints without asking."""
    mesh_client = Mesh(SotwClient, bad=frozenset({"b=3"}))
    client = mesh_client.client
    client.publish(mesh({"a": 1, "b": 1}, 1))
    mesh_client.settle()
    client.publish(mesh({"a": 4, "b": 3}, 2))
    client.serve()
    mesh_client.read()
    assert client.known(Kind.CLUSTER) == {"a": "a=4", "b": "b=1"}
    client.deliver()
    assert list(client.stream.rejections) == ["cds b"]
    client.serve()
    client.told = set()
    mesh_client.read()
    assert client.told == {"a", "b"}
    assert Kind.ENDPOINTS in client.nonces


def test_a_rejected_secret_is_sent_again_after_a_while() -> None:
    """The file of a certificate may be there by then."""
    client = SotwClient(Responses(), frozenset({"a=1"}))
    client.subscribe(Kind.SECRET, {"a", "b"}, wildcard=False)
    client.publish(catalog_of({"a": 1, "b": 1}, 1))
    client.settle()
    assert list(client.stream.rejections) == ["sds a"]
    assert client.stream.retry_at == LIMITS.retry
    client.bad = frozenset()
    client.settle()
    assert client.known(Kind.SECRET) == {"b": "b=1"}
    client.now = LIMITS.retry
    client.settle()
    assert client.known(Kind.SECRET) == {"a": "a=1", "b": "b=1"}
    assert (client.stream.rejections, client.stream.retry_at) == ({}, None)


def test_a_name_that_no_service_has_is_named_as_missing() -> None:
    """Without an error gRPC programs wait 15 s for a name that they have never had."""
    stream = stream_with({"a": 1})
    stream.request(request(Kind.LISTENER, "a", "wbe"))
    response = stream.response(0.0)
    assert response is not None
    message = discovery_pb2.DiscoveryResponse.FromString(response.data)
    assert len(message.resources) == 1
    (error,) = message.resource_errors
    assert (error.resource_name.name, error.error_detail.code) == ("wbe", 5)
    stream.request(request(Kind.LISTENER, "a", nonce=response.nonce))
    assert stream.response(0.0) is None
