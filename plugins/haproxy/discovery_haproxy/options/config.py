"""Options of the consumer `haproxy`: types, defaults, and combinations that are refused."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from discovery import PluginConfig
from discovery.fields import (
    BalanceAlgorithm,
    Duration,
    Hosts,
    Labels,
    OneOrMany,
    Prefixes,
    ServiceName,
    WholeNumber,
    service_name,
)
from discovery.routing import AddressClaim, check_conflicts
from discovery_haproxy.options.binds import BindConfig, Binds
from discovery_haproxy.options.checks import Check, CheckConfig
from discovery_haproxy.options.external import ExternalConfig
from discovery_haproxy.options.holding import HOLD, check_holding, check_timeouts
from discovery_haproxy.options.http import HTTPS_PORT, BasicAuth, Cookie, Hsts, HttpsPort, ResponseHeaders, Stats
from discovery_haproxy.options.labels import BackupConfig, FromLabel
from discovery_haproxy.options.routing import check_frontends
from discovery_haproxy.options.sections import Cache, Sections
from discovery_haproxy.options.values import (
    TIME,
    AbsolutePath,
    AccessLog,
    Address,
    Connections,
    HAProxyTime,
    Line,
    Lines,
    LogFormat,
    Paths,
)
from discovery_haproxy.text.words import words

_RESERVED_BY_THE_PLUGIN = frozenset({"description", "daemon", "master-worker"})
_OPERATORS = (
    "hard_stop_after", "maxconn", "access_log", "log_format", "stats", "global_lines", "defaults_lines", "include",
)  # fmt: skip
"""Options that concern more than discovery's own sections."""
_FOR_SLOTS = frozenset({"services", "external", "binary", "service", "labels", "weight_factor"})
"""Options that have an effect on slots: which backends these get, and their weights."""
_HTTP_ONLY = (
    "path_prefix", "cookie", "cache", "basic_auth", "redirect_https", "hsts", "response_headers", "sorry_page",
    "forward_for",
)  # fmt: skip
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".htm": "text/html; charset=utf-8",
    ".json": "application/json",
}
_HTTP_ONLY_BALANCE = ("uri", "url_param", "hdr")
_QUOTED_CHARACTERS = 60
"""Characters of a line in an error message, which is one line itself."""


class Timeouts(PluginConfig):
    """HAProxy's timeouts of a service. A missing timeout is that of the instance."""

    connect: HAProxyTime | None = None
    client: HAProxyTime | None = None
    server: HAProxyTime | None = None
    queue: HAProxyTime | None = None
    tunnel: HAProxyTime | None = None
    check: HAProxyTime | None = None
    """Time in which a backend must answer a check. Default: half of the check's interval, at most 5 s."""
    http_request: HAProxyTime | None = None
    http_keep_alive: HAProxyTime | None = None
    client_fin: HAProxyTime | None = None
    server_fin: HAProxyTime | None = None


class DefaultTimeouts(Timeouts):
    """HAProxy's timeouts of the instance, for every service that does not set a timeout itself."""

    connect: HAProxyTime = "5s"
    client: HAProxyTime = "1m"
    server: HAProxyTime = "1m"
    queue: HAProxyTime = "10s"
    tunnel: HAProxyTime = "1h"
    check: HAProxyTime = "5s"
    http_request: HAProxyTime = "10s"
    # Also limits how long an old worker waits for idle clients after a reload.
    http_keep_alive: HAProxyTime = "10s"
    client_fin: HAProxyTime = "30s"
    server_fin: HAProxyTime = "30s"


