"""The table of commands: the core's commands, and drop-in commands of other distributions.

The core's commands are modules of this package. A module is imported when its command is invoked or described.

A distribution adds drop-in commands by entry points of the group `discovery.commands`: the entry point's name is the
command's name, and its value a function as typer takes a function, written with `def` or with `async def`. The names
come from the metadata; a function is imported when its command is invoked or its help is requested. A command of the
core takes precedence. With an entry point of the same name and value in the group `discovery.commands.help` the table
shows the first line of the function's docstring, which is read without an import.

The log options and `--json` may stand before or after a command.
"""

import ast
import copy
import functools
import inspect
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from discovery.cli.interrupts import restore_interrupts, run_coroutine
from discovery.errors import ConfigError, PluginError

GROUP = "discovery.commands"
HELP_GROUP = f"{GROUP}.help"
OWN = (
    "run",
    "stop",
    "services",
    "watch",
    "status",
    "top",
    "history",
    "explain",
    "fleet",
    "wait",
    "register",
    "release",
    "deregister",
    "health",
    "plugins",
    "config",
    "demo",
)
"""The modules of the core's commands.

A module has a typer app `app` for a group of commands, or else a function with the module's name, and may have the
command's class, `COMMAND`.
"""
EVERYWHERE = ("log_level", "log_format", "debug")
"""The options of the group that are also options of every command. Each sets an environment variable."""
SETTINGS = {"help_option_names": ["-h", "--help"]}


class CommandGroup(TyperGroup):
    """The group `discovery`: the core's commands, followed by the drop-in commands of other distributions."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return every command's name. Imports nothing."""
        own = dict.fromkeys([*OWN, *self.commands])
        return [*own, *sorted(installed().keys() - own.keys())]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command, or None. For a drop-in command, which is not imported, return a stand-in with help."""
        if cmd_name in OWN and cmd_name not in self.commands:
            self.commands[cmd_name] = _own_command(cmd_name)
        if cmd_name in self.commands:
            return self.commands[cmd_name]
        points = installed().get(cmd_name)
        return _ExternalCommand(name=cmd_name, help=_sentence(cmd_name, points)) if points else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the table of commands, each with the first line of its help."""
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        with formatter.section("Commands"):
            formatter.write_dl([(name, _first(str(command.help))) for name, command in commands.items()])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command to invoke. Raises PluginError if a drop-in command cannot be loaded.

        Raises ConfigError if several distributions have a command of that name.
        """
        if self.get_command(ctx, args[0]) is None:
            for each in OWN:  # loaded, so that typer can suggest a similar name
                self.get_command(ctx, each)
        name, command, rest = super().resolve_command(ctx, args)
        if isinstance(command, _ExternalCommand):
            try:
                command = load(str(name))
                restore_interrupts()  # the command may call asyncio.run
            except (ConfigError, PluginError):
                if not ctx.resilient_parsing:  # shell completion shows no errors
                    raise
        if command is not None and not ctx.resilient_parsing:  # completion offers a command's own options
            self._have_everywhere(command)
            _name_arguments(command)
            if ctx.params.get("as_json") and not _prints_json(command):
                raise ConfigError(f"--json: the command {name!r} prints no JSON")
        return name, command, rest

    def _have_everywhere(self, command: Any) -> None:
        """Add the options in EVERYWHERE to `command`, or to each command of a group."""
        if isinstance(command, TyperGroup):
            for each in command.commands.values():
                self._have_everywhere(each)
            return
        taken = {name for param in command.params for name in param.opts}
        for param in self.params:
            if param.name in EVERYWHERE and taken.isdisjoint(param.opts):
                option = copy.copy(param)
                option.envvar, option.expose_value, option.callback = None, False, _set_log_options
                command.params.append(option)


def help_of(context: Any, names: Iterable[str]) -> str:
    """Return the help of the command at the path `names` below the group of `context`. Raises as `resolve_command`."""
    for name in names:
        group = context.command
        if not isinstance(group, TyperGroup):
            raise ConfigError(f"`{context.command_path}` has no command {name!r}")
        _, command, _ = group.resolve_command(context, [name])
        if command is not None:  # an unknown command is a usage error, which `resolve_command` raises
            context = typer.Context(command, info_name=name, parent=context)
    return str(context.get_help())


def _own_command(name: str) -> Any:
    module = import_module(f"discovery.cli.{name}")
    root = typer.Typer(rich_markup_mode=None)
    if hasattr(module, "app"):
        root.add_typer(module.app, name=name)
    else:
        root.command(name, cls=getattr(module, "COMMAND", None))(getattr(module, name))
    return typer.main.get_group(root).commands[name]


def _name_arguments(command: Any) -> None:
    """Give each argument of `command` the name that documents use, in capitals: the usage and errors have it.

    Versions of typer differ in the name of an argument without a metavar.
    """
    for each in command.commands.values() if isinstance(command, TyperGroup) else ():
        _name_arguments(each)
    for param in command.params:
        if param.param_type_name == "argument" and param.metavar is None:
            param.metavar = param.name.upper()


class _ExternalCommand(TyperCommand):
    pass


def _set_log_options(_: Any, option: Any, value: Any) -> None:
    """Set the option's environment variable, as the group's own options do: child processes log in the same way."""
    if value:
        os.environ[f"DISCOVERY_{option.name.upper()}"] = "1" if value is True else str(value)


def _prints_json(command: Any) -> bool:
    return isinstance(command, TyperGroup) or any("--json" in param.opts for param in command.params)


def _sentence(name: str, points: tuple[EntryPoint, ...]) -> str:
    """Return the description of a drop-in command: the first line of its help, or else its distribution."""
    if len(points) == 1:
        for point in entry_points(group=HELP_GROUP, name=name):
            if _distribution(point) == _distribution(points[0]):
                with suppress(Exception):  # the fault is reported when the command is invoked
                    return _first_line(point)
    return f"From {_claimants(points)}."


def _first_line(point: EntryPoint) -> str:
    """Return the first line of the docstring of the entry point's function. Imports nothing."""
    path: Any = None
    spec = None
    parts = point.module.split(".")
    for depth, _ in enumerate(parts):
        spec = PathFinder.find_spec(".".join(parts[: depth + 1]), path)
        path = spec.submodule_search_locations if spec else None
    source = Path(str(spec.origin)).read_text("utf-8") if spec else ""
    functions = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    (function,) = (node for node in functions if node.name == point.attr)
    return _first(str(ast.get_docstring(function)))


