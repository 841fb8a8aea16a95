"""The typer app: the global options and the table of commands."""

import os
from importlib.metadata import version
from typing import Annotated

import typer

from discovery.cli.group import SETTINGS, CommandGroup, help_of, load_structlog_without_rich
from discovery.cli.options import LogFormat, LogLevel


def show() -> None:
    """Print the version."""
    typer.echo(f"discovery-framework {version('discovery-framework')}")


def help_(
    context: typer.Context,
    command: Annotated[list[str] | None, typer.Argument(help="The command to describe. Default: all of them.")] = None,
) -> None:
    """Describe a command, as its --help does.

    \b
    discovery help register
    discovery help config check
    """
    typer.echo(help_of(context.find_root(), command or ()))


app = typer.Typer(
    name="discovery",
    cls=CommandGroup,
    help="Dynamic service discovery: programs that use backends follow the registry.",
    epilog="Exit codes: 0 done, 2 usage or configuration, 1 anything else.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help and errors: rich would take brackets in a text for markup
    context_settings=SETTINGS,
)
app.command("version")(show)
app.command("help")(help_)


@app.callback(invoke_without_command=True)
def discovery(
    context: typer.Context,
    log_level: Annotated[
        LogLevel | None,
        typer.Option(envvar="DISCOVERY_LOG_LEVEL", help="The lowest level of log lines on stderr. Default: info."),
    ] = None,
    log_format: Annotated[
        LogFormat | None,
        typer.Option(envvar="DISCOVERY_LOG_FORMAT", help="key=value lines or one JSON object a line. Default: text."),
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="DISCOVERY_DEBUG", help="Show where an unexpected error came from.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text, for commands that have it.")] = False,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    """Dynamic service discovery: programs that use backends follow the registry."""
    if show_version:
        show()
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit
    load_structlog_without_rich()
    # The environment passes the options on, so that child processes log in the same way.
    given = {"LOG_LEVEL": log_level, "LOG_FORMAT": log_format, "DEBUG": "1" if debug else None}
    os.environ.update({f"DISCOVERY_{name}": value for name, value in given.items() if value is not None})
