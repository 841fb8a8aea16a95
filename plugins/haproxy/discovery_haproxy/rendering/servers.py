"""Servers of a `backend` section as data for the templates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from discovery import Backend, State, join_host_port
from discovery_haproxy.options.config import ServiceConfig
from discovery_haproxy.options.labels import options_from_labels
from discovery_haproxy.rendering.names import accepted_names, text_hash
from discovery_haproxy.rendering.server_ids import ids_by_name, ids_by_position
from discovery_haproxy.text.words import words

AddressesOf = Callable[[Backend], Sequence[str]]
"""Return a backend's known addresses, best first. A host name instead of an address leaves the lookup to HAProxy."""


def registered_host(backend: Backend) -> tuple[str, ...]:
    """Return the host as registered, an address or a host name."""
    return (backend.host,)


class Labels(dict[str, str]):
    """The labels of a backend. A missing label is the empty string, so that no record can break a template."""

    def __missing__(self, key: str) -> str:
        """Return the empty string."""
        return ""


@dataclass(frozen=True, slots=True)
class Server:
    """A `server` line: a backend of the registry, with an `id` that is unique in its section and valid for HAProxy.

    `numeric_id` is the argument of HAProxy's keyword `id`, unique in the section, too. `weight` is 0 while the backend
    drains. `host` is the address to connect to, or a host name. `usable` is False if no address of the backend is
    known. `check_port` is the port that a label names for checks.
    """

    id: str
    numeric_id: int
    host: str
    port: int
    weight: int
    draining: bool
    cookie: str
    labels: Labels = field(hash=False)
    record: Backend
    usable: bool = True
    backup: bool = False
    check_port: int | None = None

    @property
    def address(self) -> str:
        """Host and port as `host:port`, an IPv6 address in brackets."""
        return join_host_port(self.host, self.port)


def servers_of(
    backends: Sequence[Backend], config: ServiceConfig, addresses_of: AddressesOf, problems: list[str]
) -> tuple[Server, ...]:
    """Return the servers for the backends of a section. `problems` gets what is wrong with labels."""
    names = accepted_names(backend.id for backend in backends)
    numbers = ids_by_position(list(names.values())) if _fills_in_order(config) else ids_by_name(names.values())
    return tuple(
        _server(name, numbers[name], backend, addresses_of(backend), config, problems)
        for backend, name in zip(backends, names.values(), strict=True)
    )


def _fills_in_order(config: ServiceConfig) -> bool:
    """Report whether HAProxy fills the servers in the order of their ids: with `balance first`, also in a line."""
    own = [line[1:2] for line in map(words, config.backend_lines) if line[:1] == ["balance"]]
    return (own[-1] if own else [config.balance]) == ["first"]


def _server(
    id_: str,
    numeric_id: int,
    backend: Backend,
    addresses: Sequence[str],
    config: ServiceConfig,
    problems: list[str],
) -> Server:
    options = options_from_labels(
        backend,
        backup=config.backup,
        factor=config.weight_factor,
        port=config.check.port if config.check is not None else None,
    )
    problems += options.problems
    draining = backend.state is State.DRAINING
    # Clients see the cookie, and need not learn an address.
    cookie = text_hash(backend.id)
    weight = 0 if draining else options.weight
    # A backend without a known address keeps its server line, so that the other servers keep their positions.
    host = addresses[0] if addresses else backend.host
    labels = Labels(backend.labels)
    return Server(
        id_,
        numeric_id,
        host,
        backend.port,
        weight,
        draining,
        cookie,
        labels,
        backend,
        usable=bool(addresses),
        backup=options.backup,
        check_port=options.check_port,
    )
