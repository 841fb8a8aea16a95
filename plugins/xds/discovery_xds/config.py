"""Options of the consumer `xds`."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from discovery import PluginConfig
from discovery.fields import (
    Bind,
    BindAddress,
    Duration,
    Fall,
    Hosts,
    LabelName,
    Labels,
    OneOrMany,
    Port,
    Prefixes,
    Rise,
    ServiceName,
    format_value,
    service_name,
)
from discovery.routing import AddressClaim, check_conflicts

DEFAULT_LISTEN = "127.0.0.1:18000"
"""Address of the xDS port: the port of the examples in Envoy's documentation, on this machine alone."""
_MOST_CHARACTERS = 400
"""Characters to send or to expect in a check, as in the plugin haproxy."""
_BALANCE = re.compile(r"roundrobin|static-rr|leastconn|random|source|uri|url_param [\w.-]{1,100}|hdr\([\w-]{1,100}\)")
_STATUS = re.compile(r"[1-5][0-9]{2}(-[1-5][0-9]{2})?(,[1-5][0-9]{2}(-[1-5][0-9]{2})?)*")


def _matching(pattern: str, meaning: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"{format_value(value)} is not {meaning}")
        return value

    return AfterValidator(check)


def _balance(value: str) -> str:
    if not _BALANCE.fullmatch(value):
        raise ValueError(
            f"{format_value(value)} is not a balance algorithm of Envoy: write roundrobin, static-rr, leastconn,"
            " random, source, uri, url_param NAME or hdr(NAME)"
        )
    return value


def _status(value: object) -> object:
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    if not _STATUS.fullmatch(text):
        raise ValueError(f"{format_value(value)} is not an HTTP status: write 200, 200-399 or a list of these")
    return text


def _bind(value: object) -> object:
    if isinstance(value, dict):
        raise ValueError("a bind of an Envoy listener is an address alone, such as 127.0.0.1:8080, and not a table")
    return value


AbsolutePath = Annotated[Path, AfterValidator(Path.absolute)]
Balance = Annotated[str, AfterValidator(_balance)]
Status = Annotated[str, BeforeValidator(_status, json_schema_input_type=int | str | list[int | str])]
Conversation = Annotated[str, Field(min_length=1, max_length=_MOST_CHARACTERS)]
Binds = OneOrMany[Annotated[Bind, BeforeValidator(_bind)]]


class CheckConfig(PluginConfig):
    """A health check by Envoy: a TCP connection, with `expect` an answer on it, or with `path` an HTTP request."""

    path: Annotated[str, _matching(r"/[!-~]*", "a path that begins with '/'")] | None = None
    method: Annotated[str, _matching(r"GET|HEAD|POST|PUT|DELETE|OPTIONS|TRACE|PATCH", "an HTTP method")] = "GET"
    host: Annotated[str, _matching(r"[A-Za-z0-9_.:\[\]-]{1,255}", "a Host header")] = "localhost"
    status: Status = "200-399"
    send: Conversation | None = None
    """What a TCP check sends once it is connected."""
    expect: Conversation | None = None
    """What the answer to a TCP check must contain."""
    interval: Annotated[float, Duration(0.001, 24 * 86400)] = 2.0
    fall: Fall = 3
    rise: Rise = 2
    port: Port | None = None
    """Port to check. Default: the backend's own port."""

    @property
    def statuses(self) -> tuple[tuple[int, int], ...]:
        """Statuses that pass: ranges from the first number up to and without the second."""
        ranges = (each.partition("-") for each in self.status.split(","))
        return tuple((int(low), int(high or low) + 1) for low, _, high in ranges)

    @model_validator(mode="after")
    def _check_kind(self) -> "CheckConfig":
        for name in ("method", "host", "status"):
            if self.path is None and name in self.model_fields_set:
                raise ValueError(f"{name!r} is for an HTTP check: give it a 'path', such as \"/\"")
        if self.path is not None and (self.send or self.expect):
            raise ValueError("'send' and 'expect' are for a TCP check, and 'path' makes an HTTP check: remove either")
        if self.send and not self.expect:
            raise ValueError("'send' has no effect without 'expect': write what the answer must contain")
        return self


def _check(value: object) -> object:
    return {} if value is True else None if value is False else value


Check = Annotated[CheckConfig | None, BeforeValidator(_check, json_schema_input_type=bool | CheckConfig)]
"""A check, or None for no check; `true` is the check with the defaults."""


class ServiceConfig(PluginConfig):
    """Options of a service. `service` and `labels` select the backends."""

    service: ServiceName | None = None
    """Service of the registry that has the backends. Default: the service of the same name."""
    labels: Labels = Field(default_factory=dict)
    """Labels that a backend must have: a value, or a list of values of which any will do."""
    bind: Binds | None = None
    """Addresses on which Envoy listens. Default: the instance's `bind`."""
    mode: Literal["http", "tcp"] = "http"
    hosts: Hosts = ()
    """Host names of the service on a shared bind: `example.com`, `*.example.com`, `example.*`, `*`."""
    path_prefix: Prefixes = ()
    balance: Balance = "roundrobin"
    check: Check = CheckConfig()
    http2: bool = False
    """Speak HTTP/2 to the backends, as for gRPC."""

    @model_validator(mode="after")
    def _check_mode(self) -> "ServiceConfig":
        if self.mode == "tcp":
            for name in ("hosts", "path_prefix", "http2"):
                if getattr(self, name):
                    raise ValueError(f'{name!r} needs mode = "http"; in tcp mode Envoy sees no HTTP')
            if self.balance.startswith(("uri", "url_param", "hdr")):
                raise ValueError(f'balance {self.balance!r} needs mode = "http"; in tcp mode Envoy sees no HTTP')
        return self


class TlsConfig(PluginConfig):
    """TLS of the xDS port."""

    certificate: AbsolutePath
    """PEM file with the certificate of this server, followed by its chain."""
    key: AbsolutePath
    """PEM file with the private key, without a passphrase."""
    client_ca: AbsolutePath | None = None
    """PEM file with the CA of the clients' certificates. Without it any client may connect."""


class LocalityConfig(PluginConfig):
    """Labels of a backend that name its region and its zone. A missing label is an empty name."""

    region: LabelName | None = None
    zone: LabelName | None = None


class XdsConfig(PluginConfig):
    """Options of an instance of the consumer `xds`."""

    listen: Annotated[str, BindAddress(sockets=False)] = DEFAULT_LISTEN
    """Address of the xDS port, to which Envoy and gRPC programs connect."""
    tls: TlsConfig | None = None
    """TLS of the xDS port. Default: none."""
    services: dict[str, ServiceConfig] = Field(default_factory=dict)
    """Services to serve. Default: every service of the registry, by host name, on `bind`."""
    bind: Binds = ("127.0.0.1:8080",)
    """Addresses on which Envoy listens for services that do not set `bind`."""
    locality: LocalityConfig = LocalityConfig()

    @field_validator("services")
    @classmethod
    def _check_service_names(cls, services: dict[str, ServiceConfig]) -> dict[str, ServiceConfig]:
        for name in services:
            service_name(name)
        return services

    @model_validator(mode="after")
    def _check_conflicts(self) -> "XdsConfig":
        check_conflicts(self.claims)
        return self

    @property
    def claims(self) -> tuple[AddressClaim, ...]:
        """Claims of the configured services to addresses."""
        return tuple(
            AddressClaim(name, address, each.mode, each.hosts, each.path_prefix)
            for name, each in self.services.items()
            for address in each.bind or self.bind
        )
