"""The core's keys of an instance's table in the configuration. The other keys are the plugin's."""

from typing import Annotated

from pydantic import AfterValidator, Field

from discovery.errors import RecordError
from discovery.fields import TTL, Duration
from discovery.plugin import PluginConfig
from discovery.validity import validate_owner


def _owner(text: str) -> str:
    try:
        return validate_owner(text)
    except RecordError as error:
        raise ValueError(str(error)) from None


class InstanceTable(PluginConfig):
    """The keys of every instance's table that the core reads; the others are the plugin's."""

    plugin: str = Field(description="Name of the plugin, as `discovery plugins` lists it")


class ConsumerTable(InstanceTable):
    """The core's part of a `[consumers.NAME]` table."""

    quiet_period: Annotated[float, Duration(most=60, zero="no wait")] = Field(
        0.0, description="How long to wait after a change, so that those which follow closely are applied with it"
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
