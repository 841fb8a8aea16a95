"""The core's keys of an instance's table in the configuration. The other keys are the plugin's."""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, ValidationInfo, field_validator

from discovery.errors import RecordError
from discovery.fields import TTL, Duration, Labels, OneOrMany, format_value, is_service_name
from discovery.fields.parsed import Parsed
from discovery.plugin import PluginConfig
from discovery.validity import validate_owner


def _owner(text: str) -> str:
    try:
        return validate_owner(text)
    except RecordError as error:
        raise ValueError(str(error)) from None


DEFAULT_REGISTRY = "etcd://127.0.0.1:2379"
"""The registry of a configuration that names none."""


class RegistrySettings(PluginConfig):
    """The `[registry]` table. All but `url` can stand in the URL as well."""

    url: str = Field(
        DEFAULT_REGISTRY, description="etcd://HOST:PORT[,...][/PREFIX], etcds:// for TLS, file:///DIRECTORY"
    )
    username: str | None = Field(None, description="User name, if the registry asks for one")
    password_file: Path | None = Field(None, description="File that holds the password")
    ca: Path | None = Field(None, description="Certificate authority that signed the registry's certificate")
    cert: Path | None = Field(None, description="Our certificate, for mutual TLS")
    key: Path | None = Field(None, description="Our certificate's key")
    server_name: str | None = Field(None, description="Name to expect in the certificates, if it is another one")


class InstanceTable(PluginConfig):
    """The keys of every instance's table that the core reads; the others are the plugin's."""

    plugin: str = Field(description="Name of the plugin, as `discovery plugins` lists it, or the path of a .py file")


YIELDS = ("filter",)
"""Keys of the core that a plugin's option of the same name has precedence over: the key then is the plugin's."""


def option_names(model: type[BaseModel]) -> set[str]:
    """Return the keys of a table that a configuration type reads."""
    return {field.alias or name for name, field in model.model_fields.items()}


class _ServicePattern(Parsed):
    __slots__ = ()

    def parse(self, value: object) -> str:
        """Return the pattern. Raises ValueError if no name of a service can match it."""
        literal = _WILDCARD.sub("", value) if isinstance(value, str) else None
        if not isinstance(value, str) or literal is None or not (is_service_name(value) or _may_match(value, literal)):
            raise ValueError(
                f"{format_value(value)} can match no service: write a name of letters, digits, '_', '.' and '-',"
                " with the wildcards *, ? and [...]"
            )
        return value

    def json_schema(self) -> dict[str, Any]:
        return {"type": "string", "examples": ["web", "web-*"]}


_WILDCARD = re.compile(r"\*|\?|\[!?\]?[^]]*\]")
"""A wildcard as `fnmatch` reads it: a bracket that nothing closes stands for itself, which no name of a service has."""


def _may_match(pattern: str, literal: str) -> bool:
    """Return True if names of services may match `pattern`, of which `literal` is no wildcard."""
    return literal != pattern and re.fullmatch(r"[A-Za-z0-9_.-]{0,128}", literal) is not None and pattern[0] not in ".-"


def _not_empty(patterns: tuple[str, ...]) -> tuple[str, ...]:
    if not patterns:
        raise ValueError("the list is empty: name services, or leave the key out for every service")
    return patterns


class Filter(PluginConfig):
    """The services and backends that a consumer gets. A filter without a key selects all of them."""

    services: Annotated[OneOrMany[Annotated[str, _ServicePattern()]], AfterValidator(_not_empty)] = Field(
        (), description="Names of services, with the wildcards `*`, `?` and `[...]`"
    )
    labels: Labels = Field(
        default_factory=dict, description="Labels that a backend has: a value, or a list of values of which any will do"
    )


class ConsumerTable(InstanceTable):
    """The core's part of a `[consumers.NAME]` table."""

    quiet_period: Annotated[float, Duration(most=60, zero="no wait")] = Field(
        0.0, description="How long to wait after a change, so that those which follow closely are applied with it"
    )
    filter: Filter | None = Field(
        None, description="Services and backends that the consumer is told of; for a plugin without such an option"
    )


class ProviderTable(InstanceTable):
    """The core's part of a `[providers.NAME]` table."""

    ttl: Annotated[float, TTL] = Field(10.0, description="How long what is registered outlives a machine that died")
    owner: Annotated[str, AfterValidator(_owner)] | None = Field(
        None,
        description="Who registers; by default this machine, user, run directory and instance."
        " No two that live may share it",
    )
    force: bool = Field(False, description="Take each key over, once, from another live owner")
    takeover: bool = Field(False, description="Ask another live owner, once, to hand each key over")

    @field_validator("takeover")
    @classmethod
    def _asks_or_forces(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("force"):
            raise ValueError("a key is either asked for or taken by force: leave out 'takeover' or 'force'")
        return value