class ServiceConfig(PluginConfig):
    """Options of a service. `service` and `labels` select the backends."""

    service: ServiceName | None = None
    """Service of the registry that has the backends. Default: the service of the same name."""
    labels: Labels = Field(default_factory=dict)
    """Labels that a backend must have to be a server: a value, or a list of values of which any will do."""
    bind: Binds | None = None
    """Addresses to listen on: `HOST:PORT`, `[IPV6]:PORT`, `*:PORT`, a socket's path, a table, or a list of these.
    Default: the instance's `bind`."""
    mode: Literal["http", "tcp"] = "http"
    hosts: Hosts = ()
    """Host names of the service on a shared bind: `example.com`, `*.example.com`, `example.*`, `*`. In tcp mode those
    that clients name in the TLS handshake (SNI)."""
    path_prefix: Prefixes = ()
    balance: BalanceAlgorithm = "roundrobin"
    check: Check = CheckConfig()
    backup: BackupConfig | None = None
    """Which backends are backups, which get traffic if no other backend is up."""
    weight_factor: FromLabel | None = None
    """Label with the number by which the weight of a backend is multiplied."""
    timeouts: Timeouts = Timeouts()
    maxconn: Connections | None = None
    """Limit of concurrent connections from clients to the service."""
    server_maxconn: Connections | None = None
    """Limit of concurrent connections to each backend; further connections wait in the queue."""
    hold: Annotated[float, HOLD] = 0.0
    """Time for which requests wait while no backend is available. Default: HAProxy answers 503 at once."""
    hold_connections: Connections = 1000
    """Limit of concurrent connections to the service while no backend is available; further ones are refused."""
    cookie: Cookie = None
    cache: Cache = None
    """Keep answers in HAProxy's memory, as HTTP allows: `true` for 64 MB, a size, or a table."""
    basic_auth: BasicAuth | None = None
    """Let only clients with a name and a password of a file through: the path of the file, or a table."""
    redirect_https: HttpsPort = None
    """Redirect requests without TLS to https: `true` for port 443, or another port."""
    hsts: Hsts = None
    """Tell browsers to use https alone: `true` for a year, a duration, or a table."""
    response_headers: ResponseHeaders = Field(default_factory=dict)
    """Headers of every answer, also of HAProxy's own; `false` removes a header."""
    sorry_page: AbsolutePath | None = None
    """File whose contents are the answer 503 while no backend is available."""
    forward_for: bool = False
    """Tell backends the client's address in the request header `X-Forwarded-For`."""
    send_proxy: Literal["v1", "v2"] | None = None
    """Version of the PROXY protocol header that HAProxy sends to the backends."""
    log_format: LogFormat | None = None
    """Format of the access log. Default: the instance's in http mode, `option tcplog` in tcp mode."""
    frontend_lines: Lines = ()
    backend_lines: Lines = ()
    server_options: Line | None = None
    """Further words for every `server` line."""

    @property
    def sorry_type(self) -> str:
        """Media type of the sorry page, by its suffix."""
        return _MEDIA_TYPES.get(self.sorry_page.suffix.lower() if self.sorry_page else "", "text/plain; charset=utf-8")

    @property
    def backs_up_with_all(self) -> bool:
        """Report whether traffic for backups goes to every backup."""
        return self.backup is not None and self.backup.all

    @model_validator(mode="after")
    def _check_hold(self) -> "ServiceConfig":
        check_holding(self, sets_connections="hold_connections" in self.model_fields_set)
        return self

    @model_validator(mode="after")
    def _check_mode(self) -> "ServiceConfig":
        if self.mode == "tcp":
            for name in _HTTP_ONLY:
                if getattr(self, name):
                    raise ValueError(f'{name!r} needs mode = "http"; in tcp mode HAProxy sees no HTTP')
            if self.balance.startswith(_HTTP_ONLY_BALANCE):
                raise ValueError(f'balance {self.balance!r} needs mode = "http"; in tcp mode HAProxy sees no HTTP')
        if self.cache and self.basic_auth:
            raise ValueError(
                "'cache' has no effect with 'basic_auth': HAProxy keeps no answer to a request with a password"
            )
        return self


