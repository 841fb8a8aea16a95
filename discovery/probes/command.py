"""A probe that runs a program."""

import asyncio
import os
import signal
from contextlib import suppress
from dataclasses import dataclass

from discovery.checks import Outcome, Verdict
from discovery.model import Backend
from discovery.probes.tcp import failing, reason
from discovery.system.environment import child_environment

_MOST_OUTPUT = 1024
"""Bytes of output that are kept: the detail is the first line, and the rest would take memory."""


@dataclass(frozen=True, slots=True)
class CommandProbe:
    """Passes if a program exits with 0, is draining if the exit status is `draining_exit`, and fails otherwise.

    `argv` is the program and its arguments; there is no shell. With `draining_exit` None no status means draining. The
    first line of the program's output is the outcome's detail. The environment names the backend: DISCOVERY_SERVICE,
    DISCOVERY_ID, DISCOVERY_HOST, DISCOVERY_PORT. When the check's timeout ends, the program is killed with its process
    group.
    """

    argv: tuple[str, ...]
    draining_exit: int | None = os.EX_TEMPFAIL

    async def __call__(self, backend: Backend) -> Outcome:
        """Run the program for `backend`, and return the outcome. A program that cannot be started is a failure."""
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        loop = asyncio.get_running_loop()
        try:
            os.set_blocking(writing, True)
            try:
                process = await asyncio.create_subprocess_exec(
                    *self.argv,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=writing,
                    stderr=writing,
                    env=_environment(backend),
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:
                return failing(f"{self.argv[0]}: {reason(error)}")
            finally:
                os.close(writing)
            output = bytearray()
            # Read while the program runs, not until end of file: a process that the program leaves behind may keep the
            # pipe open forever.
            loop.add_reader(reading, _read, reading, output, loop)
            try:
                status = await process.wait()
            finally:
                if process.returncode is None:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    await process.wait()
            _read(reading, output, loop)
        finally:
            loop.remove_reader(reading)
            os.close(reading)
        detail = _first_line(bytes(output))
        if status == 0:
            return Outcome(detail=detail)
        if status == self.draining_exit:
            return Outcome(Verdict.DRAINING, detail or f"exit status {status}")
        ended = f"exit status {status}" if status > 0 else f"killed: {signal.strsignal(-status) or -status}"
        return failing(detail or ended)


def _environment(backend: Backend) -> dict[str, str]:
    variables = {"SERVICE": backend.service, "ID": backend.id, "HOST": backend.host, "PORT": str(backend.port)}
    return child_environment() | {f"DISCOVERY_{key}": value for key, value in variables.items()}


def _read(descriptor: int, output: bytearray, loop: asyncio.AbstractEventLoop) -> None:
    """Append the available output to `output`, which keeps at most _MOST_OUTPUT bytes."""
    with suppress(BlockingIOError):
        if not (chunk := os.read(descriptor, 65536)):
            loop.remove_reader(descriptor)
        output += chunk[: _MOST_OUTPUT - len(output)]


def _first_line(output: bytes) -> str:
    return next((line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()), "")
