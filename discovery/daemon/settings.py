"""The settings of a daemon: the keys of the configuration file, what may override them, and the result."""

import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, Field

from discovery.admin.access import AccessSettings, Metrics
from discovery.fields import BindAddress, Networks, OneOrMany, OwnAddress
from discovery.fleet.place import valid_prefix
from discovery.fleet.settings import OWN_MACHINE, FleetSettings
from discovery.hosting.tables import RegistrySettings
from discovery.plugin import PluginConfig
from discovery.registry import RegistryURL

OFF = "off"
DEFAULT_ADMIN = "127.0.0.1:9901"

INSTANCES = ("consumers", "providers")
"""The keys of the file that say what `discovery run` runs; every other command does without them."""

VARIABLES: Mapping[str, tuple[str, str]] = types.MappingProxyType(
    {
        "registry": ("DISCOVERY_REGISTRY", "registry"),
        "admin": ("DISCOVERY_ADMIN", "admin"),
        "admin_token_file": ("DISCOVERY_ADMIN_TOKEN_FILE", "admin_token_file"),
        "run_dir": ("DISCOVERY_RUN_DIR", "run_dir"),
        "state_dir": ("DISCOVERY_STATE_DIR", "state_dir"),
        "log_level": ("DISCOVERY_LOG_LEVEL", "log.level"),
        "log_format": ("DISCOVERY_LOG_FORMAT", "log.format"),
    }
)
"""By field of Overrides: the environment variable that stands for it, and the key of the file that it overrides."""


class AdminAddress(BindAddress):
    """Where the admin endpoint listens, or "off"."""

    def parse(self, value: object) -> str:
        """Return the address in canonical form, or "off". Raises ValueError, one line with the valid forms."""
        try:
            return OFF if value == OFF else super().parse(value)
        except ValueError as error:
            raise ValueError(f'{error}; or "off"') from None

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema: text, with examples."""
        schema = super().json_schema()
        return {**schema, "examples": [*schema["examples"], OFF]}


class LogSettings(PluginConfig):
    """The `[log]` table."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class FileSettings(PluginConfig):
    """The configuration file's top level."""

    registry: RegistrySettings = RegistrySettings()
    admin: Annotated[str, AdminAddress(sockets=False, names=True)] = Field(
        DEFAULT_ADMIN, description='Where the admin endpoint listens, HOST:PORT, or "off"'
    )
    admin_hosts: OneOrMany[str] = Field(
        (), description="Host names under which the admin endpoint is asked, beside IP addresses and localhost"
    )
    announce: bool = Field(False, description="Announce this daemon in the registry, for the fleet view of the others")
    announce_address: OwnAddress | None = Field(
        None, description="Where others reach the admin endpoint. Default: the address that it listens on"
    )
    fleet_prefix: Annotated[str, AfterValidator(valid_prefix)] | None = Field(
        None, description="Where daemons are announced, apart from services. Default in etcd: /discovery"
    )
    fleet_ca: Path | None = Field(
        None, description="Authorities, PEM, of daemons that are asked by https. Default: admin_client_ca"
    )
    fleet_networks: Networks = Field(OWN_MACHINE, description="Networks in which other daemons are asked how they are")
    admin_token_file: Path | None = Field(
        None, description="File of the token that clients of the admin endpoint have to know"
    )
    admin_cert: Path | None = Field(
        None, description="File of the admin endpoint's certificate, PEM: it speaks TLS then"
    )
    admin_key: Path | None = Field(None, description="File of the private key of admin_cert, PEM")
    admin_client_ca: Path | None = Field(
        None, description="File of authorities, PEM: clients with a certificate of theirs may ask the admin endpoint"
    )
    admin_metrics: Metrics = Field(
        "authenticated", description="To whom /metrics is told: those who are authenticated, everybody, or nobody"
    )
    log: LogSettings = LogSettings()
    run_dir: Path | None = Field(None, description="Directory for sockets, locks and generated files")
    state_dir: Path | None = Field(None, description="Directory for the last good snapshot")
    consumers: dict[str, dict[str, Any]] = Field(default_factory=dict, description="Plugins that follow the registry")
    providers: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="Plugins that register what runs on this machine"
    )


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """The settings of a consumer; `options` are for its plugin to validate, with `validate_options`."""

    table: ClassVar[str] = "consumers"
    name: str
    plugin: str
    quiet_period: float
    options: Mapping[str, Any]
    place: str


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """The settings of a provider; `options` are for its plugin to validate, `owner` is None for the default."""

    table: ClassVar[str] = "providers"
    name: str
    plugin: str
    ttl: float
    owner: str | None
    options: Mapping[str, Any]
    place: str
    force: bool = False
    takeover: bool = False


class Settings(NamedTuple):
    """Everything that `discovery run` needs to know. `admin` is (host, port), or None for off.

    `overridden` are the keys of the file in whose place an environment variable is used, each with the variable.
    `registry_is_known` is False if the configuration of the registry is at fault: `registry` is the default one then,
    and is not to be asked.
    """

    registry: RegistryURL
    admin: tuple[str, int] | None
    admin_is_default: bool
    log: LogSettings
    run_dir: Path | None
    state_dir: Path | None
    consumers: Mapping[str, ConsumerSettings]
    providers: Mapping[str, ProviderSettings]
    overridden: Mapping[str, str] = types.MappingProxyType({})
    admin_hosts: tuple[str, ...] = ()
    fleet: FleetSettings = FleetSettings()
    admin_access: AccessSettings = AccessSettings()
    registry_is_known: bool = True


@dataclass(frozen=True, slots=True)
class Overrides:
    """The settings of the command line and the environment, which override the file.

    `variables` names, by field, the environment variable that a value comes from. `password` is whether the environment
    has the registry's password, which the registry reads there by itself.
    """

    registry: str | None = None
    plugins: tuple[str, ...] = ()
    assignments: tuple[str, ...] = ()
    admin: str | None = None
    admin_token_file: Path | None = None
    run_dir: Path | None = None
    state_dir: Path | None = None
    log_level: str | None = None
    log_format: str | None = None
    variables: Mapping[str, str] = field(default_factory=lambda: types.MappingProxyType({}))
    password: bool = False
