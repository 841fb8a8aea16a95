"""Configuration of the plugin: options, defaults, and the combinations that are refused."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from discovery import PluginConfig, RecordError, join_host_port, parse_address
from discovery.fields import (
    UNIX_PREFIX,
    Bind,
    Duration,
    Networks,
    OneOrMany,
    Senders,
    ServiceName,
    WholeNumber,
    format_value,
    service_name,
)
from discovery.toolkit import binds_conflict

UNIX = UNIX_PREFIX
_READING_OPTIONS = {"hosts", "path_prefix"}
"""Options of a service of other proxies that choose a service by the request."""
_EXAMPLE = "discovery run --plugin tcpproxy --set tcpproxy.listen.web=0.0.0.0:8080"


T = TypeVar("T")

HOLD = Duration(zero="fail at once")
IDLE_TIMEOUT = Duration(zero="never")
DRAIN = Duration(zero="at once")


def _not_empty(binds: tuple[str, ...]) -> tuple[str, ...]:
    if not binds:
        raise ValueError("there is no address: write one such as 127.0.0.1:8080")
    return binds


def _target(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{format_value(value)} is not HOST:PORT (an IPv6 address goes in brackets)")
    try:
        host, port = parse_address(value)
    except RecordError as error:
        raise ValueError(str(error)) from None
    return join_host_port(host, port)


def _each_once(targets: tuple[str, ...]) -> tuple[str, ...]:
    for at, target in enumerate(targets):
        if target in targets[:at]:
            raise ValueError(f"the target {target} is given twice")
    return targets


def _mode(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"0?[0-7]{3}", value):
        return int(value, 8)
    raise ValueError(f'{format_value(value)} is not a file mode: write "600", "660" or "666", in quotes')


Binds = Annotated[OneOrMany[Bind], AfterValidator(_not_empty)]
Target = Annotated[str, BeforeValidator(_target, json_schema_input_type=str)]
Targets = Annotated[OneOrMany[Target], AfterValidator(_each_once)]
Balance = Literal["roundrobin", "leastconn", "random", "source", "first"]
Limit = Annotated[int, WholeNumber(1, 10_000_000)]


class ListenerConfig(PluginConfig):
    """A listener: the addresses for clients, and the way to the service."""

    bind: Binds
    """Addresses to listen on: `HOST:PORT`, `[IPV6]:PORT`, `*:PORT` (all IPv4 addresses), `unix:/PATH`, or a list."""
    service: ServiceName | None = None
    """Service that clients reach. Default: the name of the listener."""
    targets: Targets = ()
    """Fixed backends instead of a service of the registry: `HOST:PORT`, or a list of these."""
    balance: Balance = "roundrobin"
    """Algorithm that selects the backend of a connection: each in turn, the fewest connections, the less loaded of two
    random backends, a hash of the client address, or the first reachable backend in the order of `targets` (or of
    ids)."""
    hold: Annotated[float, HOLD] = 30.0
    """Time that a client waits while no backend is usable; 0 fails at once. Clients see a fail-over as a pause and
    not as an error if the time is longer than a dead machine stays registered (`ttl`, 10 s) plus the start of its
    successor."""
    hold_connections: Limit = 1000
    """Number of clients that may wait for a backend at a time."""
    connect_timeout: Annotated[float, Duration()] = 3.0
    """Time for the connection to a backend, after which another backend is tried."""
    retries: Annotated[int, WholeNumber(0, 100)] = 3
    """Number of other backends that are tried after a failed connection attempt, before the client is held or reset."""
    idle_timeout: Annotated[float, IDLE_TIMEOUT] = 0.0
    """Time without a byte in either direction after which a connection is closed; 0 means never."""
    unacknowledged_timeout: Annotated[float, Duration(zero="when the kernel gives up")] = 15.0
    """Time within which a connection is reset if a dead machine does not acknowledge bytes that were sent to the
    client or to the backend; 0 leaves this to the kernel, which gives up after a quarter of an hour. A living machine
    whose program does not read acknowledges probes. While an answer is due, less than 4.5 s counts as 4.5 s."""
    on_leave: Literal["continue", "close"] = "continue"
    """Whether connections to a backend that leaves the registry continue or are closed."""
    drain: Annotated[float, DRAIN] | None = None
    """Time that connections to a backend that has left may last. Default: no limit with `on_leave = "continue"`, 0
    with `on_leave = "close"`."""
    max_connections: Limit | None = None
    """Number of connections at a time. Default: unlimited."""
    max_connections_per_client: Limit | None = None
    """Number of connections at a time from one client address. Default: unlimited."""
    allow: Networks = ()
    """Networks whose clients may connect. An empty list allows all."""
    deny: Networks = ()
    """Networks whose clients may not connect, even if `allow` contains them."""
    accept_proxy: Senders = ()
    """Networks of load balancers in front, whose connections begin with a PROXY protocol header; `unix` stands for
    clients of a Unix socket. A header of another client is forwarded as data."""
    accept_proxy_timeout: Annotated[float, Duration()] = 3.0
    """Time within which the header of `accept_proxy` has to arrive."""
    send_proxy: Literal["v1", "v2"] | None = None
    """Version of the PROXY protocol header that gives backends the client address. Default: no header."""
    mode: Annotated[int, BeforeValidator(_mode, json_schema_input_type=str)] = 0o600
    """File mode of Unix sockets, which determines the users that may connect."""

    @model_validator(mode="after")
    def _one_or_the_other(self) -> "ListenerConfig":
        if self.targets and self.service is not None:
            raise ValueError("'targets' replace a 'service': leave one out")
        return self

    @property
    def closes_after(self) -> float | None:
        """Seconds that connections to a backend that has left may continue; None means no limit."""
        return 0.0 if self.drain is None and self.on_leave == "close" else self.drain


class ServiceConfig(PluginConfig):
    """A service with the options that every proxy has: a listener of the same name."""

    bind: Binds
    """Addresses to listen on, as those of a listener."""
    balance: Balance = "roundrobin"
    """Algorithm that selects the backend of a connection."""
    check: Literal[False] = False
    """The TCP proxy checks no backends: only `false` is valid."""

    @model_validator(mode="before")
    @classmethod
    def _possible(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        for option in _READING_OPTIONS & value.keys():
            raise ValueError(
                f"{option!r} needs a proxy that reads requests, such as haproxy: the TCP proxy carries bytes"
            )
        if value.get("check", False) is not False:
            raise ValueError(
                "the TCP proxy checks no backends: leave 'check' out, and have the provider of the backends check them"
            )
        return value


def _listeners(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {name: each if isinstance(each, dict | ListenerConfig) else {"bind": each} for name, each in value.items()}


class TcpProxyConfig(PluginConfig):
    """A TCP proxy that follows the registry."""

    listen: Annotated[
        dict[str, ListenerConfig],
        BeforeValidator(_listeners, json_schema_input_type=dict[str, str | list[str] | ListenerConfig]),
    ] = Field(default_factory=dict)
    """Listeners by name, each an address, a list of addresses, or a table."""
    services: dict[str, ServiceConfig] = Field(default_factory=dict)
    """Services by name, as the plugin `haproxy` has them: further listeners, for a configuration that can be given to
    another proxy by changing `plugin` alone."""
    workers: Annotated[int, WholeNumber(1, 256)] = 1
    """Number of worker processes; limits are divided among the workers."""
    grace: Annotated[float, DRAIN] = 30.0
    """Time that connections have to finish when the daemon stops."""
    access_log: bool = False
    """Log every connection at its end."""

    @field_validator("listen", "services")
    @classmethod
    def _names(cls, value: dict[str, T]) -> dict[str, T]:
        for name in value:
            try:
                service_name(name)  # the default of the option `service`
            except ValueError as error:
                raise ValueError(f"{name!r} cannot be a listener's name: {error}") from None
        return value

    @model_validator(mode="after")
    def _with_services(self) -> "TcpProxyConfig":
        for name, service in self.services.items():
            if name in self.listen:
                raise ValueError(f"{name!r} is named in both 'listen' and 'services': leave one out")
            self.listen[name] = ListenerConfig(bind=service.bind, balance=service.balance)
        return self

    @model_validator(mode="after")
    def _consistent(self) -> "TcpProxyConfig":
        if not self.listen:
            raise ValueError(f"there is no listener: name one, as in: {_EXAMPLE}")
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


def _no_conflicts(listen: dict[str, ListenerConfig]) -> None:
    """Raise ValueError if two listeners use the same address; the message names both listeners."""
    taken: list[tuple[str, str]] = []
    for name, bind in ((name, bind) for name, listener in listen.items() for bind in listener.bind):
        for other, before in taken:
            if not binds_conflict(bind, before):
                continue
            if other == name and bind == before:
                raise ValueError(f"listener {name!r} names {bind} twice")
            if bind == before:
                raise ValueError(f"listeners {other!r} and {name!r} both listen on {bind}: change one address")
            wide, narrow = sorted((bind, before), key=lambda each: not _is_wildcard(each))
            raise ValueError(
                f"listeners {other!r} and {name!r}: {wide} includes {narrow}: change the port of one listener"
                if other != name
                else f"listener {name!r}: {wide} includes {narrow}: leave out one address"
            )
        taken.append((name, bind))


def _is_wildcard(bind: str) -> bool:
    return bind.startswith(("0.0.0.0:", "[::]:"))


def binds_of(config: TcpProxyConfig) -> Iterator[tuple[str, str]]:
    """Yield the name of the listener and the address, for each address of all listeners."""
    for name, listener in config.listen.items():
        for bind in listener.bind:
            yield name, bind


def service_of(name: str, listener: ListenerConfig) -> str:
    """Return the service of a listener. Fixed targets form a service whose name is invalid in a registry."""
    return f"targets:{name}" if listener.targets else listener.service or name