def _first(text: str) -> str:
    return text.strip().partition("\n")[0]


def installed() -> dict[str, tuple[EntryPoint, ...]]:
    """Return the entry points of drop-in commands by name. Imports nothing."""
    found: dict[str, dict[str, EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        # By distribution: a distribution that is on the path twice (editable, and by its directory) is found twice.
        found.setdefault(point.name, {}).setdefault(_distribution(point), point)
    return {name: tuple(points[key] for key in sorted(points)) for name, points in found.items()}


def load(name: str) -> Any:
    """Import and return the drop-in command `name`. Raises as `resolve_command` does."""
    points = installed()[name]
    if len(points) > 1:
        raise ConfigError(
            f"the command {name!r} is claimed by {len(points)} distributions, {_claimants(points)}: remove one"
        )
    load_structlog_without_rich()  # the command's own modules import structlog
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    try:
        app.command(name, context_settings=SETTINGS)(_synchronous(points[0].load()))
        return typer.main.get_command(app)
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split())
        raise PluginError(
            f"the command {name!r} of {_claimants(points)} cannot be loaded: {type(error).__name__}: {reason}"
        ) from error


def load_structlog_without_rich() -> None:
    """Import structlog without rich, which structlog imports to format tracebacks if rich is installed.

    The project does not use that format, and rich takes time to import and 5 MiB of memory.
    """
    modules: dict[str, Any] = sys.modules
    if "rich" not in modules:
        modules["rich"] = None
        try:
            import structlog  # noqa: F401
        finally:
            del modules["rich"]


def _synchronous(function: Any) -> Any:
    """Return `function`; of a coroutine function, a function that runs the coroutine on a new event loop."""
    if not inspect.iscoroutinefunction(function):
        return function

    @functools.wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        return run_coroutine(function(*arguments, **options))

    return run


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def _claimants(points: tuple[EntryPoint, ...]) -> str:
    return " and ".join(_distribution(point) for point in points)
