"""The endpoints of a service: localities, weights and addresses of its backends."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from envoy.config.core.v3 import address_pb2, base_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2

from discovery import Backend
from discovery_xds.config import LocalityConfig
from discovery_xds.resources.wire import embedded

AddressesOf = Callable[[Backend], tuple[str, ...]]
_ENDPOINTS_FIELD = 2
"""Number of the field `endpoints` of a ClusterLoadAssignment."""

_Address = tuple[str, int]


class Locality(NamedTuple):
    """A region and a zone; empty texts for backends without such labels."""

    region: str
    zone: str


class _Member(NamedTuple):
    """A backend that gets traffic, in the state whose endpoint was serialized."""

    backend: Backend
    addresses: tuple[str, ...]
    locality: Locality
    endpoint: bytes


class Standing(NamedTuple):
    """The endpoint of a backend. `only` is False if other backends are at the address, whose weights it has, too."""

    addresses: tuple[str, ...]
    port: int
    weight: int
    locality: Locality
    only: bool


class Assignment(NamedTuple):
    """A serialized ClusterLoadAssignment. `unresolved` are the host names without a known address."""

    contents: bytes
    endpoints: int
    unresolved: tuple[str, ...]


class Endpoints:
    """Builds the endpoints of a service for successive snapshots. An unchanged backend is serialized once."""

    def __init__(self, name: str, locality: LocalityConfig, check_port: int | None) -> None:
        """Build endpoints of the name `name`. Checks go to `check_port`; None stands for each backend's own port."""
        self._name = name
        self._locality = locality
        self._check_port = check_port
        self._members: dict[str, _Member] = {}

    def build(self, backends: Iterable[Backend], addresses_of: AddressesOf) -> Assignment:
        """Return the endpoints of the backends that accept work, in the order of the backends.

        Of several backends at one address the first is an endpoint, with the weights of all: clients refuse an address
        that stands twice, be it a further address of a host name.
        """
        members: dict[str, _Member] = {}
        unresolved: list[str] = []
        for backend in backends:
            if not backend.accepts_work:
                continue
            addresses = addresses_of(backend)
            if not addresses:
                unresolved.append(backend.host)
                continue
            known = self._members.get(backend.id)
            unchanged = known is not None and (known.backend is backend or known.backend == backend)
            if known is None or not unchanged or known.addresses != addresses:
                known = self._member(backend, addresses)
            members[backend.id] = known
        self._members = members
        return Assignment(self._assignment(self._merged(members.values())), len(members), tuple(unresolved))

    def standing(self) -> dict[str, Standing]:
        """Return the endpoint of each backend that has one, by the backend's id, as it was built last."""
        backends = Counter((each.addresses[0], each.backend.port) for each in self._members.values())
        at = {
            (member.addresses[0], member.backend.port): (member, weight)
            for member, weight in self._merged(self._members.values())
        }
        found = {}
        for id_, each in self._members.items():
            address = each.addresses[0], each.backend.port
            member, weight = at[address]
            found[id_] = Standing(member.addresses, address[1], weight, member.locality, backends[address] == 1)
        return found

    def _member(self, backend: Backend, addresses: tuple[str, ...], weight: int | None = None) -> _Member:
        endpoint = endpoint_components_pb2.Endpoint(
            address=_address(addresses[0], backend.port),
            additional_addresses=[
                endpoint_components_pb2.Endpoint.AdditionalAddress(address=_address(each, backend.port))
                for each in addresses[1:]
            ],
        )
        if self._check_port is not None:
            endpoint.health_check_config.port_value = self._check_port
        wrapped = endpoint_components_pb2.LbEndpoint(endpoint=endpoint)
        wrapped.load_balancing_weight.value = weight or backend.weight
        labels = backend.labels
        region, zone = self._locality.region, self._locality.zone
        return _Member(
            backend,
            addresses,
            Locality(labels.get(region, "") if region else "", labels.get(zone, "") if zone else ""),
            endpoint_components_pb2.LocalityLbEndpoints(lb_endpoints=[wrapped]).SerializeToString(),
        )

    def _merged(self, members: Iterable[_Member]) -> list[tuple[_Member, int]]:
        """Return the members with their weights, without those at an address that another member has.

        Each address stands once: first those that the members prefer, then the further ones, in the order of members.
        """
        first: dict[_Address, _Member] = {}
        more: dict[_Address, int] = {}
        further = False
        for member in members:
            address = member.addresses[0], member.backend.port
            if first.setdefault(address, member) is not member:
                more[address] = more.get(address, first[address].backend.weight) + member.backend.weight
            further = further or len(member.addresses) > 1
        if not more and not further:
            return [(member, member.backend.weight) for member in first.values()]
        taken = set(first)
        merged = []
        for address, member in first.items():
            weight = more.get(address, member.backend.weight)
            free = [each for each in member.addresses[1:] if (each, address[1]) not in taken]
            taken |= {(each, address[1]) for each in free}
            addresses = (member.addresses[0], *free)
            if address in more or addresses != member.addresses:
                member = self._member(member.backend, addresses, weight)  # noqa: PLW2901
            merged.append((member, weight))
        return merged

    def _assignment(self, members: list[tuple[_Member, int]]) -> bytes:
        groups: dict[Locality, dict[int, list[bytes]]] = {}
        for member, weight in members:
            groups.setdefault(member.locality, {}).setdefault(weight, []).append(member.endpoint)
        parts = [endpoint_pb2.ClusterLoadAssignment(cluster_name=self._name).SerializeToString()]
        for locality in sorted(groups):
            by_weight = groups[locality]
            for weight in sorted(by_weight):
                endpoints = by_weight[weight]
                # gRPC clients know the weights of localities alone: backends of another weight are a sub-zone.
                head = endpoint_components_pb2.LocalityLbEndpoints(
                    locality=base_pb2.Locality(
                        region=locality.region,
                        zone=locality.zone,
                        sub_zone=f"weight-{weight}" if len(by_weight) > 1 else "",
                    ),
                )
                head.load_balancing_weight.value = weight * len(endpoints)
                parts.append(embedded(_ENDPOINTS_FIELD, head.SerializeToString(), *endpoints))
        return b"".join(parts)


def _address(host: str, port: int) -> address_pb2.Address:
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=host, port_value=port))
