"""Activation of an installed configuration: through the runtime API of the running HAProxy, or else by a reload."""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from structlog.typing import FilteringBoundLogger

from discovery import ApplyError, Sample
from discovery_haproxy.deployment.install import last_good
from discovery_haproxy.limits import LIMITS, Limits
from discovery_haproxy.program.control_socket import ControlError
from discovery_haproxy.runtime_api.connection import RuntimeApiError
from discovery_haproxy.runtime_api.execution import Changes
from discovery_haproxy.runtime_api.live_servers import LiveServers
from discovery_haproxy.runtime_api.planner import Reload, ServerKey
from discovery_haproxy.runtime_api.verifying import KeepStates, Verifier
from discovery_haproxy.text.configuration import NOTHING, Configuration, Inherited, parse
from discovery_haproxy.text.generation import generation_of, reload_part


class Operations(Protocol):
    """The operations on a HAProxy that depend on who runs HAProxy."""

    @property
    def running(self) -> bool:
        """Report whether HAProxy runs."""

    async def check(self) -> None:
        """Check the installed configuration, which a reload is about to load. Raises ApplyError."""

    async def load(self, generation: str) -> str:
        """Make HAProxy load the installed configuration. Return the way: `reload`, or `start` of a new HAProxy.

        Raises ApplyError or ControlError.
        """

    def expect_changes(self, servers: Collection[ServerKey]) -> None:
        """Prepare for commands that change these servers."""

    async def confirm_worker(self, pid: int) -> None:
        """Raise RuntimeApiError or ControlError if HAProxy has replaced the worker `pid`."""

    async def reported_generation(self) -> str | None:
        """Return the generation with which the worker started; None if that is unknown. Raises ControlError."""


