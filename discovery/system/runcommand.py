"""Commands, run to their end by argument list, never through a shell."""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from discovery.errors import ApplyError
from discovery.system.environment import child_environment
from discovery.system.terminal import printable

_MESSAGE_CHARACTERS = 400
"""Characters of a command's output in a message, which is one line."""
_OUTPUT_LINES = 3
"""Lines at the end of the output that a message shows: programs tell the reason last or first in few lines."""


class CommandOutput(NamedTuple):
    """The exit `status` of a command, negative after a signal, and the `text` of its output and errors."""

    status: int
    text: str

    def describe(self, program: str) -> str:
        """Return the exit status of the command `program` and the end of its output, on a single line."""
        lines = [line for each in self.text.splitlines() if (line := " ".join(printable(each).split()))]
        told = f": {' / '.join(lines[-_OUTPUT_LINES:])}" if lines else ""
        return f"{program}: {end_of(self.status)}{told[:_MESSAGE_CHARACTERS]}"


def end_of(status: int) -> str:
    """Return how a process with the exit `status`, negative after a signal, has ended."""
    return f"exit {status}" if status >= 0 else f"killed by {signal_name(-status)}"


def signal_name(number: int) -> str:
    """Return the name of the signal `number`. That of most real-time signals is `SIGRTMIN+N`, as for kill(1)."""
    try:
        return signal.Signals(number).name
    except ValueError:
        is_realtime = signal.SIGRTMIN < number < signal.SIGRTMAX
        return f"SIGRTMIN+{number - signal.SIGRTMIN}" if is_realtime else f"signal {number}"


async def run_command(
    command: Sequence[str], timeout: float, *, environment: Mapping[str, str] | None = None
) -> CommandOutput:
    """Run `command`, an argument list, to its end, without input and without the daemon's secrets.

    `environment` is added to that of `child_environment`. Raises ApplyError if the command cannot be started, or does
    not end within `timeout` seconds: the command and its children are killed then, also if the caller is cancelled.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**child_environment(), **(environment or {})},
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
    return CommandOutput(process.returncode or 0, output.decode(errors="replace"))


async def check_command(
    command: Sequence[str], timeout: float, what: str, *, environment: Mapping[str, str] | None = None
) -> None:
    """Run `command` as `run_command` does. Raises ApplyError if the exit status is not 0.

    The message begins with `what`, and has the reason that the command gives. `timeout` and `environment` are those of
    `run_command`.
    """
    output = await run_command(command, timeout, environment=environment)
    if output.status:
        raise ApplyError(f"{what}: {output.describe(command[0])}")
