"""The options of the plugin: their types, meanings and defaults."""

import re
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from discovery import Backend, Check, PluginConfig, RecordError
from discovery.addresses import family_of, is_dynamic
from discovery.fields import OneOrMany, OwnAddress, Port, ServiceName, Weight
from discovery.probes import CheckSettings
from discovery.registry import validate
from discovery_docker.naming import follows_labels, valid_source
from discovery_docker.sockets import EngineError, checked_url

_ANSWERS = "100-499"
"""The passing status codes of a check whose path nobody has named: `/` need not exist, so 404 passes."""

_PATTERN = re.compile(r"[!-~]{1,255}")


def validated(**fields: Any) -> Backend:
    """Return a backend with these fields, validated as the registry validates records. Raises ValueError."""
    try:
        return validate(replace(Backend("s", "i", "h", 1), **fields))
    except RecordError as error:
        raise ValueError(str(error)) from None


def _one_per_family(sources: tuple[str, ...]) -> tuple[str, ...]:
    hosts = [source for source in sources if not is_dynamic(source)]
    families = {family_of(host) for host in hosts}
    if len(sources) > 1 and (None in families or len(families) < len(hosts)):
        raise ValueError("give one address, or an IPv4 and an IPv6 address")
    return sources


def _pattern(value: str) -> str:
    if not _PATTERN.fullmatch(value):
        raise ValueError(f"{value!r} is not a pattern such as web-*: 1-255 printable characters without spaces")
    return value


def _check(value: object) -> object:
    """Return the check as a table; the default type is HTTP."""
    if isinstance(value, bool):
        value = {} if value else {"type": "none"}
    return {"type": "http"} | value if isinstance(value, dict) else value


def _engine(value: str) -> str:
    try:
        return checked_url(value)
    except EngineError as error:
        raise ValueError(str(error)) from None


def _numbers_as_text(value: object) -> object:
    """Return a table with numbers as text, since the value of a label may be written as a number."""
    if isinstance(value, dict):
        numbers = (int, float)
        return {key: str(item) if type(item) in numbers else item for key, item in value.items()}
    return value


Id = Annotated[str, AfterValidator(lambda value: validated(id=value).id)]
Host = Annotated[str, AfterValidator(lambda value: validated(host=value).host)]
Labels = Annotated[
    dict[str, str],
    BeforeValidator(_numbers_as_text),
    AfterValidator(lambda value: dict(validated(labels=value).labels)),
]
Pattern = Annotated[str, AfterValidator(_pattern)]
Patterns = OneOrMany[Pattern]
NameSources = Annotated[OneOrMany[Annotated[str, AfterValidator(valid_source)]], Field(min_length=1)]
Checks = Annotated[CheckSettings, BeforeValidator(_check, json_schema_input_type=bool | CheckSettings)]


def checks_of(
    settings: CheckSettings, *, path: str | None = None, interval: float | None = None, timeout: float | None = None
) -> tuple[Check, ...]:
    """Return the configured check with the given arguments in place of the settings; times are seconds.

    If neither the configuration nor the container names a path, every status below 500 passes, since `/` need not
    exist. Raises ValueError if the check is not valid.
    """
    if settings.type == "http" and path is None and not settings.model_fields_set & {"path", "status"}:
        settings = settings.model_copy(update={"status": _ANSWERS})
    return settings.checks(path=path, interval=interval, timeout=timeout)


class MachineOptions(PluginConfig):
    """The options that hold for everything on this machine: announced addresses, what containers may choose, checks."""

    address: Annotated[OneOrMany[OwnAddress], AfterValidator(_one_per_family)] = ()
    """The announced address of a port on all addresses of this machine: an address, `interface:eth1`,
    `network:10.0.0.0/8` or `metadata`. Not given: DISCOVERY_ADDRESS, COREOS_PRIVATE_IPV4, or the primary address."""
    loopback: bool = False
    """Announce a port that is bound to a loopback address at that address."""
    services: Patterns | None = None
    """The services that a container may be registered for. None: every service."""
    networks: Patterns = ()
    """The Docker networks whose addresses may be announced at a container's request."""
    check: Checks = CheckSettings(type="none")
    """The check of containers, besides Docker's own."""


class ContainerOptions(PluginConfig):
    """The selection of containers, and the registration of their ports."""

    url: Annotated[str, AfterValidator(_engine)] | None = None
    """The engine: `unix:///run/docker.sock`, `tcp://HOST:PORT`, or by the word `docker` or `podman` its socket on this
    machine. None: DOCKER_HOST, then the first socket that this user may use, Docker's before Podman's, and Podman's
    only if Docker is not installed."""
    names: Patterns = ()
    """Containers by name or id. A match with `names`, `images` or `labelled` selects a container."""
    images: Patterns = ()
    """Containers by image. A pattern without `/` is compared with the repository's last part; `:` adds the tag."""
    labelled: Patterns = ()
    """Containers by label: `key` or `key=value`."""
    port: OneOrMany[Port] | None = None
    """The ports within the containers. None: every published port."""
    service: ServiceName | None = None
    """The service of every container, whatever the container's labels request."""
    service_from: NameSources = ("compose", "swarm", "nomad", "podman", "image", "container")
    """The service of a container without SERVICE_NAME: the first that there is."""
    id: Id | None = None
    """The id of the backend, for a single container."""
    labels: Labels = Field(default_factory=dict)
    """Labels of every backend. A container cannot change these labels."""
    conventions: bool = True
    """Follow the SERVICE_* labels and environment variables of containers, and their labels `discovery.*`."""
    explicit: bool = False
    """Register only containers, and of these only ports, that request a name by SERVICE_NAME or SERVICE_<port>_NAME."""
    network: str | None = None
    """Announce the containers' own addresses on this Docker network."""
    internal: bool = False
    """Announce the containers' own addresses: those on `network`, on the default bridge, or on their only network."""
    on_stop: Literal["withdraw", "drain"] = "withdraw"
    """The action when `docker stop` begins. At the end of the stop the backend is withdrawn in any case."""
    use_health: bool = True
    """Include the result of Docker's own health check, for images with a health check."""

    @model_validator(mode="after")
    def _names_to_be_explicit(self) -> Self:
        if self.explicit and not self.conventions:
            raise ValueError(
                "'explicit' needs 'conventions = true': without conventions the plugin does not read SERVICE_NAME"
            )
        return self

    @property
    def name_sources(self) -> tuple[str, ...]:
        """The sources of a service's name. Without `conventions` labels count only if `service_from` is given."""
        if self.conventions or "service_from" in self.model_fields_set:
            return self.service_from
        return tuple(source for source in self.service_from if not follows_labels(source))


class DockerConfig(ContainerOptions, MachineOptions):
    """The options of a provider `docker`."""

    weight: Weight = 1
    """The weight of every backend."""
