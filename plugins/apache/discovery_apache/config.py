"""The options of the plugin: their types, meanings and defaults, and the combinations that are refused."""

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from discovery import PluginConfig, RecordError, parse_address
from discovery.fields import CHECK_TIME, WEIGHT, Duration, Fall, OneOrMany, Port, Rise, ServiceName, Weight
from discovery.probes import CheckSettings
from discovery_apache.deprecated import moved
from discovery_docker.api import Checks, ContainerOptions, Host, Id, Labels, MachineOptions, NameSources, validated

APACHE_PORT = 80
"""The port of Apache where the configuration names none: the port of Debian's package and of the official image."""
STATUS_PAGE = "http://127.0.0.1/server-status?auto"

_URL = re.compile(r"[!-~]{1,255}")
_PATH = re.compile(r"/[!-~]{0,1023}")


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
    if not fits or not _URL.fullmatch(value):
        raise ValueError(f"{value!r} is not the URL of a status page, such as {STATUS_PAGE}")
    if "@" in parts.netloc:
        raise ValueError(
            "the URL of the status page holds a user name: allow this machine with 'Require local' instead"
        )
    return value


def _table_or_none(value: object) -> object:
    return {} if value is True else None if value is False else value


def _weight(value: object) -> object:
    try:
        return value if value == "load" else WEIGHT.parse(value)
    except ValueError as error:
        raise ValueError(f'{error}, nor "load"') from None


def _status_table(value: object) -> object:
    return {"page": value} if isinstance(value, str) else value


def _announced_address(value: object) -> object:
    """Return `HOST:PORT`, `:PORT` or a bare port as a table."""
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


WeightOrLoad = Annotated[Weight | Literal["load"], BeforeValidator(_weight)]


class StatusSettings(PluginConfig):
    """A page of mod_status, and the check that reads the page."""

    page: str
    interval: Annotated[float, CHECK_TIME] = 2.0
    timeout: Annotated[float, Duration(0.1, 60)] = 2.0
    rise: Rise = 2
    fall: Fall = 2
    on_failure: Literal["withdraw", "drain"] = "withdraw"
    weight_interval: Annotated[float, Duration(most=3600, zero="no limit")] = 10.0
    """With weight = "load": the minimum time between two changes of the announced weight."""


class StatusPath(StatusSettings):
    """A status page of a container: a path at the backend's own address."""

    page: Annotated[str, AfterValidator(_status_path)]


class StatusUrl(StatusSettings):
    """A status page on this machine."""

    page: Annotated[str, AfterValidator(_status_url)] = STATUS_PAGE
    verify: bool = True
    """Require a valid certificate of an https page."""


class AnnouncedAddress(PluginConfig):
    """An announced address. Without a host the primary address of this machine is announced."""

    host: Host | None = None
    port: Port = APACHE_PORT


class DockerConfig(ContainerOptions):
    """The selection of containers, and the registration of their ports."""

    port: OneOrMany[Port] | None = None
    """Apache's ports within the containers. None: port 80, or else the only published port."""
    service_from: NameSources = ("image",)
    """The service of a container without SERVICE_NAME: the first that there is."""
    status: Annotated[
        StatusPath | None, BeforeValidator(_status_table, json_schema_input_type=str | StatusPath | None)
    ] = None
    """The path of mod_status on the containers, such as `/server-status?auto`."""


class HttpdConfig(PluginConfig):
    """An Apache httpd on this machine, without Docker. The server is registered while the status page answers."""

    service: ServiceName | None = None
    """None: the name of the table."""
    id: Id | None = None
    """None: `<host name>:<name of the table>:<port>`."""
    status: Annotated[StatusUrl, BeforeValidator(_status_table, json_schema_input_type=str | StatusUrl)] = StatusUrl()
    address: Annotated[
        AnnouncedAddress, BeforeValidator(_announced_address, json_schema_input_type=str | int | AnnouncedAddress)
    ] = AnnouncedAddress()
    """The announced address: `HOST:PORT`, or `:PORT` for the primary address of this machine."""
    weight: WeightOrLoad | None = None
    labels: Labels = Field(default_factory=dict)
    check: Checks = CheckSettings(type="none")
    """A check of the announced address, in addition to the status page."""


class ApacheConfig(MachineOptions):
    """The options of a provider."""

    check: Checks = CheckSettings(type="http")
    """The check of containers. Not given: `GET /`, or with `docker.status` the status page alone."""
    weight: WeightOrLoad = 1
    """A number, or `load`: the weight follows the idle workers on the status page."""
    docker: Annotated[
        DockerConfig | None, BeforeValidator(_table_or_none, json_schema_input_type=bool | DockerConfig | None)
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
            validated(service=name)
        return servers

    @model_validator(mode="after")
    def _refuse_impossible(self) -> "ApacheConfig":
        if self.docker is None and not self.httpd:
            raise ValueError("there is nothing to register: 'docker' is off, and 'httpd' has no local server")
        if self.weight == "load" and self.docker is not None and self.docker.status is None:
            raise ValueError('weight = "load" requires the path of mod_status: set docker.status')
        return self


__getattr__ = moved("discovery_apache.config", "discovery_docker.config")
