"""Options of the consumers `nginx`, `httpd` and `caddy`: the `services` table of the consumer `haproxy`, as far as each
program can do the same.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from discovery import PluginConfig
from discovery.fields import (
    BalanceAlgorithm,
    BindAddress,
    Duration,
    Fall,
    HostHeader,
    Hosts,
    HttpMethod,
    Labels,
    OneOrMany,
    Prefixes,
    RequestTarget,
    Rise,
    ServiceName,
    bind_tables,
    check_kind,
    service_name,
)
from discovery.routing import AddressClaim, check_conflicts

OF_HAPROXY = frozenset({
    "backup", "weight_factor", "timeouts", "maxconn", "server_maxconn", "cookie", "cache", "basic_auth",
    "redirect_https", "hsts", "response_headers", "sorry_page", "forward_for", "send_proxy", "log_format",
    "frontend_lines", "backend_lines", "server_options", "hold", "hold_connections",
})  # fmt: skip
"""Options of a service of the consumer `haproxy` that no other consumer has."""
_NAMED = re.compile(r"(hdr)\((.+)\)|(url_param) ([^ ]+)")
WAY_OUT = "use the consumer 'haproxy', or write a template of your own with the consumer 'template'"


class Balance(NamedTuple):
    """An algorithm with its arguments, such as `uri whole`. `hdr` and `url_param` have their argument as the `name`."""

    kind: str
    name: str = ""


def balance_of(text: str) -> Balance:
    """Return the parts of a `balance` option."""
    if match := _NAMED.fullmatch(text):
        return Balance(match[1] or match[3], match[2] or match[4])
    return Balance(text)


class CheckConfig(PluginConfig):
    """A health check that the program runs itself: with `path` an HTTP request, else a TCP connection."""

    path: RequestTarget | None = None
    method: HttpMethod = "GET"
    host: HostHeader | None = None
    status: str | Annotated[int, Field(strict=True)] | None = None
    send: str | None = None
    expect: str | None = None
    interval: Annotated[float, Duration(0.1, 3600)] = 2.0
    fall: Fall = 3
    rise: Rise = 2
    init_state: Literal["up", "down"] = "up"
    port: Any = None

    @model_validator(mode="after")
    def _check_kind(self) -> "CheckConfig":
        check_kind(path=self.path, send=self.send, expect=self.expect, given=self.model_fields_set)
        return self


def _check(value: object) -> object:
    return {} if value is True else None if value is False else value


class BindConfig(PluginConfig):
    """An address to listen on."""

    address: Annotated[str, BindAddress(sockets=False)]
    certificate: OneOrMany[Annotated[Path, AfterValidator(Path.absolute)]] = ()
    """PEM file with the chain and the key. Makes the bind TLS."""
    accept_proxy: Any = ()
    options: str | None = None


Binds = Annotated[
    tuple[BindConfig, ...],
    BeforeValidator(bind_tables, json_schema_input_type=str | BindConfig | list[str | BindConfig]),
]
Check = Annotated[CheckConfig | None, BeforeValidator(_check, json_schema_input_type=bool | CheckConfig)]


class ServiceConfig(PluginConfig):
    """Options of a service. `service` and `labels` select the backends."""

    service: ServiceName | None = None
    """Service of the registry that has the backends. Default: the service of the same name."""
    labels: Labels = Field(default_factory=dict)
    """Labels that a backend must have."""
    bind: Binds | None = None
    """Addresses to listen on. Default: the instance's `bind`."""
    mode: Literal["http", "tcp"] = "http"
    hosts: Hosts = ()
    """Host names of the service on a shared bind: `example.com`, `*.example.com`, `example.*`, `*`."""
    path_prefix: Prefixes = ()
    balance: BalanceAlgorithm = "roundrobin"
    check: Check = None
    """Health check by the program itself. Default: none; a backend that cannot be reached is left out for a while."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_haproxys(cls, values: object) -> object:
        if isinstance(values, dict):
            for name in sorted(OF_HAPROXY & values.keys()):
                raise ValueError(f"{name!r} is an option of the consumer 'haproxy' alone: {WAY_OUT}")
        return values

    @model_validator(mode="after")
    def _check_mode(self) -> "ServiceConfig":
        if self.mode == "tcp" and self.path_prefix:
            raise ValueError("'path_prefix' needs mode = \"http\"; in tcp mode the proxy sees no HTTP")
        return self


class ProxyConfig(PluginConfig):
    """Options of an instance that are common to the consumers."""

    services: dict[str, ServiceConfig] = Field(default_factory=dict)
    """Services to serve. Default: every service of the registry, by host name, on `bind`."""
    bind: Binds = (BindConfig(address="127.0.0.1:8080"),)
    """Addresses for services that do not set `bind`."""
    binary: Annotated[Path, AfterValidator(Path.absolute)] | None = None
    """The program. Default: the one on PATH."""
    prove_timeout: Annotated[float, Duration(0.1, 600)] = 10.0
    """Time within which the program must show a new configuration; then the change is rolled back."""

    @model_validator(mode="after")
    def _check_services(self) -> "ProxyConfig":
        for name in self.services:
            service_name(name)
        check_conflicts(claims_of(self))
        certificates: dict[str, tuple[str, tuple[Path, ...]]] = {}
        for name, service, bind in binds_of(self):
            where = f"service {name!r}" if name else f"bind {bind.address}"
            if bind.options:
                raise ValueError(f"{where}: 'options' of a bind are HAProxy's own words: {WAY_OUT}")
            if bind.accept_proxy:
                raise ValueError(f"{where}: 'accept_proxy' is an option of the consumer 'haproxy': {WAY_OUT}")
            if len(bind.certificate) > 1:
                raise ValueError(f"{where}: a bind has one 'certificate' here: {WAY_OUT}")
            if bind.certificate and service.mode == "tcp":
                raise ValueError(f"{where}: 'certificate' needs mode = \"http\" here: {WAY_OUT}")
            other, certificate = certificates.setdefault(bind.address, (where, bind.certificate))
            if certificate != bind.certificate:
                raise ValueError(
                    f"{other} and {where} share {bind.address}, but not the same 'certificate': give both the same, or"
                    " a 'bind' of their own"
                )
        for name, service in self.services.items():
            fault = self.fault_of(service) or (self.fault_of_check(service.check) if service.check else None)
            if fault:
                raise ValueError(f"service {name!r}: {fault}")
        return self

    def fault_of(self, service: ServiceConfig) -> str | None:
        """Return what of these options the program cannot do, and the way out; None if it can do everything."""
        return None

    def fault_of_check(self, check: CheckConfig) -> str | None:
        """Return what of this check the program cannot do, and the way out; None if it can do everything."""
        return None


def binds_of(config: ProxyConfig) -> Iterator[tuple[str, ServiceConfig, BindConfig]]:
    """Yield the addresses to listen on, each with the service and its name; an empty name for every service."""
    for name, service in (config.services or {"": ServiceConfig()}).items():
        for bind in service.bind or config.bind:
            yield name, service, bind


def claims_of(config: ProxyConfig) -> tuple[AddressClaim, ...]:
    """Return the claims of the configured services to their addresses."""
    return tuple(
        AddressClaim(name, bind.address, service.mode, service.hosts, service.path_prefix)
        for name, service in sorted(config.services.items())
        for bind in (service.bind or config.bind)
    )
