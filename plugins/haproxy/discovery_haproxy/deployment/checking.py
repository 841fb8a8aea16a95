"""Checks of a configuration before its deployment: by a HAProxy on this machine, by a user's command, or none."""

import os
import shutil
from typing import NamedTuple, Protocol

from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.program.binary import OLDEST, Binary, NotInstalledError, faults_of, locate, raise_first
from discovery_haproxy.rendering.render import Rendered

NO_CHECK_REASON = 'external.validate is "none"'


class Checker(Protocol):
    """The check of a configuration, and the version of the HAProxy that will read the configuration."""

    @property
    def name(self) -> str:
        """Name of the program that checks, for error messages."""

    @property
    def version(self) -> tuple[int, ...]:
        """Version of HAProxy; the oldest supported version if the version is unknown."""

    async def check(self, rendered: Rendered) -> None:
        """Check the configuration. Raises ApplyError with the first fault, in one line."""

    async def faults(self, rendered: Rendered) -> tuple[str, ...]:
        """Check the configuration and return the faults. Raises ApplyError if the check cannot be run."""


class NoChecker(NamedTuple):
    """No check: the reload decides."""

    name: str = "haproxy"
    version: tuple[int, ...] = OLDEST

    async def check(self, rendered: Rendered) -> None:
        """Accept the configuration."""

    async def faults(self, rendered: Rendered) -> tuple[str, ...]:
        """Return no fault."""
        return ()


class CommandChecker(NamedTuple):
    """A program of the user, which reads the configuration from standard input. Exit status 0 accepts."""

    command: tuple[str, ...]
    version: tuple[int, ...] = OLDEST

    @property
    def name(self) -> str:
        """Path of the program."""
        return self.command[0]

    async def check(self, rendered: Rendered) -> None:
        """Let the program check the configuration. Raises ApplyError with the first fault, in one line."""
        raise_first(self.name, await self.faults(rendered))

    async def faults(self, rendered: Rendered) -> tuple[str, ...]:
        """Let the program check the configuration, with /dev/null in place of each map file.

        The program may run where it cannot read a file of this machine. Return HAProxy's alerts, or else the exit
        status and the first line.
        """
        return await faults_of(self.command, rendered.with_maps_at(dict.fromkeys(rendered.maps, os.devnull)))


async def find_checker(config: HAProxyConfig) -> Binary | CommandChecker | NoChecker:
    """Return the check that the configuration asks for; a HAProxy program unless `external.validate` names another.

    Raises ApplyError; NotInstalledError if the program is not installed.
    """
    wanted = config.external.validation if config.external else "local"
    if config.external and config.external.slots:
        return NoChecker()  # HAProxy checks each command
    if wanted == "local":
        return await locate(config.binary)
    if wanted == "none":
        return NoChecker()
    if shutil.which(wanted[0]) is None:
        raise NotInstalledError(f"external.validate names {wanted[0]}, which is not a program: install the program")
    return CommandChecker(wanted)
