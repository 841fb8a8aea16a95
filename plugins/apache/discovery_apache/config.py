"""The configuration: what each option means, its default, and which combinations make no sense."""

import ipaddress
import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from discovery.codec import parse_address, split_key, validate
from discovery.errors import RecordError
from discovery.model import Backend
from discovery.plugin import PluginConfig
from discovery.probes import CheckSettings

APACHE_PORT = 80
APACHE_IMAGES = ("httpd", "apache", "apache2", "httpd-2*", "php:*apache*")
STATUS_PAGE = "http://127.0.0.1/server-status?auto"

_GLOB = re.compile(r"[!-~]{1,255}")
_PATH = re.compile(r"/[!-~]{0,1023}")


def _service(value: str) -> str:
    _valid(Backend(value, "id", "host", 1))
    return value


def _id(value: str) -> str:
    _valid(Backend("service", value, "host", 1))
    return value


def _labels(value: dict[str, str]) -> dict[str, str]:
    _valid(Backend("service", "id", "host", 1, labels=value))
    return value


def _host(value: str) -> str:
    return _valid(Backend("service", "id", value, 1)).host


def _valid(backend: Backend) -> Backend:
    try:
        split_key(f"{backend.service}/{backend.id}")
        return validate(backend)
    except RecordError as error:
        raise ValueError(str(error)) from None


def _one_per_family(hosts: tuple[str, ...]) -> tuple[str, ...]:
    families = [family_of(host) for host in hosts]
    if len(hosts) > 1 and (None in families or len(set(families)) < len(families)):
        raise ValueError("give one address, or an IPv4 and an IPv6 address")
    return hosts


def family_of(host: str) -> Literal[4, 6] | None:
    """4 or 6 for an IP address, None for a host name."""
    try:
        return 4 if ipaddress.ip_address(host).version == 4 else 6
    except ValueError:
        return None


def _glob(value: str) -> str:
    if not _GLOB.fullmatch(value):
        raise ValueError(f"{value!r} is not a pattern such as web-*: 1-255 printable characters without spaces")
    return value


def _path(value: str) -> str:
    if not _PATH.fullmatch(value) or "#" in value:
        raise ValueError(f"{value!r} is not a path that begins with '/', such as /server-status?auto")
    return value


def _status_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not parts.fragment
    except ValueError:
        fits = False
    if not fits or not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError(f"{value!r} is not the URL of a status page, such as {STATUS_PAGE}")
    if "@" in parts.netloc:
        raise ValueError("the URL of the status page holds a user, which Apache's 'Require local' makes needless")
    return value


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


def _switch(value: object) -> object:
    return {} if value is True else None if value is False else value


def _text(value: object) -> object:
    if isinstance(value, dict):
        return {
            key: str(item) if isinstance(item, int | float) and not isinstance(item, bool) else item
            for key, item in value.items()
        }
    return value


def _place(value: object) -> object:
    """`HOST:PORT`, `:PORT` or a bare port."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = f":{value}"
    if isinstance(value, str):
        try:
            host, port = parse_address(f"host{value}" if value.startswith(":") and value.count(":") == 1 else value)
        except RecordError as error:
            raise ValueError(str(error)) from None
        return {"host": None if value.startswith(":") else host, "port": port}
    return value


ServiceName = Annotated[str, AfterValidator(_service)]
Id = Annotated[str, AfterValidator(_id)]
Host = Annotated[str, AfterValidator(_host)]
Port = Annotated[int, Field(ge=1, le=65535)]
Labels = Annotated[dict[str, str], BeforeValidator(_text), AfterValidator(_labels)]
Glob = Annotated[str, AfterValidator(_glob)]
Globs = Annotated[tuple[Glob, ...], BeforeValidator(_listed, json_schema_input_type=str | list[str])]
Path = Annotated[str, AfterValidator(_path)]
Weight = Annotated[int, Field(ge=0, le=256)] | Literal["load"]
Checks = Annotated[CheckSettings | None, BeforeValidator(_switch, json_schema_input_type=bool | CheckSettings | None)]


class Place(PluginConfig):
    """An address to announce; no host stands for this machine's own address."""

    host: Host | None = None
    port: Port = APACHE_PORT


