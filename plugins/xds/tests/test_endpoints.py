"""The endpoints of a service: weights, draining, localities, addresses."""

from collections.abc import Sequence
from typing import Any

from envoy.config.endpoint.v3 import endpoint_pb2
from hypothesis import given
from hypothesis import strategies as st

from discovery import Backend, State
from discovery.testing import backend
from discovery_xds.config import LocalityConfig
from discovery_xds.resources.endpoints import Assignment, Endpoints

ZONES = LocalityConfig(region="region", zone="zone")


def host_of(each: Backend) -> tuple[str, ...]:
    return (each.host,)


def built(*backends: Backend, locality: LocalityConfig = ZONES, **options: Any) -> Assignment:
    return Endpoints("web", locality, options.pop("port", None)).build(backends, options.pop("addresses", host_of))


def parsed(assignment: Assignment) -> Any:
    return endpoint_pb2.ClusterLoadAssignment.FromString(assignment.contents)


def addresses(assignment: Assignment) -> list[tuple[str, int, int]]:
    """Host, port and weight of each endpoint."""
    return [
        (
            each.endpoint.address.socket_address.address,
            each.endpoint.address.socket_address.port_value,
            each.load_balancing_weight.value,
        )
        for locality in parsed(assignment).endpoints
        for each in locality.lb_endpoints
    ]


def test_an_endpoint_has_the_address_and_the_weight_of_its_backend() -> None:
    assert addresses(built(backend(host="10.0.0.1", port=80, weight=7), backend(id="b", host="::1", port=81))) == [
        ("::1", 81, 1),
        ("10.0.0.1", 80, 7),
    ]


def test_backends_that_drain_and_those_of_weight_0_get_no_new_traffic() -> None:
    assert addresses(built(backend(state=State.DRAINING), backend(id="b", weight=0))) == []


def test_backends_are_grouped_by_the_labels_of_region_and_zone() -> None:
    assignment = built(
        backend(id="a", host="10.0.0.1", labels={"region": "eu", "zone": "1"}, weight=2),
        backend(id="b", host="10.0.0.2", labels={"region": "eu", "zone": "1"}, weight=2),
        backend(id="c", host="10.0.0.3", labels={"region": "eu", "zone": "2"}),
        backend(id="d", host="10.0.0.4"),
    )
    assert [
        (each.locality.region, each.locality.zone, each.locality.sub_zone, each.load_balancing_weight.value)
        for each in parsed(assignment).endpoints
    ] == [("", "", "", 1), ("eu", "1", "", 4), ("eu", "2", "", 1)]


def test_backends_of_several_weights_in_a_zone_are_sub_zones_whose_weights_grpc_clients_know() -> None:
    assignment = built(backend(id="a", host="10.0.0.1", weight=3), backend(id="b", host="10.0.0.2", weight=1))
    assert [(each.locality.sub_zone, each.load_balancing_weight.value) for each in parsed(assignment).endpoints] == [
        ("weight-1", 1),
        ("weight-3", 3),
    ]


def test_without_an_option_labels_are_no_localities() -> None:
    assignment = built(backend(labels={"zone": "1"}), locality=LocalityConfig())
    assert parsed(assignment).endpoints[0].locality.zone == ""


def test_an_address_stands_once_with_the_weights_of_all_its_backends() -> None:
    assert addresses(built(backend(id="a", weight=2), backend(id="b", weight=3))) == [("127.0.0.1", 8080, 5)]


def test_a_host_name_has_the_addresses_that_the_core_has_found() -> None:
    found = {"db.example": ("10.0.0.9", "fd00::9"), "gone.example": ()}
    assignment = built(
        backend(id="a", host="db.example"),
        backend(id="b", host="gone.example"),
        addresses=lambda each: found[each.host],
    )
    assert addresses(assignment) == [("10.0.0.9", 8080, 1)]
    (other,) = parsed(assignment).endpoints[0].lb_endpoints[0].endpoint.additional_addresses
    assert other.address.socket_address.address == "fd00::9"
    assert assignment.unresolved == ("gone.example",)


def test_an_address_stands_once_be_it_a_further_address_of_a_host_name() -> None:
    """A gRPC program refuses all endpoints of a service of which an address stands twice."""
    found = {"a.example": ("10.0.0.1", "10.0.0.2", "10.0.0.3"), "b.example": ("10.0.0.2", "10.0.0.1", "10.0.0.3")}
    assignment = built(
        backend(id="a", host="a.example"),
        backend(id="b", host="b.example"),
        backend(id="c", host="10.0.0.3", port=1),
        addresses=lambda each: found.get(each.host, (each.host,)),
    )
    assert every_address(assignment) == [
        [("10.0.0.1", 8080), ("10.0.0.3", 8080)],
        [("10.0.0.2", 8080)],
        [("10.0.0.3", 1)],
    ]


def every_address(assignment: Assignment) -> list[list[tuple[str, int]]]:
    """All addresses of each endpoint, the preferred one first, ordered by that."""
    endpoints = [each.endpoint for locality in parsed(assignment).endpoints for each in locality.lb_endpoints]
    return [
        [
            (address.socket_address.address, address.socket_address.port_value)
            for address in (each.address, *(other.address for other in each.additional_addresses))
        ]
        for each in endpoints
    ]


def test_checks_go_to_the_configured_port() -> None:
    assignment = built(backend(), port=9000)
    assert parsed(assignment).endpoints[0].lb_endpoints[0].endpoint.health_check_config.port_value == 9000


BACKENDS = st.lists(
    st.builds(
        backend,
        id=st.sampled_from("abcdef"),
        host=st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1", "a.example", "b.example"]),
        port=st.integers(1, 3),
        weight=st.integers(0, 3),
        state=st.sampled_from(State),
        labels=st.sampled_from([{}, {"zone": "1"}, {"zone": "2", "region": "ü"}]),
    ),
    max_size=6,
    unique_by=lambda each: each.id,
)


NAMES = {"a.example": ("10.0.0.2", "10.0.0.1"), "b.example": ("10.0.0.9", "fd00::1", "10.0.0.1")}


def all_of(each: Backend) -> tuple[str, ...]:
    return NAMES.get(each.host, (each.host,))


@given(states=st.lists(BACKENDS, min_size=1, max_size=4))
def test_the_endpoints_follow_from_the_backends_alone(states: Sequence[Sequence[Backend]]) -> None:
    """Whatever was built before; and a message that is put together has nothing that protobuf would not write."""
    maker = Endpoints("web", ZONES, None)
    for state in states:
        ordered = sorted(state, key=lambda each: each.id)
        assignment = maker.build(ordered, all_of)
        assert assignment == built(*ordered, addresses=all_of)
        message = parsed(assignment)
        assert message.ByteSize() == len(assignment.contents)
        weights = sum(weight for _, _, weight in addresses(assignment))
        assert weights == sum(each.weight for each in ordered if each.accepts_work)
        assert sum(each.load_balancing_weight.value for each in message.endpoints) == weights
        every = [address for endpoint in every_address(assignment) for address in endpoint]
        assert len(set(every)) == len(every)
        working = [each for each in ordered if each.accepts_work]
        assert {(all_of(each)[0], each.port) for each in working} <= set(every)
        assert set(every) <= {(host, each.port) for each in working for host in all_of(each)}
