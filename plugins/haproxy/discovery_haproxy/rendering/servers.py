"""Servers of a `backend` section as data for the templates."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from discovery import Backend, State, join_host_port
from discovery_haproxy.options.config import ServiceConfig
from discovery_haproxy.options.holding import MOST_FREE
from discovery_haproxy.options.labels import BackupConfig, FromLabel, LabelOptions, options_from_labels
from discovery_haproxy.rendering.names import text_hash
from discovery_haproxy.rendering.quoting import finalize
from discovery_haproxy.text.server_line import HOLDING_ADDRESS, HOLDING_SERVER
from discovery_haproxy.text.server_runs import LineRun
from discovery_haproxy.text.words import words

_HOLDING_LINE = (
    f"    server {HOLDING_SERVER} {join_host_port(*HOLDING_ADDRESS)} id 2147483647 maxconn {MOST_FREE + 1}"
    " backup no-check\n"
)
"""The line of the holding server, with the largest id, which no backend has."""
_REMEMBERED = 4096
"""Sections whose holding server is remembered, of a kilobyte each."""

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


class Traits(NamedTuple):
    """The options of a section that decide on its servers and on their lines."""

    labels: Mapping[str, tuple[str, ...]]
    """Labels that a backend must have to be selected."""
    backup: BackupConfig | None
    factor: FromLabel | None
    check_port: int | FromLabel | None
    cookie: bool
    """True if each server has a sticky cookie."""
    lookup: bool
    """True if HAProxy looks host names up."""
    fills_in_order: bool
    """True if HAProxy fills the servers in the order of their ids."""

    @classmethod
    def of(cls, config: ServiceConfig, *, lookup: bool) -> "Traits":
        """Return what the options of a service say."""
        port = config.check.port if config.check is not None else None
        factor, backup, cookie = config.weight_factor, config.backup, config.cookie is not None
        return cls(config.labels, backup, factor, port, cookie, lookup, _fills_in_order(config))

    @property
    def asks_for_labels(self) -> bool:
        """Report whether a line may depend on the labels of the backend."""
        return self.backup is not None or self.factor is not None or isinstance(self.check_port, FromLabel)

    @property
    def is_plain(self) -> bool:
        """Report whether each line says no more than address, id and weight."""
        return not (self.asks_for_labels or self.cookie or self.lookup)

    def options_of(self, backend: Backend) -> LabelOptions:
        """Return the options of the server that the backend's labels give."""
        return options_from_labels(backend, backup=self.backup, factor=self.factor, port=self.check_port)


@lru_cache(maxsize=_REMEMBERED)
def holding_run(_section: str) -> LineRun:
    """Return the line of the server that refuses the requests of a section without backends, below all others.

    The line of a section is the same object each time.
    """
    return LineRun((HOLDING_SERVER,), (_HOLDING_LINE,))


def server_line(server: Server, *, cookie: bool, lookup: bool) -> str:
    """Return the `server` line as the built-in template prints the line.

    With `cookie` the server has a sticky cookie. With `lookup` HAProxy looks host names up.
    """
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
    return f"{line}\n" if server.usable else f"{line} disabled\n"


def server_of(name: str, number: int, backend: Backend, addresses: Sequence[str], options: LabelOptions) -> Server:
    """Return the server of a backend with this name and this numeric id, known by these addresses."""
    draining = backend.state is State.DRAINING
    return Server(
        name,
        number,
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


def _fills_in_order(config: ServiceConfig) -> bool:
    """Report whether HAProxy fills the servers in the order of their ids: with `balance first`, also in a line."""
    own = [line[1:2] for line in map(words, config.backend_lines) if line[:1] == ["balance"]]
    return (own[-1] if own else [config.balance]) == ["first"]
