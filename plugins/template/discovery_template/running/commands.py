"""Arguments of commands with the names of files and generations filled in."""

from collections.abc import Mapping, Sequence


def filled(command: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Return the command with `{NAME}` replaced in its arguments, for the names in `values` alone."""
    arguments = []
    for argument in command:
        for name, value in values.items():
            argument = argument.replace(f"{{{name}}}", value)  # noqa: PLW2901 - replaced again
        arguments.append(argument)
    return arguments
