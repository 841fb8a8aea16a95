"""Commands: their arguments with the names of files and generations filled in, and those that examine files."""

from collections.abc import Mapping, Sequence

from discovery.toolkit import run_command
from discovery_template.containment import RefusedError


def filled(command: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Return the command with `{NAME}` replaced in its arguments, for the names in `values` alone."""
    arguments = []
    for argument in command:
        for name, value in values.items():
            argument = argument.replace(f"{{{name}}}", value)  # noqa: PLW2901 - replaced again
        arguments.append(argument)
    return arguments


async def examine(
    command: Sequence[str], timeout: float, what: str, *, environment: Mapping[str, str] | None = None
) -> None:
    """Run a command that examines files. Raises RefusedError, which begins with `what`, if the exit status is not 0.

    Raises ApplyError if the command cannot be run, or does not end within `timeout` seconds: that says nothing of the
    files. `environment` is added to that of the command.
    """
    output = await run_command(command, timeout, environment=environment)
    if output.status:
        raise RefusedError(f"{what}: {output.describe(command[0])}")
