"""The instances that `--plugin` asks for, beside the tables of a configuration."""

from pathlib import Path
from typing import Any

from discovery.errors import ConfigError, PluginError
from discovery.hosting import loading as plugins
from discovery.hosting.pluginpath import absolute


def add_plugin(instances: dict[str, dict[str, Any]], plugin: str) -> None:
    """Add the instance that `--plugin` asks for, in the role that the plugin has, unless there is one of that name.

    Raises ConfigError.
    """
    name = plugins.instance_name(plugin)
    if any(name in table for table in instances.values()):
        return
    try:
        roles = plugins.roles(plugin)
    except (ConfigError, PluginError):
        roles = ()  # building the instance reports the error, with those of other instances
    if len(roles) > 1:
        raise ConfigError(
            f"--plugin {plugin}: this plugin is a consumer and a provider, which cannot share an instance's name;"
            " configure what you want in a file, as [consumers.NAME] or [providers.NAME]"
        )
    table = "providers" if roles == ("provider",) else "consumers"
    instances[table][name] = {"plugin": absolute(plugin, Path.cwd())}
