"""The instances that `--plugin` asks for, beside the tables of a configuration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from discovery.errors import ConfigError, PluginError
from discovery.hosting import loading as plugins
from discovery.hosting.pluginpath import absolute, is_path


def add_plugin(instances: dict[str, dict[str, Any]], plugin: str) -> None:
    """Add the instance that `--plugin` asks for, in the role that the plugin has, unless there is one of that name.

    Raises ConfigError.
    """
    name, wanted = plugins.instance_name(plugin), absolute(plugin, Path.cwd())
    for table in instances.values():
        if name in table:
            _check_same(plugin, wanted, name, table[name])
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
    kind = "providers" if roles == ("provider",) else "consumers"
    instances[kind][name] = {"plugin": wanted}


def _check_same(plugin: str, wanted: str, name: str, table: Any) -> None:
    """Raise ConfigError if the instance `name`, which there is, has another plugin than `wanted`."""
    present = table.get("plugin", wanted) if isinstance(table, Mapping) else wanted
    if present != wanted and not _is_same_file(present, wanted):
        raise ConfigError(
            f"--plugin {plugin}: there is an instance {name!r} already, of the plugin {present!r}: an instance that"
            " --plugin adds has the name of its plugin"
        )


def _is_same_file(one: Any, other: str) -> bool:
    both = isinstance(one, str) and is_path(one) and is_path(other)
    return both and Path(one).resolve() == Path(other).resolve()
