"""The configuration: what each option means, its default, and which combinations make no sense."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from discovery import PluginConfig, RecordError, join_host_port, parse_address
from discovery.fields import UNIX_PREFIX, Bind, Duration, Networks, OneOrMany, Senders, ServiceName, service_name
from discovery.toolkit import binds_conflict

UNIX = UNIX_PREFIX
_LEAST_WORDS = "discovery run --plugin tcpproxy --set tcpproxy.listen.web=0.0.0.0:8080"


HOLD = Duration(zero="fail at once")
IDLE_TIMEOUT = Duration(zero="never")
DRAIN = Duration(zero="at once")


def _not_empty(binds: tuple[str, ...]) -> tuple[str, ...]:
    if not binds:
        raise ValueError("there is no address: write one such as 127.0.0.1:8080")
    return binds


def _target(value: object) -> str:
    try:
        host, port = parse_address(value if isinstance(value, str) else repr(value))
    except RecordError as error:
        raise ValueError(str(error)) from None
    return join_host_port(host, port)


def _each_once(targets: tuple[str, ...]) -> tuple[str, ...]:
    for at, target in enumerate(targets):
        if target in targets[:at]:
            raise ValueError(f"{target} is given twice")
    return targets


def _mode(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"0?[0-7]{3}", value):
        return int(value, 8)
    raise ValueError(f'{value!r} is not a file mode: write "600", "660" or "666", in quotes')


Binds = Annotated[OneOrMany[Bind], AfterValidator(_not_empty)]
Target = Annotated[str, BeforeValidator(_target, json_schema_input_type=str)]
Targets = Annotated[OneOrMany[Target], AfterValidator(_each_once)]
Limit = Annotated[int, Field(ge=1, le=10_000_000)]


class ListenConfig(PluginConfig):
    """One listener: where clients connect, and how they reach the service."""

    bind: Binds
    """Where to listen: `HOST:PORT`, `[IPV6]:PORT`, `*:PORT`, `unix:/PATH`, or a list of these."""
    service: ServiceName | None = None
    """The service that clients reach. Not given: the listener's name."""
    targets: Targets = ()
    """Fixed backends in place of a service of the registry: `HOST:PORT`, or a list of these."""
    balance: Literal["roundrobin", "leastconn", "random", "source", "first"] = "roundrobin"
    """The backend of the next connection: each in turn, the one with the fewest connections, the better of two random
    ones, by the client's address, or the first that can be reached, in the order of `targets` (or of ids)."""
    hold: Annotated[float, HOLD] = 30.0
    """How long a client waits for a backend while there is none; 0 fails at once. A fail-over is a pause and not
    an error if this is longer than a dead machine stays registered (`ttl`, 10 s) and its successor takes to come."""
    hold_connections: Limit = 1000
    """The number of clients that may wait for a backend at a time."""
    connect_timeout: Annotated[float, Duration()] = 3.0
    """How long a connection to a backend may take, before the next is tried."""
    retries: int = Field(default=3, ge=0, le=100)
    """The number of other backends that are tried when one does not answer, before the client notices."""
    idle_timeout: Annotated[float, IDLE_TIMEOUT] = 0.0
    """The time without a byte in either direction after which a connection is closed; 0: never."""
    unacknowledged_timeout: Annotated[float, Duration(zero="when the kernel gives up")] = 15.0
    """The time after which a connection is reset when bytes sent to the client, or to the backend, remain
    unacknowledged because the machine is dead; 0: when the kernel gives up, after a quarter of an hour. A living
    machine whose program does not read acknowledges probes."""
    on_leave: Literal["continue", "close"] = "continue"
    """Whether connections to a backend that leaves the registry continue or are closed."""
    drain: Annotated[float, DRAIN] | None = None
    """How long connections to a backend that has left may last. Not given: for ever with `on_leave = "continue"`, 0
    with `on_leave = "close"`."""
    max_connections: Limit | None = None
    """The number of connections at a time. Not given: unlimited."""
    max_connections_per_client: Limit | None = None
    """The number of connections at a time from one client address. Not given: unlimited."""
    allow: Networks = ()
    """The networks that may connect. None: all."""
    deny: Networks = ()
    """The networks that may not connect, even if `allow` has them."""
    accept_proxy: Senders = ()
    """The networks of load balancers in front, which begin with a PROXY protocol header; `unix`: those that come by a
    Unix socket. From other clients a header is not believed: it is data as any other."""
    accept_proxy_timeout: Annotated[float, Duration()] = 3.0
    """The time within which the header of `accept_proxy` has to arrive."""
    send_proxy: Literal["v1", "v2"] | None = None
    """Tell backends the client's address by the PROXY protocol."""
    mode: Annotated[int, BeforeValidator(_mode, json_schema_input_type=str)] = 0o600
    """The file mode of Unix sockets: who may connect."""

    @model_validator(mode="after")
    def _one_or_the_other(self) -> "ListenConfig":
        if self.targets and self.service is not None:
            raise ValueError("'targets' stand in place of a 'service': leave one out")
        return self

    @property
    def closes_after(self) -> float | None:
        """Seconds that connections to a backend that has left may go on; None: for ever."""
        return 0.0 if self.drain is None and self.on_leave == "close" else self.drain


