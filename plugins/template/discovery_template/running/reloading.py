"""Making a program read its files again: by a command, a signal or a request."""

import signal
from collections.abc import Mapping
from pathlib import Path

from discovery import ApplyError, describe
from discovery.toolkit import ProcessHandle, Program, check_command
from discovery_template.options.commands import ReloadConfig
from discovery_template.running.commands import filled
from discovery_template.running.requests import request

_FIRST_FAILURE = 300
"""The first status of HTTP that is no success."""


async def reload(config: ReloadConfig, program: Program | None, names: Mapping[str, str]) -> None:
    """Make the program read its files again. `names` are replaced in the command and the URL. Raises ApplyError."""
    if config.command is not None:
        command = filled(config.command, names)
        await check_command(command, config.timeout, "the reload has failed")
    elif config.url is not None:
        (url,) = filled((config.url,), names)
        await _request(config, url)
    elif config.signal is not None:
        number = signal.Signals[f"SIG{config.signal}"]
        if program is not None:
            program.send_signal(number)
        elif config.pid_file is not None:
            _signal(config.pid_file, number)


async def _request(config: ReloadConfig, url: str) -> None:
    try:
        answer = await request(config.method, url, timeout=config.timeout)
    except OSError as error:
        raise ApplyError(f"the reload has failed: {url} does not answer: {describe(error)}") from None
    if answer.status >= _FIRST_FAILURE:
        text = " ".join(answer.body.split())[:200]
        raise ApplyError(f"the reload has failed: {url} answers {answer.status}: {text}")


def _signal(pid_file: Path, number: signal.Signals) -> None:
    try:
        pid = int(pid_file.read_text().split()[0])
        if pid <= 1:
            raise ValueError
    except OSError as error:
        raise ApplyError(f"the reload has failed: {pid_file} cannot be read: {error.strerror}") from None
    except (ValueError, IndexError):
        raise ApplyError(f"the reload has failed: {pid_file} has no process id") from None
    try:
        with ProcessHandle(pid) as handle:
            handle.send_signal(number)
    except OSError as error:
        raise ApplyError(f"the reload has failed: process {pid} of {pid_file}: {describe(error)}") from None