class DockerConfig(PluginConfig):
    """Which containers are Apache's, and what of them is registered."""

    url: str | None = None
    """The engine: `unix:///run/docker.sock`, `tcp://HOST:PORT`. None: DOCKER_HOST, then Docker's own default."""
    names: Globs = ()
    """Containers by name (or by id): a container is taken if it matches any of `names`, `images` and `labelled`."""
    images: Globs = ()
    """Containers by image: without a `/` the repository's last part is compared; with a `:` the tag, too."""
    labelled: Globs = ()
    """Containers by label: `key` or `key=value`."""
    port: Annotated[
        tuple[Port, ...] | None, BeforeValidator(lambda value: value if value is None else _listed(value))
    ] = None
    """Apache's ports within the containers. None: 80, or else the only one that is published."""
    service: ServiceName | None = None
    """The service of every container, whatever its labels say."""
    id: Id | None = None
    """The id of the backend, for a lone container."""
    labels: Labels = Field(default_factory=dict)
    """Labels of every backend; a container cannot change them."""
    conventions: bool = True
    """Whether SERVICE_* labels and environment variables of containers are heeded."""
    network: str | None = None
    """Announce the containers' own address on this Docker network."""
    status: Path | None = None
    """The path of mod_status on the containers, such as `/server-status?auto`."""
    on_stop: Literal["withdraw", "drain"] = "withdraw"
    """What becomes of a backend when `docker stop` begins; what drains is withdrawn when it has stopped."""
    use_health: bool = True
    """Whether Docker's own health check counts, where an image has one."""

    @property
    def selects(self) -> bool:
        """Whether it says which containers are meant."""
        return bool(self.names or self.images or self.labelled)


class HttpdConfig(PluginConfig):
    """An Apache httpd on this machine, without Docker, registered while its status page answers."""

    service: ServiceName | None = None
    """None: the name of its table."""
    id: Id | None = None
    """None: `<host name>:<name of its table>:<port>`."""
    status: Annotated[str, AfterValidator(_status_url)] = STATUS_PAGE
    address: Annotated[Place, BeforeValidator(_place, json_schema_input_type=str | int | Place)] = Place()
    """What is announced: `HOST:PORT`, or `:PORT` on this machine's own address."""
    weight: Weight | None = None
    labels: Labels = Field(default_factory=dict)
    check: Checks = None
    """A check of the announced address, besides the status page."""


class ApacheConfig(PluginConfig):
    """Everything that one provider finds."""

    address: Annotated[
        tuple[Host, ...],
        BeforeValidator(_listed, json_schema_input_type=str | list[str]),
        AfterValidator(_one_per_family),
    ] = ()
    """What is announced for a port on all addresses of this machine. None: its primary address."""
    loopback: bool = False
    """Whether a port that is bound to a loopback address is announced there."""
    services: Globs | None = None
    """The services that containers may be registered for. None: any."""
    networks: Globs = ()
    """The Docker networks that a container may choose to be announced on."""
    check: Checks = CheckSettings()
    weight: Weight = 1
    """`load` follows the idle workers that the status page tells of."""
    docker: Annotated[
        DockerConfig | None, BeforeValidator(_switch, json_schema_input_type=bool | DockerConfig | None)
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
            try:
                _service(name)
            except ValueError as error:
                raise ValueError(f"a name of a local server: {error}") from None
        return servers

    @model_validator(mode="after")
    def _possible(self) -> "ApacheConfig":
        if self.docker is None and not self.httpd:
            raise ValueError("there is nothing to register: 'docker' is off, and there is no local server in 'httpd'")
        if self.weight == "load" and self.docker is not None and self.docker.status is None:
            raise ValueError('weight = "load" takes the path of mod_status: set docker.status')
        return self
