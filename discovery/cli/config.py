"""`discovery config`: is a configuration right, and what may stand in it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from discovery.cli.console import result
from discovery.configfile import file_in_use

app = typer.Typer(help="Check a configuration file, or print its schema.")


@app.command("check")
def check(
    config: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]",
            readable=False,
            help="The configuration to check. Default: the one in use.",
            show_default=False,
        ),
    ] = None,
    option: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", readable=False, help="The same.")
    ] = None,
    json_schema: Annotated[
        bool, typer.Option("--json-schema", help="Print the JSON schema of the configuration instead.")
    ] = False,
) -> int:
    """Check a configuration file, the options of its plugins included. 2 if it is wrong; every fault is named."""
    from discovery.errors import ConfigError, PluginError

    if json_schema:
        _print_schema()
        return 0
    path = file_in_use(config or option)
    if path is None:
        raise ConfigError("name the configuration file to check: discovery config check FILE")
    from discovery import plugins
    from discovery.config import Overrides
    from discovery.instances import load

    settings, instances = load(path, Overrides())
    plugins.open_registry(settings.registry)
    if instances.broken:
        raise PluginError("; ".join(instances.broken.values()))
    roles = {"consumers": list(instances.consumers), "providers": list(instances.providers)}
    told = (f"{role}: {', '.join(names)}" for role, names in roles.items() if names)
    result("; ".join((f"{path}: valid", *told)))
    return 0


def _print_schema() -> None:
    from discovery import plugins
    from discovery.cli.console import note
    from discovery.config import json_schema
    from discovery.errors import PluginError

    consumers, providers = {}, {}
    for name in plugins.installed():
        try:
            plugin = plugins.load(name)
        except PluginError as error:
            note(str(error))
            continue
        if name in plugin.consumers:
            consumers[name] = plugin.consumers[name].Config
        if name in plugin.providers:
            providers[name] = plugin.providers[name].Config
    result(json.dumps(json_schema(consumers, providers), indent=2))
