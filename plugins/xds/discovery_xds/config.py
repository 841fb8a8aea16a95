"""Options of the consumer `xds`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from discovery import PluginConfig
from discovery.fields import (
    Bind,
    BindAddress,
    Duration,
    Fall,
    HostHeader,
    Hosts,
    HttpStatuses,
    LabelName,
    Labels,
    Matching,
    OneOrMany,
    Port,
    Prefixes,
    RequestTarget,
    Rise,
    ServiceName,
    bind_tables,
    check_kind,
    service_name,
)
from discovery.routing import AddressClaim, check_conflicts

DEFAULT_LISTEN = "127.0.0.1:18000"
"""Address of the xDS port: the port of the examples in Envoy's documentation, on this machine alone."""
_MOST_CHARACTERS = 400
"""Characters to send or to expect in a check, as in the plugin haproxy."""
_OF_HAPROXY = ("accept_proxy", "options")
"""Keys of a bind that the plugin haproxy alone has."""

AbsolutePath = Annotated[Path, AfterValidator(Path.absolute)]
Balance = Annotated[
    str,
    Matching(
        r"roundrobin|static-rr|leastconn|random|source|uri|url_param [\w.-]{1,100}|hdr\([\w-]{1,100}\)",
        "a balance algorithm of Envoy: write roundrobin, static-rr, leastconn, random, source, uri, url_param NAME or"
        " hdr(NAME)",
    ),
]
Method = Annotated[str, Matching(r"GET|HEAD|POST|PUT|DELETE|OPTIONS|TRACE|PATCH", "an HTTP method")]
CertificateName = Annotated[str, Matching(r"[A-Za-z0-9_.:-]{1,253}", "the name or the address in a certificate")]
Conversation = Annotated[str, Field(min_length=1, max_length=_MOST_CHARACTERS)]


class BindConfig(PluginConfig):
    """An address on which Envoy listens, and TLS there. The paths are those of files on Envoy's machine."""

    address: Bind
    certificate: OneOrMany[AbsolutePath] = ()
    """PEM files, each with a certificate, its chain and its key. Makes the bind TLS."""
    client_ca: AbsolutePath | None = None
    """PEM file with the CAs of the clients' certificates. With it a client needs a certificate (mTLS)."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_haproxys(cls, values: object) -> object:
        if isinstance(values, dict):
            for name in _OF_HAPROXY:
                if name in values:
                    raise ValueError(f"{name!r} of a bind is an option of the consumer 'haproxy': remove the option")
        return values

    @model_validator(mode="after")
    def _check_tls(self) -> "BindConfig":
        if self.client_ca and not self.certificate:
            raise ValueError("'client_ca' is for TLS: give the bind a 'certificate', too")
        return self


Binds = Annotated[
    tuple[BindConfig, ...],
    BeforeValidator(bind_tables, json_schema_input_type=str | BindConfig | list[str | BindConfig]),
]


class CheckConfig(PluginConfig):
    """A health check by Envoy: a TCP connection, with `expect` an answer on it, or with `path` an HTTP request."""

    path: RequestTarget | None = None
    method: Method = "GET"
    host: HostHeader = "localhost"
    status: HttpStatuses = "200-399"
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
        check_kind(path=self.path, send=self.send, expect=self.expect, given=self.model_fields_set)
        return self


def _check(value: object) -> object:
    return {} if value is True else None if value is False else value


Check = Annotated[CheckConfig | None, BeforeValidator(_check, json_schema_input_type=bool | CheckConfig)]
"""A check, or None for no check; `true` is the check with the defaults."""


class BackendTlsConfig(PluginConfig):
    """TLS from Envoy to the backends, whose certificates are verified. The paths are those of files on Envoy's machine.

    Checks use TLS, too.
    """

    ca: AbsolutePath
    """PEM file with the CAs of the backends' certificates."""
    name: CertificateName
    """Host name or address that the certificate of each backend must have. A host name is sent in the handshake."""
    certificate: AbsolutePath | None = None
    """PEM file with Envoy's own certificate, its chain and its key, for backends that require one (mTLS)."""


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
    backend_tls: BackendTlsConfig | None = None
    """Speak TLS to the backends. Default: no TLS."""

    @model_validator(mode="after")
    def _check_mode(self) -> "ServiceConfig":
        if self.mode == "tcp":
            for name in ("hosts", "path_prefix", "http2"):
                if getattr(self, name):
                    raise ValueError(f'{name!r} needs mode = "http"; in tcp mode Envoy sees no HTTP')
            if self.balance.startswith(("uri", "url_param", "hdr")):
                raise ValueError(f'balance {self.balance!r} needs mode = "http"; in tcp mode Envoy sees no HTTP')
        return self


class ListenerTls(NamedTuple):
    """TLS of a listener of Envoy: paths on Envoy's machine. Without certificates the listener has no TLS."""

    certificates: tuple[str, ...] = ()
    client_ca: str | None = None


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
    bind: Binds = (BindConfig(address="127.0.0.1:8080"),)
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
        of_service: dict[str, tuple[str, Path | None]] = {}
        for name, each in self.services.items():
            for bind in each.bind or self.bind:
                first, client_ca = of_service.setdefault(bind.address, (name, bind.client_ca))
                if client_ca != bind.client_ca:
                    raise ValueError(
                        f"services {first!r} and {name!r} share {bind.address}, but not the same 'client_ca':"
                        " give both the same, or a 'bind' of their own"
                    )
        return self

    @property
    def claims(self) -> tuple[AddressClaim, ...]:
        """Claims of the configured services to addresses."""
        return tuple(
            AddressClaim(name, bind.address, each.mode, each.hosts, each.path_prefix)
            for name, each in self.services.items()
            for bind in each.bind or self.bind
        )

    @property
    def paths_of_envoy(self) -> tuple[str, ...]:
        """Paths of the files of TLS that Envoy reads."""
        listeners = (path for tls in self.listeners.values() for path in (*tls.certificates, tls.client_ca))
        backends = (each.backend_tls for each in self.services.values() if each.backend_tls is not None)
        clusters = (path for tls in backends for path in (tls.ca, tls.certificate))
        return tuple(sorted({str(path) for path in (*listeners, *clusters) if path is not None}))

    @property
    def listeners(self) -> Mapping[str, "ListenerTls"]:
        """TLS of each address on which Envoy listens: services on one address share their certificates."""
        found: dict[str, ListenerTls] = {}
        lists = [each.bind or self.bind for each in self.services.values()] or [self.bind]
        for bind in (bind for binds in lists for bind in binds):
            known = found.get(bind.address, ListenerTls())
            certificates = dict.fromkeys((*known.certificates, *map(str, bind.certificate)))
            client_ca = str(bind.client_ca) if bind.client_ca else known.client_ca
            found[bind.address] = ListenerTls(tuple(certificates), client_ca)
        return found
