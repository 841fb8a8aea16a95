"""The configuration: what each option means, its default, and which combinations make no sense."""

import re
from dataclasses import replace
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from discovery import Backend, Check, PluginConfig, RecordError, parse_address
from discovery.addresses import family_of
from discovery.fields import CHECK_TIME, WEIGHT, Duration, Fall, OneOrMany, Rise, ServiceName, Weight
from discovery.probes import CheckSettings
from discovery.registry import validate
from discovery_apache.dockerapi import EngineError, engine_url

APACHE_PORT = 80
STATUS_PAGE = "http://127.0.0.1/server-status?auto"
_ANSWERS = "100-499"

_GLOB = re.compile(r"[!-~]{1,255}")
_PATH = re.compile(r"/[!-~]{0,1023}")


def _valid(**fields: Any) -> Backend:
    """What a backend with these fields becomes, judged by the codec, so that nothing is configured in vain."""
    try:
        return validate(replace(Backend("s", "i", "h", 1), **fields))
    except RecordError as error:
        raise ValueError(str(error)) from None


def _one_per_family(hosts: tuple[str, ...]) -> tuple[str, ...]:
    families = {family_of(host) for host in hosts}
    if len(hosts) > 1 and (None in families or len(families) < len(hosts)):
        raise ValueError("give one address, or an IPv4 and an IPv6 address")
    return hosts


def _glob(value: str) -> str:
    if not _GLOB.fullmatch(value):
        raise ValueError(f"{value!r} is not a pattern such as web-*: 1-255 printable characters without spaces")
    return value


def _status_path(value: str) -> str:
    if not _PATH.fullmatch(value) or "#" in value:
        raise ValueError(f"{value!r} is not a path that begins with '/', such as /server-status?auto")
    return value


def _status_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and "#" not in value
    except ValueError:
        fits = False
    if not fits or not _GLOB.fullmatch(value):
        raise ValueError(f"{value!r} is not the URL of a status page, such as {STATUS_PAGE}")
    if "@" in parts.netloc:
        raise ValueError("the URL of the status page holds a user: allow this machine with 'Require local' instead")
    return value


def _on_or_off(value: object) -> object:
    return {} if value is True else None if value is False else value


def _check(value: object) -> object:
    """By HTTP, unless the table says otherwise."""
    if isinstance(value, bool):
        value = {} if value else {"type": "none"}
    return {"type": "http"} | value if isinstance(value, dict) else value


def _weight(value: object) -> object:
    try:
        return value if value == "load" else WEIGHT.parse(value)
    except ValueError as error:
        raise ValueError(f'{error}, nor "load"') from None


def _engine(value: str) -> str:
    try:
        return engine_url(value)
    except EngineError as error:
        raise ValueError(str(error)) from None


def _page(value: object) -> object:
    return {"page": value} if isinstance(value, str) else value


def _texts(value: object) -> object:
    """A number may stand where text is meant, such as a label's value."""
    if isinstance(value, dict):
        numbers = (int, float)
        return {key: str(item) if type(item) in numbers else item for key, item in value.items()}
    return value


def _place(value: object) -> object:
    """`HOST:PORT`, `:PORT` or a bare port."""
    if type(value) is int:
        return {"port": value}
    if not isinstance(value, str):
        return value
    if re.fullmatch(r":[0-9]{1,5}", value):
        return {"port": int(value[1:])}
    try:
        host, port = parse_address(value)
    except RecordError as error:
        raise ValueError(f"{error}; ':PORT' stands for this machine's own address") from None
    return {"host": host, "port": port}


Id = Annotated[str, AfterValidator(lambda value: _valid(id=value).id)]
Host = Annotated[str, AfterValidator(lambda value: _valid(host=value).host)]
Labels = Annotated[
    dict[str, str], BeforeValidator(_texts), AfterValidator(lambda value: dict(_valid(labels=value).labels))
]
Port = Annotated[int, Field(ge=1, le=65535)]
WeightOrLoad = Annotated[Weight | Literal["load"], BeforeValidator(_weight)]
Glob = Annotated[str, AfterValidator(_glob)]
Globs = OneOrMany[Glob]


Checks = Annotated[CheckSettings, BeforeValidator(_check, json_schema_input_type=bool | CheckSettings)]


def checks_of(
    settings: CheckSettings, *, path: str | None = None, interval: float | None = None, timeout: float | None = None
) -> tuple[Check, ...]:
    """The configured check, in which the arguments replace the settings. Raises ValueError if it is not valid.

    Where nobody has named a path, `/` need not exist: any answer will do that is no fault of the server's own.
    """
    if settings.type == "http" and path is None and not settings.model_fields_set & {"path", "status"}:
        settings = settings.model_copy(update={"status": _ANSWERS})
    return settings.checks(path=path, interval=interval, timeout=timeout)


