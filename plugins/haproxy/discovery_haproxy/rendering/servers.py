"""Servers of a `backend` section as data for the templates."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from discovery import Backend, State, join_host_port
from discovery_haproxy.options.config import ServiceConfig
from discovery_haproxy.options.labels import LabelOptions, options_from_labels
from discovery_haproxy.rendering.names import accepted_names, text_hash
from discovery_haproxy.rendering.quoting import Raw, finalize
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


class Server(NamedTuple):
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
    record: Backend
    usable: bool = True
    backup: bool = False
    check_port: int | None = None

    @property
    def address(self) -> str:
        """Host and port as `host:port`, an IPv6 address in brackets."""
        return join_host_port(self.host, self.port)

    @property
    def cookie(self) -> str:
        """Value of the sticky cookie. Clients see the cookie, and need not learn an address."""
        return text_hash(self.record.id)

    @property
    def labels(self) -> Labels:
        """The labels of the backend."""
        return Labels(self.record.labels)


def server_lines(servers: Iterable[Server], *, cookie: bool, lookup: bool) -> Raw:
    """Return the `server` lines of a section, as the built-in template prints them: thousands for some services.

    With `cookie` each server has a sticky cookie. With `lookup` HAProxy looks host names up.
    """
    lines = []
    for server in servers:
        record = server.record
        # Names and the hosts of records are plain words.
        address = server.address if server.host == record.host else finalize(server.address)
        line = f"    server {server.id} {address} id {server.numeric_id} weight {server.weight}"
        if server.check_port:
            line += f" port {server.check_port}"
        if server.backup:
            line += " backup"
        if cookie:
            line += f" cookie {server.cookie}"
        if lookup and record.is_named:
            line += " resolvers discovery resolve-opts allow-dup-ip"
        lines.append(f"{line}\n" if server.usable else f"{line} disabled\n")
    return Raw("".join(lines))


def servers_of(
    backends: Sequence[Backend], config: ServiceConfig, addresses_of: AddressesOf, problems: list[str]
) -> tuple[Server, ...]:
    """Return the servers for the backends of a section. `problems` gets what is wrong with labels."""
    names = accepted_names(backend.id for backend in backends)
    numbers = ids_by_position(list(names.values())) if _fills_in_order(config) else ids_by_name(names.values())
    port = config.check.port if config.check is not None else None
    return tuple(
        _server(
            name,
            numbers[name],
            backend,
            addresses_of(backend),
            options_from_labels(backend, backup=config.backup, factor=config.weight_factor, port=port),
            problems,
        )
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
    options: LabelOptions,
    problems: list[str],
) -> Server:
    problems += options.problems
    draining = backend.state is State.DRAINING
    return Server(
        id_,
        numeric_id,
        # A backend without a known address keeps its server line, so that the other servers keep their positions.
        addresses[0] if addresses else backend.host,
        backend.port,
        0 if draining else options.weight,
        draining,
        backend,
        bool(addresses),
        options.backup,
        options.check_port,
    )