class Activation:
    """Makes the configurations of a HAProxy live, and knows which configuration is live."""

    def __init__(
        self,
        servers: LiveServers,
        operations: Operations,
        lock: asyncio.Lock,
        request_apply: Callable[[], None],
        log: FilteringBoundLogger,
        keep_states: KeepStates | None = None,
        limits: Limits = LIMITS,
    ) -> None:
        """Store the arguments.

        `lock` is held during a deployment, and while servers are put right. `request_apply` asks for a deployment.
        `keep_states` is that of `Verifier`.
        """
        self.live_generation: str | None = None
        """Generation that was last proven to serve."""
        self.verify_seconds: float | None = None
        """Seconds of the last change that its proof took; None for a reload, of which the proof is a part."""
        self._servers = servers
        self._operations = operations
        self._log = log
        self._started_generation: str | None = None
        """The generation with which the worker started. The runtime API may have changed servers since."""
        self._changes = {"runtime": 0, "reload": 0}
        self._last_change: dict[str, Any] | None = None
        self._request_apply = request_apply
        self._reload_reason = ""
        """Reason for the reload that the verification has requested."""
        self.verifier = Verifier(
            servers, lock, lambda: self.live_generation, self._request_reload, keep_states, log, limits.look
        )

    def needs_check(self, wanted: Configuration, version: tuple[int, ...]) -> bool:
        """Report whether a reload follows. HAProxy checks the commands of the runtime API itself."""
        return not self._servers.suffice_for(wanted, version)

    async def plan(self, wanted: Configuration) -> Changes | Reload:
        """Plan the change of the running HAProxy to `wanted`."""
        if self.live_generation is None:
            return Reload(self._reload_reason or "the configuration of the running HAProxy is unknown")
        return await self._servers.prepare(wanted, self.live_generation)

    async def activate(self, generation: str, wanted: Configuration, changes: Changes | Reload | None) -> None:
        """Make the installed file, which is `wanted`, live. None instead of `changes` stands for a start.

        Raises ApplyError; the previous configuration then goes on serving.
        """
        started = time.monotonic()
        self.verify_seconds = None
        # Unknown until the end, also if this task is cancelled.
        before, self.live_generation = self.live_generation, None
        try:
            way, reason = await self._make_live(generation, wanted, changes)
        except (ApplyError, ControlError) as error:
            self.live_generation = await self._find_live_generation(before) if self._operations.running else before
            if isinstance(error, ControlError):
                raise ApplyError(f"HAProxy does not answer: {error}") from None
            raise
        except BaseException:  # a cancellation: HAProxy may be loading the new configuration
            self._servers.forget(wanted)
            raise
        self.live_generation, self._reload_reason = generation, ""
        if way in self._changes:
            self._changes[way] += 1
            seconds = round(time.monotonic() - started, 4)
            self._last_change = {"way": way, "reason": reason, "seconds": seconds}
            self._log.info("the configuration was changed", **self._last_change)

    def loaded(self, generation: str, configuration: Configuration) -> None:
        """Note that HAProxy has loaded this configuration."""
        self._started_generation = generation
        self._servers.started(configuration)

    async def adopt(self, generation: str, path: Path, inherited: Inherited = NOTHING) -> Path | None:
        """Find out which file a running HAProxy serves: the configuration file `path` or the last good file.

        `generation` is that with which the worker started, `inherited` what the file inherits from other files. The
        live generation becomes None if the servers are those of neither, as when an earlier daemon died during a
        change: a reload follows.
        """
        self._started_generation = generation
        texts: dict[Path, str] = {}
        for each in (path, last_good(path)):
            with suppress(OSError):
                text = each.read_text(errors="surrogateescape")
                if reload_part(generation_of(text) or "") == reload_part(generation):
                    texts[each] = text
        parsed = {each: parse(text, inherited) for each, text in texts.items()}
        earlier = parsed.get(last_good(path))
        candidates = {
            str(each): (configuration, None if each == last_good(path) else earlier)
            for each, configuration in parsed.items()
        }
        served = await self._servers.adopt(candidates)
        found = None if served is None else Path(served)
        live = None if found is None else generation_of(texts[found])
        # Without its second part the generation is none that is wanted: the next deployment sets the contents.
        self.live_generation = reload_part(live) if live and self._servers.has_unknown_contents else live
        return found

    async def stop(self) -> None:
        """End what goes on in the background. HAProxy goes on serving."""
        await self.verifier.stop()
        await self._servers.stop()

    def inspect(self) -> Mapping[str, Any]:
        """Return the way and the reason of the last change, and the servers that wait for their deletion."""
        waiting = ["/".join(key) for key in self._servers.waiting]
        return {
            "last_change": self._last_change,
            "servers_waiting_for_deletion": waiting,
            **self._servers.reports.inspect(),
        }

    def metrics(self) -> Iterable[Sample]:
        """Return the number of changes by the way that they took, and the number of servers to be deleted."""
        for way, count in self._changes.items():
            yield Sample("changes", count, {"way": way}, help="Configurations made live, by the way they took")
        yield Sample(
            "servers_waiting_for_deletion",
            len(self._servers.waiting),
            kind="gauge",
            help="Removed servers that still have connections",
        )
        yield from self._servers.reports.metrics()

    def _request_reload(self, reason: str) -> None:
        self.live_generation, self._reload_reason = None, reason
        self._request_apply()

    async def _make_live(
        self, generation: str, wanted: Configuration, changes: Changes | Reload | None
    ) -> tuple[str, str]:
        """Return the way that the change has taken, and the reason."""
        reason = "" if changes is None else changes.reason if isinstance(changes, Reload) else changes.plan.reason
        if isinstance(changes, Changes):
            self._operations.expect_changes({step.key for step in changes.plan.steps})
            try:
                await self._servers.execute(changes)
                executed = time.monotonic()
                await self._operations.confirm_worker(changes.worker.pid)
            except (RuntimeApiError, ControlError) as error:
                self._servers.forget()
                reason = f"{reason}: {error}"
                await self._operations.check()
            else:
                read_back = 0.0 if changes.plan.is_empty else self._servers.verify_seconds
                self.verify_seconds = read_back + time.monotonic() - executed
                return "runtime", reason
        started = time.monotonic()
        self._servers.disconnect()
        way = await self._operations.load(generation)
        if way == "reload":
            self._servers.learn_reload(wanted, time.monotonic() - started)
        self.loaded(generation, wanted)
        return way, reason

    async def _find_live_generation(self, before: str | None) -> str | None:
        """Return the generation that serves after a failed change.

        That is the generation before, unless servers were changed already; then the next change is a reload.
        """
        found: str | None = None
        with suppress(ControlError):
            found = await self._operations.reported_generation()
        unchanged = self._servers.configuration is not None
        if unchanged and before is not None and found == self._started_generation:
            return before
        self._servers.forget()
        return found if unchanged else None
