"""Commands, run to their end by argument list, never through a shell."""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress

from discovery import ApplyError
from discovery.toolkit import child_environment, printable

_MESSAGE_CHARACTERS = 400
"""Characters of a command's output in a message, which is one line."""
_OUTPUT_LINES = 3
"""Lines at the end of the output that a message shows: programs tell the reason last or first in few lines."""


class Output(tuple[int, str]):
    """Exit status and output of a command."""

    __slots__ = ()

    @property
    def status(self) -> int:
        """Exit status; negative if a signal has ended the command."""
        return self[0]

    @property
    def text(self) -> str:
        """Standard output and standard error."""
        return self[1]


def filled(command: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Return the command with `{NAME}` replaced in its arguments, for the names in `values` alone."""
    arguments = []
    for argument in command:
        for name, value in values.items():
            argument = argument.replace(f"{{{name}}}", value)  # noqa: PLW2901 - replaced again
        arguments.append(argument)
    return arguments


async def run(command: Sequence[str], timeout: float) -> Output:
    """Run a command. Raises ApplyError if the command cannot be started or does not end in `timeout` seconds."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=child_environment(),
            start_new_session=True,
        )
    except OSError as error:
        raise ApplyError(f"{command[0]} cannot be run: {error.strerror}") from None
    try:
        async with asyncio.timeout(timeout):
            output, _ = await process.communicate()
    except TimeoutError:
        raise ApplyError(f"{command[0]} did not end within {timeout:g} s") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return Output((process.returncode or 0, output.decode(errors="replace")))


async def run_or_raise(command: Sequence[str], timeout: float, what: str) -> None:
    """Run a command. Raises ApplyError, with the reason that the command gives, if the exit status is not 0."""
    output = await run(command, timeout)
    if output.status:
        raise ApplyError(f"{what}: {describe(command[0], output)}")


def describe(program: str, output: Output) -> str:
    """Return why a command has failed, in one line: the end of its output, and its exit status."""
    lines = [line for each in output.text.splitlines() if (line := " ".join(printable(each).split()))]
    status = output.status
    how = f"exit {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
    return (
        f"{program}: {how}"
        + "".join(f": {line}" for line in [" / ".join(lines[-_OUTPUT_LINES:])] if line)[:_MESSAGE_CHARACTERS]
    )
