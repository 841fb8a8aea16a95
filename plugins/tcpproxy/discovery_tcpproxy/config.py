"""The configuration: what each option means, its default, and which combinations make no sense."""

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from discovery import PluginConfig, RecordError, join_host_port, parse_address
from discovery.fields import Networks, Senders
from discovery.toolkit import SOCKET_PATH_BYTES, binds_conflict, is_too_long_for_a_socket

UNIX = "unix:"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_TIME = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST = 365 * 86400.0
_LEAST_WORDS = "discovery run --plugin tcpproxy --set tcpproxy.listen.web=0.0.0.0:8080"


def bind_address(value: object) -> str:
    """`HOST:PORT`, `[IPV6]:PORT`, `:PORT` (loopback), `*:PORT` or `unix:/PATH`, in the one form that each has."""
    if isinstance(value, int) and not isinstance(value, bool):
        raise ValueError(f"{value} is a port alone: write 127.0.0.1:{value}, or 0.0.0.0:{value} for every address")
    if not isinstance(value, str):
        raise ValueError("is not an address: write 127.0.0.1:8080, [::1]:8080 or unix:/run/web.sock")
    if value.startswith((UNIX, "/")):
        return UNIX + _socket_path(value.removeprefix(UNIX))
    host, colon, port = value.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ValueError(
            f"{value!r} is not HOST:PORT with a port from 1 to 65535: write 127.0.0.1:8080, 0.0.0.0:8080 for every"
            " address, or unix:/run/web.sock"
        )
    host = {"": "127.0.0.1", "localhost": "127.0.0.1", "*": "0.0.0.0"}.get(host, host)  # noqa: S104 - it is asked for
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        raise ValueError(
            f"{value!r} does not begin with an IP address: write 127.0.0.1:{port}, [::1]:{port} or 0.0.0.0:{port}"
        ) from None
    if address.version == 6 and not bracketed:
        raise ValueError(f"{value!r}: an IPv6 address goes in brackets: [{host}]:{port}")
    if address.version == 4 and bracketed:
        raise ValueError(f"{value!r}: an IPv4 address goes without brackets: {address}:{port}")
    return join_host_port(str(address), int(port))


def _socket_path(path: str) -> str:
    if not path.startswith("/") or path.endswith("/"):
        raise ValueError(f"{UNIX + path!r} is not the absolute path of a socket: write unix:/run/web.sock")
    if is_too_long_for_a_socket(Path(path)) or not path.isprintable():
        raise ValueError(f"{UNIX + path!r} is no socket's path: it may have {SOCKET_PATH_BYTES} printable bytes")
    return path


def _binds(value: object) -> object:
    binds = value if isinstance(value, list | tuple) else (value,)
    if not binds:
        raise ValueError("there is no address: write one such as 127.0.0.1:8080")
    return binds


def _time(value: object) -> object:
    """Seconds, as a number or with a unit."""
    if isinstance(value, str) and (match := _TIME.fullmatch(value)):
        value = float(match[1]) * _SECONDS[match[2]]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LONGEST:
        raise ValueError(f"{value!r} is not a time: write a number of seconds, 500ms, 10s, 5m or 2h")
    return float(value)


def _positive(value: float) -> float:
    if not value:
        raise ValueError("0 leaves no time at all: write a number of seconds, 500ms, 10s, 5m or 2h")
    return value


def _listed(value: object) -> object:
    return value if isinstance(value, list | tuple) else (value,)


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


Bind = Annotated[str, BeforeValidator(bind_address, json_schema_input_type=str)]
Binds = Annotated[tuple[Bind, ...], BeforeValidator(_binds, json_schema_input_type=str | list[str])]
Time = Annotated[float, BeforeValidator(_time, json_schema_input_type=float | str)]
PositiveTime = Annotated[Time, AfterValidator(_positive)]
Target = Annotated[str, BeforeValidator(_target, json_schema_input_type=str)]
Targets = Annotated[
    tuple[Target, ...], BeforeValidator(_listed, json_schema_input_type=str | list[str]), AfterValidator(_each_once)
]
Limit = Annotated[int, Field(ge=1, le=10_000_000)]


class ListenConfig(PluginConfig):
    """One listener: where clients connect, and how they reach the service."""

    bind: Binds
    """Where to listen: `HOST:PORT`, `[IPV6]:PORT`, `:PORT` (loopback), `unix:/PATH`, or a list of these."""
    service: str | None = None
    """The service that clients reach. Not given: the listener's name."""
    targets: Targets = ()
    """Fixed backends in place of a service of the registry: `HOST:PORT`, or a list of these."""
    balance: Literal["roundrobin", "leastconn", "random", "source", "first"] = "roundrobin"
    """The backend of the next connection: each in turn, the one with the fewest connections, the better of two random
    ones, by the client's address, or the first that can be reached, in the order of `targets` (or of ids)."""
    hold: Time = 30.0
    """Seconds that a client waits for a backend while there is none; 0 fails at once. A fail-over is a pause and not
    an error if this is longer than a dead machine stays registered (`ttl`, 10 s) and its successor takes to come."""
    hold_connections: Limit = 1000
    """The number of clients that may wait for a backend at a time."""
    connect_timeout: PositiveTime = 3.0
    """Seconds for a connection to a backend, before the next is tried."""
    retries: int = Field(default=3, ge=0, le=100)
    """The number of other backends that are tried when one does not answer, before the client notices."""
    idle_timeout: Time = 0.0
    """Seconds without a byte in either direction after which a connection is closed; 0: never."""
    unacknowledged_timeout: Time = 15.0
    """Seconds after which a connection is reset when bytes sent to the client, or to the backend, remain unacknowledged
    because the machine is dead; 0: when the kernel gives up, after a quarter of an hour. A living machine whose program
    does not read acknowledges probes."""
    on_leave: Literal["continue", "close"] = "continue"
    """Whether connections to a backend that leaves the registry continue or are closed."""
    drain: Time | None = None
    """Seconds that connections to a backend that has left may last. Not given: for ever with `on_leave = "continue"`, 0
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
    accept_proxy_timeout: PositiveTime = 3.0
    """Seconds within which the header of `accept_proxy` has to arrive."""
    send_proxy: Literal["v1", "v2"] | None = None
    """Tell backends the client's address by the PROXY protocol."""
    mode: Annotated[int, BeforeValidator(_mode, json_schema_input_type=str)] = 0o600
    """The file mode of Unix sockets: who may connect."""

    @field_validator("service")
    @classmethod
    def _known_form(cls, service: str | None) -> str | None:
        if service is not None and not _NAME.fullmatch(service):
            raise ValueError(_no_name(service, "service"))
        return service

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
    grace: Time = 30.0
    """Seconds that connections have to finish when the daemon stops."""
    access_log: bool = False
    """Log every connection when it has ended."""

    @field_validator("listen")
    @classmethod
    def _names(cls, listen: dict[str, ListenConfig]) -> dict[str, ListenConfig]:
        for name in listen:
            if not _NAME.fullmatch(name):
                raise ValueError(_no_name(name, "listener"))
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


def _no_name(name: str, what: str) -> str:
    return f"{name!r} cannot be a {what}'s name: it is 1-128 letters, digits, '_', '.' and '-', the first no '.' or '-'"


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