class StatusSettings(PluginConfig):
    """A page of mod_status, and how often it is read."""

    page: str
    interval: Annotated[float, CHECK_TIME] = 2.0
    timeout: Annotated[float, Duration(0.1, 60)] = 2.0
    rise: Rise = 2
    fall: Fall = 2
    on_failure: Literal["withdraw", "drain"] = "withdraw"
    weight_interval: Annotated[float, Duration(most=3600, zero="no limit")] = 10.0
    """With weight = "load": the least time between two changes of the announced weight."""


class StatusPath(StatusSettings):
    """A status page of a container: a path, asked for at the backend's own address."""

    page: Annotated[str, AfterValidator(_status_path)]


class StatusUrl(StatusSettings):
    """A status page on this machine."""

    page: Annotated[str, AfterValidator(_status_url)] = STATUS_PAGE
    verify: bool = True
    """Whether the certificate of an https page must be valid."""


class Place(PluginConfig):
    """An address to announce; no host stands for this machine's own address."""

    host: Host | None = None
    port: Port = APACHE_PORT


class DockerConfig(PluginConfig):
    """Which containers are Apache's, and what of them is registered."""

    url: Annotated[str, AfterValidator(_engine)] | None = None
    """The engine: `unix:///run/docker.sock`, `tcp://HOST:PORT`. None: DOCKER_HOST, then Docker's own default."""
    names: Globs = ()
    """Containers by name (or by id): a container is taken if it matches any of `names`, `images` and `labelled`."""
    images: Globs = ()
    """Containers by image: without a `/` the repository's last part is compared; with a `:` the tag, too."""
    labelled: Globs = ()
    """Containers by label: `key` or `key=value`."""
    port: OneOrMany[Port] | None = None
    """Apache's ports within the containers. None: 80, or else the only one that is published."""
    service: ServiceName | None = None
    """The service of every container, whatever its labels say."""
    id: Id | None = None
    """The id of the backend, for a lone container."""
    labels: Labels = Field(default_factory=dict)
    """Labels of every backend; a container cannot change them."""
    conventions: bool = True
    """Whether SERVICE_* labels and environment variables of containers are obeyed."""
    network: str | None = None
    """Announce the containers' own address on this Docker network."""
    status: Annotated[StatusPath | None, BeforeValidator(_page, json_schema_input_type=str | StatusPath | None)] = None
    """Where mod_status is on the containers, such as `/server-status?auto`."""
    on_stop: Literal["withdraw", "drain"] = "withdraw"
    """Whether a backend is withdrawn or drains when `docker stop` begins. After the stop it is withdrawn."""
    use_health: bool = True
    """Whether Docker's own health check counts, where an image has one."""

    @property
    def selects(self) -> bool:
        """Whether the settings select containers."""
        return bool(self.names or self.images or self.labelled)


class HttpdConfig(PluginConfig):
    """An Apache httpd on this machine, without Docker, registered while its status page answers."""

    service: ServiceName | None = None
    """None: the name of its table."""
    id: Id | None = None
    """None: `<host name>:<name of its table>:<port>`."""
    status: Annotated[StatusUrl, BeforeValidator(_page, json_schema_input_type=str | StatusUrl)] = StatusUrl()
    address: Annotated[Place, BeforeValidator(_place, json_schema_input_type=str | int | Place)] = Place()
    """The announced address: `HOST:PORT`, or `:PORT` on this machine's own address."""
    weight: WeightOrLoad | None = None
    labels: Labels = Field(default_factory=dict)
    check: Checks = CheckSettings(type="none")
    """A check of the announced address, besides the status page."""


class ApacheConfig(PluginConfig):
    """Everything that one provider finds."""

    address: Annotated[OneOrMany[Host], AfterValidator(_one_per_family)] = ()
    """The address announced for a port on all addresses of this machine. Not given: the primary address."""
    loopback: bool = False
    """Whether a port that is bound to a loopback address is announced there."""
    services: Globs | None = None
    """The services that containers may be registered for. None: any."""
    networks: Globs = ()
    """The Docker networks that a container may choose to be announced on."""
    check: Checks = CheckSettings(type="http")
    """The check of containers. Not given: `GET /`, or with `docker.status` the status page alone."""
    weight: WeightOrLoad = 1
    """A number, or `load`: by the number of idle workers on the status page."""
    docker: Annotated[
        DockerConfig | None, BeforeValidator(_on_or_off, json_schema_input_type=bool | DockerConfig | None)
    ] = Field(default_factory=DockerConfig)
    httpd: dict[str, HttpdConfig] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _docker_unless_only_local(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("httpd") and "docker" not in data:
            return {**data, "docker": False}
        return data

    @field_validator("httpd")
    @classmethod
    def _names(cls, servers: dict[str, HttpdConfig]) -> dict[str, HttpdConfig]:
        for name in servers:
            _valid(service=name)
        return servers

    @model_validator(mode="after")
    def _possible(self) -> "ApacheConfig":
        if self.docker is None and not self.httpd:
            raise ValueError("there is nothing to register: 'docker' is off, and there is no local server in 'httpd'")
        if self.weight == "load" and self.docker is not None and self.docker.status is None:
            raise ValueError('weight = "load" takes the path of mod_status: set docker.status')
        return self
