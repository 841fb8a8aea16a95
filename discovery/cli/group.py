"""The table of commands, our own and those of other distributions.

A distribution brings commands by entry points of the group `discovery.commands`: the entry point's name is the
command's, its value a function as typer takes it. The names come from the metadata; a function is imported when its
command is invoked, or asked for its help. Our own commands win.
"""

from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from discovery.errors import ConfigError, PluginError

GROUP = "discovery.commands"
SETTINGS = {"help_option_names": ["-h", "--help"]}


class CommandGroup(TyperGroup):
    """Our own commands, and below them those that other distributions bring."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Every command's name; nothing is imported."""
        return [*self.commands, *sorted(installed().keys() - self.commands.keys())]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, or None. One from elsewhere is not imported: what stands here for it tells whose it is."""
        if cmd_name in self.commands:
            return self.commands[cmd_name]
        points = installed().get(cmd_name)
        return _Elsewhere(name=cmd_name, help=f"From {_claimants(points)}.") if points else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command to invoke. Raises ConfigError if two distributions claim it, PluginError if it is broken."""
        name, command, rest = super().resolve_command(ctx, args)
        if isinstance(command, _Elsewhere):
            try:
                command = load(str(name))
            except (ConfigError, PluginError):
                if not ctx.resilient_parsing:  # completing: the shell is no place to tell
                    raise
        return name, command, rest


class _Elsewhere(TyperCommand):
    pass


def installed() -> dict[str, tuple[EntryPoint, ...]]:
    """The commands that distributions claim, by name; nothing is imported."""
    found: dict[str, dict[str, EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        # By distribution, since one that is installed twice (editable, and by a path) is found twice.
        found.setdefault(point.name, {}).setdefault(_distribution(point), point)
    return {name: tuple(points[key] for key in sorted(points)) for name, points in found.items()}


def load(name: str) -> Any:
    """Import a command from elsewhere. Raises as `resolve_command` does."""
    points = installed()[name]
    if len(points) > 1:
        raise ConfigError(
            f"the command {name!r} is claimed by {len(points)} distributions, {_claimants(points)}: remove one"
        )
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    try:
        app.command(name, context_settings=SETTINGS)(points[0].load())
        return typer.main.get_command(app)
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split())
        raise PluginError(
            f"the command {name!r} of {_claimants(points)} cannot be loaded: {type(error).__name__}: {reason}"
        ) from error


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def _claimants(points: tuple[EntryPoint, ...]) -> str:
    return " and ".join(_distribution(point) for point in points)
