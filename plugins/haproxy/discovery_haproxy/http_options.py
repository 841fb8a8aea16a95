"""Options of http services that change requests and answers: basic authentication, and the login of the statistics."""

from typing import Annotated

from pydantic import BeforeValidator

from discovery import PluginConfig
from discovery_haproxy.values import AbsolutePath, Address, Realm


class BasicAuthConfig(PluginConfig):
    """HTTP basic authentication (RFC 7617). HAProxy reads the passwords, so that no configuration contains them."""

    users_file: AbsolutePath
    """Lines `NAME:PASSWORD`; every line is a user. HAProxy reads the file when HAProxy loads the configuration."""
    realm: Realm = "restricted"
    """Name of the protected area, which browsers show."""


class StatsConfig(PluginConfig):
    """The statistics page, with Prometheus metrics at /metrics."""

    address: Address
    users_file: AbsolutePath | None = None
    """Lines `NAME:PASSWORD` of the users who may see the page and the metrics. Default: everyone."""


def _basic_auth(value: object) -> object:
    return {"users_file": value} if isinstance(value, str) else value


def _stats(value: object) -> object:
    return value if value is None or isinstance(value, dict | StatsConfig) else {"address": value}


BasicAuth = Annotated[BasicAuthConfig, BeforeValidator(_basic_auth, json_schema_input_type=str | BasicAuthConfig)]
Stats = Annotated[StatsConfig | None, BeforeValidator(_stats, json_schema_input_type=str | StatsConfig | None)]
