"""`discovery plugins`: lists the installed plugins, and writes the distribution of a new plugin."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from discovery.cli.console import note, result
from discovery.cli.options import JsonOption
from discovery.scaffold import Kind, check_name, write_distribution

app = typer.Typer(help="List the installed plugins, or begin a new plugin.")


@app.callback(invoke_without_command=True)
def plugins(
    context: typer.Context,
    plugin: Annotated[
        list[str] | None,
        typer.Option("--plugin", metavar="FILE.py", help="Also list the plugin in this file. Repeatable."),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """List the installed plugins with what each provides, or the reason if a plugin cannot be loaded.

    The exit code is 1 if a plugin cannot be loaded.
    """
    if context.invoked_subcommand is not None:
        return 0
    rows = _rows(plugin or ())
    if as_json:
        result(json.dumps(rows, indent=2))
    else:
        _print_table(rows)
    return 1 if any(row["error"] for row in rows) else 0


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="The name of the plugin: small letters, digits and '-'.")],
    kind: Annotated[Kind, typer.Option(help="The kind of plugin.")],
    directory: Annotated[
        Path | None,
        typer.Option(metavar="DIR", readable=False, help="The directory to make. Default: discovery-NAME."),
    ] = None,
) -> None:
    """Write the distribution of a new plugin: a package, its tests, and what packaging needs.

    The distribution works and is tested as it is. Nothing is overwritten.

    \b
    discovery plugins new balancer --kind consumer
    discovery plugins new consul --kind registry --directory ~/src/discovery-consul
    """
    check_name(name, _taken(kind))
    place = directory or Path(f"discovery-{name}")
    for path in write_distribution(name, kind, place):
        result(str(path))
    note(f"next: cd {place}; pip install -e '.[dev]'; pytest; then see README.md there")


def _taken(kind: Kind) -> dict[str, str]:
    """Return the names that a plugin of this kind cannot have, and by whom each is taken."""
    from discovery.cli import group
    from discovery.hosting import loading as registered
    from discovery.registry import BUILT_IN

    if kind is Kind.COMMAND:
        core = dict.fromkeys((*group.OWN, "version", "help"), "a command of the core")
        return {**dict.fromkeys(group.installed(), "an installed command"), **core}
    taken = {name: _origin(point) for name, point in registered.installed().items()}
    return taken | dict.fromkeys(BUILT_IN, "a registry of the core")


def _rows(files: Sequence[str]) -> Sequence[dict[str, Any]]:
    from discovery.errors import PluginError
    from discovery.hosting import loading as registered
    from discovery.hosting.singlefile import single_file

    rows: list[dict[str, Any]] = []
    found: dict[str, Any] = {**registered.installed(), **{file: single_file(file) for file in files}}
    for name, point in sorted(found.items()):
        row: dict[str, Any] = {
            "name": point.name,
            "distribution": point.dist.name if point.dist else None,
            "version": point.dist.version if point.dist else None,
            "provides": [],
            "error": None,
        }
        try:
            row["provides"] = list(registered.load(name).provides)
        except PluginError as error:
            row["error"] = str(error)
        rows.append(row)
    return rows


def _origin(point: Any) -> str:
    return f"the installed {point.dist.name}" if point.dist else point.value


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    from discovery.cli.table import print_table

    lines = [
        (
            row["name"],
            f"{row['distribution'] or 'a file'} {row['version'] or ''}".rstrip(),
            row["error"] or ", ".join(row["provides"]),
        )
        for row in rows
    ]
    print_table(("PLUGIN", "FROM", "PROVIDES"), lines)
