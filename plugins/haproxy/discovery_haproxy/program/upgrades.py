"""Upgrades of the HAProxy program under a running daemon: a package manager may replace the file at any time."""

import asyncio
import time
from contextlib import suppress
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from discovery import ApplyError
from discovery_haproxy.limits import Limits
from discovery_haproxy.program.binary import Binary, Stamp, locate, stamp_of

_UNCHANGED_SECONDS = 0.2
"""Seconds without a change after which a file counts as complete."""


class Upgrades:
    """Notices that the file of an instance's program was replaced. Belongs to one event loop."""

    def __init__(self, log: FilteringBoundLogger, limits: Limits) -> None:
        """Store the arguments."""
        self._log = log
        self._limits = limits
        self._seen: Stamp | None = None
        self._reported: Stamp | None = None
        self._replacement: Binary | None = None
        self.fault: str | None = None
        """The reason why the file that replaces the program cannot be used; None if it can, or if there is none."""

    async def is_due(self, known: Binary, configured: Path | None) -> bool:
        """Report, once for each replacement, whether the file is another than that of `known`, and complete.

        A file that the previous call did not see counts as incomplete. A replacement that could not be used is due
        when it can.
        """
        stamp = stamp_of(known.path)
        seen, self._seen = self._seen, stamp
        if self.fault is not None:
            with suppress(ApplyError):
                await locate(configured)
                return True
        if stamp is None or stamp != seen or stamp in (known.stamp, self._reported):
            return False
        self._reported = stamp
        return True

    async def current(self, known: Binary, configured: Path | None) -> Binary:
        """Return the present program: `known`, or what replaces the file of `known`, as soon as that is complete.

        If the replacement cannot be used, return `known`, whose HAProxy may go on; `fault` has the reason.
        """
        for binary in (known, self._replacement):
            if binary is not None and binary.is_current:
                self.fault = None
                return binary
        try:
            replacement = await _locate_complete(
                known.path, configured, self._limits.replacement if not self.fault else 0
            )
        except ApplyError as error:
            fault = f"the HAProxy program was replaced, and cannot be used: {error}"
            if self.fault != fault:
                self.fault = fault
                self._log.warning(fault)
            return known
        self._replacement, self.fault = replacement, None
        before, version = (".".join(map(str, binary.version)) for binary in (known, replacement))
        self._log.info("the HAProxy program was replaced", path=str(replacement.path), version=version, before=before)
        return replacement


async def _locate_complete(path: Path, configured: Path | None, timeout: float) -> Binary:
    deadline = time.monotonic() + timeout
    while True:
        before = stamp_of(path)
        await asyncio.sleep(_UNCHANGED_SECONDS)
        is_late = time.monotonic() > deadline
        if is_late or (before is not None and before == stamp_of(path)):
            try:
                return await locate(configured)
            except ApplyError:
                if is_late:
                    raise
