"""The settings of the library: from arguments, or else from the environment, the configuration file, or the default."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from discovery.daemon.config import load_settings
from discovery.daemon.configfile import file_in_use
from discovery.daemon.settings import INSTANCES, Overrides
from discovery.hosting.loading import registry_config
from discovery.registry import RegistryURL
from discovery.registry.url import PASSWORD_VARIABLE
from discovery.system.statedir import state_dir as default_state_dir


class Place(NamedTuple):
    """The registry to use, and the directories as given or configured."""

    registry: RegistryURL
    run_dir: Path | None = None
    state_dir: Path | None = None

    def registry_document(self) -> dict[str, Any]:
        """Return the registry as JSON for a helper process, with the password."""
        settings = self.registry.settings
        return {
            "url": self.registry.text,
            "settings": None if settings is None else settings.model_dump(mode="json", exclude_unset=True),
        }

    def state(self) -> Path:
        """Return the directory of the last good snapshot. Raises CannotStartError if this user can have none."""
        return default_state_dir(self.state_dir)


def registry_of(document: Mapping[str, Any]) -> RegistryURL:
    """Return the registry that `registry_document` has described."""
    url = RegistryURL.parse(document["url"])
    if document["settings"] is None or (model := registry_config(url.scheme)) is None:
        return url
    return replace(url, settings=model.model_validate(document["settings"]))


def place(
    url: str | None = None,
    *,
    username: str | None = None,
    password: str | None = None,
    options: Mapping[str, str | Path] = MappingProxyType({}),
    config: Path | str | None = None,
    run_dir: Path | str | None = None,
    state_dir: Path | str | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Place:
    """Return the settings as the command line finds them. Reads the configuration file in use.

    `options` is laid over the options of the URL. Raises ConfigError.
    """

    def given(argument: Path | str | None, variable: str) -> Path | None:
        value = argument or environment.get(variable)
        return Path(value) if value else None

    overrides = Overrides(
        registry=url or environment.get("DISCOVERY_REGISTRY") or None,
        run_dir=given(run_dir, "DISCOVERY_RUN_DIR"),
        state_dir=given(state_dir, "DISCOVERY_STATE_DIR"),
        password=bool(environment.get(PASSWORD_VARIABLE)),
    )
    file = file_in_use(None if config is None else Path(config), environment)
    settings = load_settings(file, overrides, leave_out=INSTANCES)
    registry = settings.registry
    registry = replace(
        registry,
        username=username or registry.username,
        password=password or registry.password,
        options=MappingProxyType({**registry.options, **{name: str(value) for name, value in options.items()}}),
    )
    return Place(registry, settings.run_dir, settings.state_dir)
