"""Services and backends as templates see them: immutable, ordered, without the registry's revision."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from discovery import Backend, Service, Snapshot, State, join_host_port

AddressesOf = Callable[[Backend], Sequence[str]]
"""Return a backend's known addresses, the best first."""


class Labels(Mapping[str, str]):
    """The labels of a backend. A missing label is the empty text."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        """Keep `labels`."""
        self._labels = labels

    def __getitem__(self, name: str) -> str:
        """Return the value of a label; empty if the backend has no such label."""
        return self._labels.get(name, "")

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, ordered."""
        return iter(sorted(self._labels))

    def __len__(self) -> int:
        """Return the number of labels."""
        return len(self._labels)

    def __contains__(self, name: object) -> bool:
        """Return True if the backend has the label."""
        return name in self._labels

    def __eq__(self, other: object) -> bool:
        """Return True if the labels are equal."""
        return isinstance(other, Labels) and self._labels == other._labels

    def __hash__(self) -> int:
        """Return the hash of the names and values."""
        return hash(frozenset(self._labels.items()))


class BackendView(NamedTuple):
    """A backend: `host` is the first known IP address, `name` what the record says, an address or a host name."""

    service: str
    id: str
    name: str
    host: str
    port: int
    weight: int
    draining: bool
    labels: Labels
    addresses: tuple[str, ...]

    @property
    def address(self) -> str:
        """`HOST:PORT`, an IPv6 address in brackets."""
        return join_host_port(self.host, self.port)

    @property
    def key(self) -> str:
        """`SERVICE/ID`, the key of the record."""
        return f"{self.service}/{self.id}"

    @property
    def accepts_work(self) -> bool:
        """True if new connections may go to the backend."""
        return not self.draining and self.weight > 0


class ServiceView(NamedTuple):
    """A service. `all` has the backends with a known address, ordered by id."""

    name: str
    all: tuple[BackendView, ...] = ()

    @property
    def backends(self) -> tuple[BackendView, ...]:
        """The backends that get new connections: neither draining nor of weight 0."""
        return tuple(backend for backend in self.all if backend.accepts_work)

    @property
    def draining(self) -> tuple[BackendView, ...]:
        """The backends that get no new connections."""
        return tuple(backend for backend in self.all if not backend.accepts_work)


class Services:
    """The services, ordered by name. A service without backends is empty, as if it were registered."""

    def __init__(self, services: Sequence[ServiceView]) -> None:
        """Keep `services`, ordered by name."""
        self._services = {service.name: service for service in services}

    def __getitem__(self, name: str) -> ServiceView:
        """Return a service, which is empty if the registry has none of this name."""
        return self._services.get(name) or ServiceView(name)

    def __iter__(self) -> Iterator[ServiceView]:
        """Iterate over the services."""
        return iter(self._services.values())

    def __len__(self) -> int:
        """Return the number of services."""
        return len(self._services)

    def __contains__(self, name: object) -> bool:
        """Return True if the registry has a service of this name."""
        return name in self._services


def views_of(snapshot: Snapshot, addresses_of: AddressesOf) -> tuple[ServiceView, ...]:
    """Return the services of a snapshot, ordered by name."""
    return tuple(view_of(service, addresses_of) for service in snapshot.services.values())


def view_of(service: Service, addresses_of: AddressesOf) -> ServiceView:
    """Return a service. Backends without a known address are left out."""
    backends = []
    for backend in service.backends:
        if addresses := tuple(addresses_of(backend)):
            view = BackendView(
                backend.service,
                backend.id,
                backend.host,
                addresses[0],
                backend.port,
                backend.weight,
                backend.state is State.DRAINING,
                Labels(backend.labels),
                addresses,
            )
            backends.append(view)
    return ServiceView(service.name, tuple(backends))