class HAProxyConfig(PluginConfig):
    """Options of an instance of the consumer `haproxy`."""

    services: dict[str, ServiceConfig] = Field(default_factory=dict)
    """Services to serve. Default: every service of the registry, by host name, on `bind`."""
    label_routes: Hosts = ()
    """Host names, as patterns, that backends may claim for their service by the label `discovery.host`. Only these
    services, and those of `services`, are served then."""
    bind: Binds = (BindConfig(address="127.0.0.1:8080"),)
    """Addresses for services that do not set `bind`. Default of a fragment: none."""
    template: AbsolutePath | None = None
    """Jinja2 template that replaces the built-in template."""
    binary: AbsolutePath | None = None
    external: ExternalConfig | None = None
    timeouts: DefaultTimeouts = DefaultTimeouts()
    verify_interval: Annotated[float, Duration(0.1, 3600)] = 10.0
    """Time between two comparisons of the live servers with the wanted servers."""
    operator_changes: Literal["keep", "undo"] = "keep"
    """What becomes of maintenance, draining, weights and switched-off checks that an operator sets through a socket."""
    hard_stop_after: HAProxyTime = "30m"
    """Time for which an old worker may serve its connections after a reload."""
    max_old_workers: Annotated[int, WholeNumber(1, 1000)] | None = None
    """Reloads after which an old worker is ended, with its connections: at most so many old workers run."""
    keep_stick_tables: bool = False
    """Carry the stick tables with `peers discovery` over a reload."""
    maxconn: Connections | None = None
    """Limit of concurrent connections of the whole process. Default: as the limit of open files allows."""
    retries: Annotated[int, WholeNumber(0, 100)] = 3
    access_log: AccessLog = False
    """Log every request and connection: `true` to the log of the daemon (of an external HAProxy to stderr), or to a
    syslog server at `IP:PORT` (UDP) or at a Unix socket such as `/dev/log`, to which HAProxy writes itself."""
    log_format: LogFormat | None = None
    """Format of the access log of http services, as in HAProxy's `log-format`. Default: `option httplog`."""
    stats: Stats = None
    """Address of HAProxy's statistics page, with Prometheus metrics at /metrics, or a table."""
    resolve: Literal["core", "haproxy"] = "core"
    """`core` looks the host names of backends up as the machine does; `haproxy` asks name servers."""
    nameservers: OneOrMany[Address] = ()
    """Name servers that HAProxy asks, which sets `resolve` to "haproxy". Default: those of /etc/resolv.conf."""
    include: Paths = ()
    """Files of the user's, or directories of `*.cfg` files, with sections that stand below the plugin's own."""
    files: Paths = ()
    """Files that the user's lines or template name. A change of a file reloads HAProxy."""
    global_lines: Lines = ()
    defaults_lines: Lines = ()
    sections: Sections = Field(default_factory=dict)
    """Further sections, to which lines refer: lines by kind and name, as in `"peers edge" = ["peer a 10.0.0.1:1"]`."""

    @field_validator("services")
    @classmethod
    def _check_service_names(cls, services: dict[str, ServiceConfig]) -> dict[str, ServiceConfig]:
        for name in services:
            service_name(name)
        return services

    @field_validator("global_lines")
    @classmethod
    def _check_global_lines(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        for line in lines:
            if not _RESERVED_BY_THE_PLUGIN.isdisjoint(words(line)[:1]):
                raise ValueError(
                    f"{line[:_QUOTED_CHARACTERS]!r} conflicts with a line that the plugin writes to run HAProxy"
                )
        return lines

    @property
    def serves_by_name(self) -> bool:
        """Report whether every service of the registry is served, by its name."""
        return not (self.services or self.label_routes)

    @property
    def is_fragment(self) -> bool:
        """Report whether the operator has files with everything but the `backend` sections, or with these as well."""
        return self.external is not None and (self.external.fragment is not None or self.external.slots)

    @model_validator(mode="before")
    @classmethod
    def _listen_nowhere(cls, values: object) -> object:
        external = values.get("external") if isinstance(values, dict) else None
        if isinstance(external, ExternalConfig):
            external = {"fragment": external.fragment, "slots": external.slots}
        beside = isinstance(external, dict) and (external.get("fragment") or external.get("slots"))
        if isinstance(values, dict) and beside and not values.get("bind"):
            return {**values, "bind": ()}
        return values

    @model_validator(mode="before")
    @classmethod
    def _resolve_by_name_servers(cls, values: object) -> object:
        if isinstance(values, dict) and values.get("nameservers") and "resolve" not in values:
            return {**values, "resolve": "haproxy"}
        return values

    @model_validator(mode="after")
    def _check_stick_tables(self) -> "HAProxyConfig":
        if self.keep_stick_tables and self.external:
            raise ValueError("'keep_stick_tables' is for a managed HAProxy; give an external HAProxy a 'peers' section")
        return self

    @model_validator(mode="after")
    def _check_log_format(self) -> "HAProxyConfig":
        if not self.access_log and (self.log_format or any(each.log_format for each in self.services.values())):
            raise ValueError("'log_format' is for the access log: set 'access_log', too")
        return self

    @model_validator(mode="after")
    def _check_fragment(self) -> "HAProxyConfig":
        if not self.is_fragment:
            return self
        if self.external is not None and self.external.slots:
            unfit = self.model_fields_set - _FOR_SLOTS - ({"bind"} if not self.bind else set())
            unfit |= {name for service in self.services.values() for name in service.model_fields_set} - _FOR_SLOTS
            for name in sorted(unfit):
                raise ValueError(f"{name!r} has no effect with 'slots': write it into your own file")
        for name in _OPERATORS:
            if name in self.model_fields_set and getattr(self, name) != type(self).model_fields[name].get_default():
                raise ValueError(f"{name!r} belongs into your own files: a fragment has no such lines")
        for name, service in self.services.items():
            for option in ("hosts", "path_prefix", "frontend_lines"):
                if getattr(service, option) and not (service.bind or self.bind):
                    raise ValueError(
                        f"{option!r} of service {name!r} needs a 'bind': without one your own `use_backend` lines route"
                    )
        return self

    @model_validator(mode="after")
    def _check_tls(self) -> "HAProxyConfig":
        for name, service in self.services.items():
            binds = service.bind or self.bind
            there = {bind.address: bind.is_tls for bind in binds if bind.port == service.redirect_https is not None}
            if there and not any(there.values()):
                raise ValueError(
                    f"service {name!r} redirects to https on port {service.redirect_https}, but its bind"
                    f" {next(iter(there))} has no 'certificate': add one, or write another port"
                )
            if not binds or any(bind.is_tls for bind in binds):
                continue
            if service.redirect_https == HTTPS_PORT:
                raise ValueError(
                    f"service {name!r} redirects to https, but has no bind with a 'certificate': add one,"
                    " or write the port on which another program serves https: redirect_https = 8443"
                )
            if service.hsts:
                raise ValueError(f"'hsts' of service {name!r} has no effect without a bind with a 'certificate'")
        return self

    @model_validator(mode="after")
    def _check_backend_names(self) -> "HAProxyConfig":
        for header in self.sections:
            kind, _, name = header.partition(" ")
            if kind == "backend" and name in self.services:
                raise ValueError(f"section {header!r} has the name of a service: choose another name")
            if kind == "backend" and self.serves_by_name and ":" not in name:
                raise ValueError(
                    f"section {header!r} could have the name of a service, as none is configured: choose a name with a"
                    f" colon, such as 'backend table:{name}'"
                )
        return self

    @model_validator(mode="after")
    def _check_init_state(self) -> "HAProxyConfig":
        for name, service in self.services.items():
            if self.external and service.check and service.check.init_state == "down":
                raise ValueError(f"'init_state' of service {name!r} needs a managed HAProxy: without 'external'")
        return self

    @model_validator(mode="after")
    def _check_label_routes(self) -> "HAProxyConfig":
        if self.label_routes:
            if not self.bind:
                raise ValueError("'label_routes' needs a 'bind', on which the services with labels are served")
            labelled = {"label_routes": ServiceConfig(hosts=("label-routes.invalid",))}
            try:
                check_addresses(self.model_copy(update={"services": {**self.services, **labelled}}))
            except ValueError as error:
                raise ValueError(f"'label_routes' cannot use the instance's 'bind': {error}") from None
        return self

    @model_validator(mode="after")
    def _check_hold(self) -> "HAProxyConfig":
        for name, service in self.services.items():
            if service.hold and self.external:
                raise ValueError(f"'hold' of service {name!r} needs a managed HAProxy: without 'external'")
            client = TIME.parse(service.timeouts.client or self.timeouts.client)
            connect = TIME.parse(service.timeouts.connect or self.timeouts.connect)
            check_timeouts(name, service.hold, client=client, connect=connect)
        return self

    @model_validator(mode="after")
    def _check_addresses(self) -> "HAProxyConfig":
        check_addresses(self)
        claims = address_claims(self)
        for claim in claims:
            if self.stats and claim.address == self.stats.address:
                raise ValueError(f"service {claim.service!r} and 'stats' both bind {claim.address}")
        return self


def address_claims(config: HAProxyConfig) -> tuple[AddressClaim, ...]:
    """Return the claims of the configured services to their addresses."""
    return tuple(
        AddressClaim(
            service=name,
            address=bind.address,
            mode=service.mode,
            hosts=service.hosts,
            prefixes=service.path_prefix,
            accept_proxy=bind.accept_proxy,
        )
        for name, service in sorted(config.services.items())
        for bind in (config.bind if service.bind is None else service.bind)
    )


def check_addresses(config: HAProxyConfig) -> None:
    """Raise ValueError, with both services' names, if two services on one address exclude each other."""
    claims = address_claims(config)
    check_conflicts(claims)
    check_frontends(claims, config.services)