def _listeners(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {name: each if isinstance(each, dict | ListenConfig) else {"bind": each} for name, each in value.items()}


class TcpProxyConfig(PluginConfig):
    """One TCP proxy that follows the registry."""

    listen: Annotated[
        dict[str, ListenConfig],
        BeforeValidator(_listeners, json_schema_input_type=dict[str, str | list[str] | ListenConfig]),
    ] = Field(default_factory=dict)
    """The listeners by name: an address, or a table."""
    workers: int = Field(default=1, ge=1, le=256)
    """Processes that carry the connections; limits are divided among them."""
    grace: Annotated[float, DRAIN] = 30.0
    """How long connections have to finish when the daemon stops."""
    access_log: bool = False
    """Log every connection when it has ended."""

    @field_validator("listen")
    @classmethod
    def _names(cls, listen: dict[str, ListenConfig]) -> dict[str, ListenConfig]:
        for name in listen:
            try:
                service_name(name)  # as which the name of a listener stands, unless it has another
            except ValueError as error:
                raise ValueError(f"{name!r} cannot be a listener's name: {error}") from None
        return listen

    @model_validator(mode="after")
    def _consistent(self) -> "TcpProxyConfig":
        if not self.listen:
            raise ValueError(f"there is no listener: name one, as in: {_LEAST_WORDS}")
        _no_conflicts(self.listen)
        for name, listener in self.listen.items():
            for limit in ("max_connections", "max_connections_per_client", "hold_connections"):
                total = getattr(listener, limit)
                if total is not None and total < self.workers:
                    raise ValueError(
                        f"listen.{name}.{limit} is {total}, which cannot be divided among {self.workers} workers:"
                        f" allow {self.workers} or more, or have fewer workers"
                    )
        return self


def _no_conflicts(listen: dict[str, ListenConfig]) -> None:
    """No address may be listened on twice. Raises ValueError that names both."""
    taken: list[tuple[str, str]] = []
    for name, bind in ((name, bind) for name, listener in listen.items() for bind in listener.bind):
        for other, before in taken:
            if not binds_conflict(bind, before):
                continue
            if other == name and bind == before:
                raise ValueError(f"listener {name!r} names {bind} twice")
            if bind == before:
                raise ValueError(f"listeners {other!r} and {name!r} both listen on {bind}: give one another address")
            wide, narrow = sorted((bind, before), key=lambda each: not _is_wildcard(each))
            raise ValueError(
                f"listeners {other!r} and {name!r}: {wide} takes in {narrow}: give one another port"
                if other != name
                else f"listener {name!r}: {wide} takes in {narrow}: leave one out"
            )
        taken.append((name, bind))


def _is_wildcard(bind: str) -> bool:
    return bind.startswith(("0.0.0.0:", "[::]:"))


def binds_of(config: TcpProxyConfig) -> Iterator[tuple[str, str]]:
    """Every listener's name with each of its addresses."""
    for name, listener in config.listen.items():
        for bind in listener.bind:
            yield name, bind


def service_of(name: str, listener: ListenConfig) -> str:
    """The service that a listener is for. That of its own targets has a name that no service of a registry has."""
    return f"targets:{name}" if listener.targets else listener.service or name
