"""Deployment of a rendered configuration to a target: the check, the probe of the binds, and the reload."""

import asyncio
import re
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from discovery import ApplyError
from discovery_haproxy.deployment.background_check import BackgroundCheck
from discovery_haproxy.deployment.bind_check import find_bind_faults
from discovery_haproxy.deployment.checking import Checker
from discovery_haproxy.deployment.digests import FileDigests
from discovery_haproxy.deployment.faults import Fault, Refusal
from discovery_haproxy.deployment.refusals import Attempt, Refusals
from discovery_haproxy.deployment.target import RefusedError, Target
from discovery_haproxy.limits import Limits
from discovery_haproxy.rendering.render import Rendered

_CANNOT_BIND = re.compile(r"Binding \[\S*:(\d+)\] for .* for \[(\S+)\]")
"""HAProxy's alert for an address that it cannot bind: the line of the file, and the address."""


class Deployer:
    """Deploys configurations to one HAProxy, and remembers what HAProxy has refused to load."""

    def __init__(
        self, target: Target, digests: FileDigests, state_dir: Path, log: FilteringBoundLogger, limits: Limits
    ) -> None:
        """Store the arguments. `state_dir` keeps the refusals for the next daemon."""
        self._target = target
        self._digests = digests
        self._binds: frozenset[str] = frozenset()
        self._refusals = Refusals(state_dir / "refused.json")
        if not target.running:
            self._refusals.clear()  # the start of a new HAProxy disturbs nobody, and may succeed
        self.background = BackgroundCheck(log, limits)
        """The check of what commands have changed."""
        self.missed_binds: frozenset[str] = frozenset()
        """The addresses that the last attempt could not listen on."""

    def forget_refusals(self) -> None:
        """Try again what HAProxy has refused before."""
        self._refusals.clear()

    async def deploy(self, rendered: Rendered, checker: Checker) -> Refusal | None:
        """Make the configuration live. Return the refusal, or None if HAProxy serves the configuration.

        Raises ApplyError if the reason is no fault of the configuration. The previous configuration goes on serving
        unless the deployment succeeds.
        """
        target = self._target
        self.missed_binds = frozenset()
        if self._refusals:
            attempt = await self._attempt(rendered, checker)
            try:
                self._refusals.check(attempt)
            except RefusedError as error:
                return self._refused(error, attempt)
        # A separate check is unnecessary if HAProxy starts, and checks the configuration itself, or takes commands.
        checked_by_haproxy = not target.running or not target.needs_check(rendered)
        unchecked = rendered if checked_by_haproxy else None
        if unchecked:
            await target.prepare(rendered)
        elif refusal := await self._prepare_and_check(rendered, checker):
            return refusal
        faults = await find_bind_faults(
            sorted(set(rendered.listeners) - self._binds) if target.running else rendered.listeners, target.vantage
        )
        if faults:
            self.missed_binds = frozenset(faults)
            return Refusal(
                next(iter(faults.values())), tuple(Fault(text, address=bind) for bind, text in faults.items())
            )
        return await self._activate(rendered, checker, unchecked)

    async def _prepare_and_check(self, rendered: Rendered, checker: Checker) -> Refusal | None:
        """Prepare and check at once: HAProxy's parsing and the disk are the two slow steps before a reload."""
        prepared, alerts = await asyncio.gather(
            self._target.prepare(rendered), checker.faults(rendered), return_exceptions=True
        )
        for result in (prepared, alerts):
            if isinstance(result, BaseException):
                raise result
        return Refusal.of_alerts(checker.name, alerts)  # type: ignore[arg-type] # no exception

    async def _activate(self, rendered: Rendered, checker: Checker, unchecked: Rendered | None) -> Refusal | None:
        was_running = self._target.running
        try:
            await self._target.deploy(rendered.generation, checker, unchecked)
        except ApplyError as error:
            self._binds = frozenset()
            if unchecked and (refusal := Refusal.of_alerts(checker.name, await checker.faults(unchecked))):
                return refusal  # the check gives a better reason than a HAProxy that does not start
            if not isinstance(error, RefusedError):
                raise
            attempt = await self._attempt(rendered, checker)
            # Without a HAProxy that ran before, another attempt harms nobody.
            return self._refused(self._refusals.add(attempt, error) if was_running else error, attempt)
        self._binds = frozenset(rendered.listeners)
        if unchecked and was_running:
            self.background.begin(rendered, checker)
        else:
            self.background.settle()
        return None

    def _refused(self, error: RefusedError, attempt: Attempt) -> Refusal:
        """Return the refusal by a reload or a start. An address that the probe finds to be held may become free."""
        self.missed_binds = attempt.missed_binds
        faults = []
        for alert in error.alerts:
            found = _CANNOT_BIND.search(alert)
            held = found is not None and found[2] in attempt.missed_binds
            faults.append(
                Fault(alert, int(found[1]) if found and not held else None, found[2] if found and held else None)
            )
        return Refusal(str(error), tuple(faults) or (Fault(str(error)),), by_load=True)

    async def _attempt(self, rendered: Rendered, checker: Checker) -> Attempt:
        faults = await find_bind_faults(rendered.listeners, self._target.vantage)
        return Attempt.of(rendered.text, self._digests.read(rendered.files), checker, faults)
