"""Checks a written configuration with `haproxy -c` in the background, after commands have changed the running HAProxy.

HAProxy checks each command, but not that HAProxy could start from the written configuration: a file that a `server`
line names may be missing, for instance. A refusal is reported. Further commands are still sent, and the running HAProxy
goes on serving.
"""

import asyncio
import time
from typing import NamedTuple

from structlog.typing import FilteringBoundLogger

from discovery import ApplyError
from discovery.toolkit import cancel_and_wait
from discovery_haproxy.deployment.checking import Checker
from discovery_haproxy.deployment.faults import Refusal
from discovery_haproxy.limits import Limits
from discovery_haproxy.program.binary import KILLED
from discovery_haproxy.rendering.render import Rendered


class _Subject(NamedTuple):
    """A configuration to be checked, and the program that checks."""

    rendered: Rendered
    checker: Checker


class BackgroundCheck:
    """Checks the newest configuration that was changed without a check. Belongs to one event loop."""

    def __init__(self, log: FilteringBoundLogger, limits: Limits) -> None:
        """Store the arguments."""
        self._log = log
        self._limits = limits
        self._newest: _Subject | None = None
        self._pause = 0.0
        self._task: asyncio.Task[None] | None = None
        self.refusal: Refusal | None = None
        """Why HAProxy could not start from the newest configuration; None as far as is known."""

    @property
    def summary(self) -> str:
        """One line about the refusal; empty if there is none."""
        if self.refusal is None:
            return ""
        return f"HAProxy serves, and could not start again from its file: {self.refusal.message}"

    def begin(self, rendered: Rendered, checker: Checker) -> None:
        """Check the configuration soon, in place of any earlier configuration that has not been checked."""
        self._newest = _Subject(rendered, checker)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    def settle(self) -> None:
        """Note that HAProxy has read the newest configuration, or that a check has accepted the configuration."""
        self._newest = None
        if self.refusal is not None:
            self.refusal = None
            self._log.info("HAProxy accepts its file again")

    async def stop(self) -> None:
        """End the check that runs."""
        if self._task is not None:
            await cancel_and_wait(self._task)

    async def _run(self) -> None:
        await asyncio.sleep(max(self._limits.check_delay, self._pause))
        while (subject := self._newest) is not None:
            started = time.monotonic()
            checked, refusal = True, None
            try:
                refusal = await _check(subject)
            except (ApplyError, OSError) as error:  # such as a shortage of descriptors
                checked = False
                self._log.warning("the file behind a change could not be checked", reason=str(error))
            self._pause = self._limits.check_pause_share * (time.monotonic() - started)
            if self._newest is not subject:
                await asyncio.sleep(max(self._limits.check_delay, self._pause))
            elif not checked:
                self._newest = None  # until the next change
            elif refusal is None:
                self.settle()
            else:
                self._refuse(refusal)
                await asyncio.sleep(max(self._limits.check_repeat, self._pause))

    def _refuse(self, refusal: Refusal) -> None:
        if self.refusal is None or self.refusal.message != refusal.message:
            self.refusal = refusal
            self._log.warning(self.summary)


async def _check(subject: _Subject) -> Refusal | None:
    """Return the refusal of the configuration; None if it is accepted. Raises ApplyError if the check cannot be run."""
    faults = await subject.checker.faults(subject.rendered)
    if killed := next((fault for fault in faults if fault.startswith(KILLED)), None):
        raise ApplyError(f"{subject.checker.name} was {killed}")
    return Refusal.of_alerts(subject.checker.name, faults)
