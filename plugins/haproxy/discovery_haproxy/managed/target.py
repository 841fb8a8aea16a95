"""A HAProxy that the plugin manages: deployment of configurations to it, and its health.

`starting` starts or adopts HAProxy, `supervising` restarts it, `reloading` reloads it, `stopping` stops it.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from discovery import ApplyError, Health, Sample
from discovery.toolkit import ProcessHandle
from discovery_haproxy.deployment.checking import Checker
from discovery_haproxy.deployment.install import install, last_good, restore, stage_all
from discovery_haproxy.deployment.reloading import reload_through_master
from discovery_haproxy.deployment.target import RefusedError
from discovery_haproxy.deployment.vantage import Vantage, managed_vantage
from discovery_haproxy.managed.logpipe import LogPipe
from discovery_haproxy.managed.run_files import RunFiles
from discovery_haproxy.managed.server_states import EMPTY_STATES, keep_configured
from discovery_haproxy.managed.starting import Launcher
from discovery_haproxy.managed.state_file import StateFile
from discovery_haproxy.managed.stopping import stop_all
from discovery_haproxy.managed.supervising import Supervisor
from discovery_haproxy.program import process
from discovery_haproxy.program.binary import Binary, alerts, first_alert
from discovery_haproxy.program.control_socket import ControlError, ControlSocket
from discovery_haproxy.program.log_drops import LogDrops
from discovery_haproxy.rendering.render import Rendered
from discovery_haproxy.runtime_api.connection import RuntimeApiError
from discovery_haproxy.runtime_api.live_servers import Changes, LiveServers
from discovery_haproxy.runtime_api.planner import Reload
from discovery_haproxy.text.configuration import Configuration, parse
from discovery_haproxy.text.generation import generation_of, reload_part

_ANSWER_SECONDS = 5.0
"""Timeout in seconds for the answer after a change of servers; a master that loads 10,000 backends needs one."""
_HEALTH_SECONDS = 2.0
"""Timeout in seconds for the answer to a health question; HAProxy answers within milliseconds unless it hangs."""
_MANY_WORKERS = 5
"""Number of old workers above which `health` mentions them: each keeps memory and connections."""


class ManagedHAProxy:
    """The HAProxy of a run directory, in master-worker mode. Implements `Target`."""

    def __init__(
        self, run_dir: Path, log: FilteringBoundLogger, binary: Binary, request_apply: Callable[[], None]
    ) -> None:
        """Store the arguments; `open` creates files and processes. `request_apply` asks the core for a deployment."""
        self._binary = binary
        self._running_binary: Binary | None = None
        self._files = RunFiles(run_dir)
        self._live_generation: str | None = None
        self._started_generation: str | None = None
        """The generation with which the worker started. The runtime API may have changed servers since."""
        self._maps: tuple[Path, ...] = ()
        """Map files that the prepared configuration replaces."""
        self._control = ControlSocket(self._files.master_socket)
        self._log = log
        self.log_drops = LogDrops(log)
        self._pipe = LogPipe(self._files.log, log)
        self._launcher = Launcher(self._files, self._control, self._pipe, log)
        self._lock = asyncio.Lock()
        """Held during a deployment and during a restart."""
        self._supervisor = Supervisor(self._restart, self._last_log_line, request_apply, self._lock, log)
        self._servers = LiveServers(self._files.stats_socket, self._lock, log)
        self._states = StateFile(self._files.server_states)
        self._changes = {"runtime": 0, "reload": 0}
        self._last_change: dict[str, Any] | None = None
        self._prepared: Rendered | None = None
        self._parsed = "", parse("")

    @property
    def path(self) -> Path:
        """Path of the configuration file."""
        return self._files.config

    @property
    def live_generation(self) -> str | None:
        """Generation that was last proven to serve."""
        return self._live_generation

    @property
    def running(self) -> bool:
        """Report whether a HAProxy of this run directory runs."""
        return self._supervisor.running

    @property
    def reachable(self) -> bool:
        """Report whether the sockets and the log pipe exist. Only a new HAProxy recreates them, not a reload."""
        return self._pipe.is_there() and self._files.stats_socket.exists() and self._files.master_socket.exists()

    async def open(self) -> None:
        """Adopt a HAProxy that outlived an earlier daemon. Raises ApplyError or OSError."""
        if too_long := self._files.path_length_error:
            raise ApplyError(too_long)
        try:
            self._pipe.open()
        except OSError as error:
            raise ApplyError(f"{self.path.parent} cannot be used for HAProxy: {error.strerror}") from None
        if adopted := await self._launcher.adopt(self._binary):
            self._watch(adopted.handle, self._binary)
            self._started_generation = adopted.generation
            self._live_generation = await self._adopt_servers(adopted.generation)
        self._supervisor.start()

    async def prepare(self, rendered: Rendered) -> None:
        """Write the configuration and its map files beside the present files. Raises ApplyError or OSError."""
        self._prepared = rendered
        self._maps = await asyncio.to_thread(stage_all, self.path, rendered.text, rendered.maps, 0o600)

    def needs_check(self, text: str) -> bool:
        """Report whether a reload or a start follows. HAProxy checks the commands of the runtime API itself."""
        binary = self._running_binary
        return binary is None or not self.running or not self._servers.suffice_for(self._parse(text), binary.version)

    async def deploy(self, generation: str, checker: Checker, unchecked: Rendered | None) -> None:
        """Make the prepared configuration live, through the runtime API, by a reload or by a new HAProxy.

        The files are replaced first, so that a reload by another program at any moment leads to the same state. A new
        HAProxy is the check of an `unchecked` configuration. Raises ApplyError with HAProxy's reason; the previous
        configuration then goes on serving.
        """
        assert isinstance(checker, Binary)  # noqa: S101 - another check is for an external HAProxy
        async with self._lock:
            self._binary = checker
            assert self._prepared is not None  # noqa: S101 - `prepare` comes first
            wanted = self._parse(self._prepared.text)
            changes = await self._plan(wanted) if self._reloadable() else None
            if unchecked is not None and self.running and not isinstance(changes, Changes):
                await checker.check(unchecked)  # HAProxy was restarted meanwhile, and will be reloaded
            await install(self.path, self._maps, lambda: self._activate(generation, wanted, changes))

    def pids(self) -> set[int]:
        """Return the pids of all HAProxy processes of this run directory."""
        return {each.pid for each in process.find_processes(self._files.master_socket_argument)}

    def vantage(self) -> Vantage:
        """Return HAProxy's processes, and whether HAProxy may do more than this process."""
        return managed_vantage(self.pids(), self._binary.path)

    async def health(self) -> Health:
        """Report whether HAProxy runs and answers."""
        if self._supervisor.handle is None:
            return Health(detail="HAProxy is started with the first snapshot")
        if not self.running:
            return Health(ok=False, detail=self._supervisor.failure or "HAProxy has ended")
        if self._lock.locked():
            return Health(detail="HAProxy is being reloaded")
        try:
            processes = await self._control.processes(_HEALTH_SECONDS)
        except ControlError as error:
            return Health(ok=False, detail=f"HAProxy does not answer: {error}")
        await self.log_drops.count(self._control)
        if len(processes.old) > _MANY_WORKERS:
            return Health(
                detail=f"{len(processes.old)} old workers still serve connections; a shorter hard_stop_after ends them"
            )
        return Health()

    def inspect(self) -> Mapping[str, Any]:
        """Return the way and the reason of the last change, and the servers that wait for their deletion."""
        waiting = ["/".join(key) for key in self._servers.waiting]
        return {"last_change": self._last_change, "servers_waiting_for_deletion": waiting}

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

    async def hand_over(self) -> None:
        """Release HAProxy to the next daemon. HAProxy goes on serving."""
        await self._servers.stop()
        await self._supervisor.stop()
        self._supervisor.close()
        self._pipe.close()

    async def close(self) -> None:
        """Stop HAProxy gracefully, with every HAProxy of an earlier daemon, which no other daemon would stop."""
        await self._servers.stop()
        await self._supervisor.stop()
        if self.pids():
            await stop_all(self._files, self._log)
        self._supervisor.close()
        self._pipe.close()
        if not self.pids():
            self._files.remove_runtime_files()

    def _parse(self, text: str) -> Configuration:
        """Parse the text, once for the steps of a deployment."""
        if text != self._parsed[0]:
            self._parsed = text, parse(text)
        return self._parsed[1]

    async def _plan(self, wanted: Configuration) -> Changes | Reload:
        if self._live_generation is None:
            return Reload("the configuration of the running HAProxy is unknown")
        return await self._servers.prepare(wanted, self._live_generation)

    async def _activate(self, generation: str, wanted: Configuration, changes: Changes | Reload | None) -> None:
        """Make the installed file live. None instead of `changes` stands for a start."""
        started = time.monotonic()
        # Unknown until the end, also if this task is cancelled.
        before, self._live_generation = self._live_generation, None
        try:
            way, reason = await self._make_live(generation, wanted, changes)
        except (ApplyError, ControlError) as error:
            self._live_generation = await self._find_live_generation(before) if self.running else before
            if isinstance(error, ControlError):
                raise ApplyError(f"HAProxy does not answer: {error}") from None
            raise
        self._live_generation = generation
        if way in self._changes:
            self._changes[way] += 1
            seconds = round(time.monotonic() - started, 4)
            self._last_change = {"way": way, "reason": reason, "seconds": seconds}
            self._log.info("the configuration was changed", **self._last_change)

    async def _make_live(
        self, generation: str, wanted: Configuration, changes: Changes | Reload | None
    ) -> tuple[str, str]:
        """Return the way that the change has taken, and the reason."""
        prepared = self._prepared
        assert prepared is not None  # noqa: S101 - `prepare` comes first
        if changes is None or not self._reloadable():
            await self._save_states(prepared.text)
            await self._start(generation)
            self._note_start(generation, wanted)
            return "start", ""
        reason = changes.reason if isinstance(changes, Reload) else changes.plan.reason
        if isinstance(changes, Changes):
            # A reload by another program reads the states of the last reload.
            self._states.forget({step.key for step in changes.plan.steps})
            try:
                await self._servers.execute(changes)
                await self._expect_worker(changes.worker.pid)
            except (RuntimeApiError, ControlError) as error:
                self._servers.forget()
                reason = f"{reason}: {error}"
                await self._binary.check(prepared)
            else:
                return "runtime", reason
        await asyncio.gather(self._save_states(prepared.text), self._count_log_drops())
        await self._reload(generation)
        self._note_start(generation, wanted)
        return "reload", reason

    def _note_start(self, generation: str, configuration: Configuration) -> None:
        self._started_generation = generation
        self._servers.started(configuration)

    async def _expect_worker(self, pid: int) -> None:
        """Raise RuntimeApiError if the master has another worker than this.

        During a reload by another program, which may have read the file before this change, the answer comes after the
        reload.
        """
        if (workers := (await self._control.processes(_ANSWER_SECONDS)).workers) != (pid,):
            raise RuntimeApiError(f"HAProxy was reloaded by another program: {workers} instead of {pid}")

    async def _find_live_generation(self, before: str | None) -> str | None:
        """Return the generation that serves after a failed change.

        That is the generation before, unless servers were changed already; then the next change is a reload.
        """
        found: str | None = None
        with suppress(ControlError):
            found = await self._control.live_generation()
        unchanged = self._servers.configuration is not None
        if unchanged and before is not None and found == self._started_generation:
            return before
        self._servers.forget()
        return found if unchanged else None

    async def _adopt_servers(self, generation: str) -> str | None:
        """Return the generation of the file that an adopted HAProxy serves: of the configuration file or the last good.

        None if the servers are those of neither, as when the earlier daemon died amid a change: a reload follows.
        """
        texts: dict[Path, str] = {}
        for path in (self.path, last_good(self.path)):
            with suppress(OSError, UnicodeDecodeError):
                text = path.read_text()
                if reload_part(generation_of(text) or "") == reload_part(generation):
                    texts[path] = text
        parsed = {path: parse(text) for path, text in texts.items()}
        earlier = parsed.get(last_good(self.path))
        candidates = {
            str(path): (each, None if path == last_good(self.path) else earlier) for path, each in parsed.items()
        }
        served = await self._servers.adopt(candidates)
        if served is None:
            return None
        if served == str(last_good(self.path)):
            restore(self.path)
        return generation_of(texts[Path(served)])

    def _reloadable(self) -> bool:
        """Report whether a reload suffices: HAProxy runs, its program is the wanted one, its sockets exist."""
        handle = self._supervisor.handle
        if handle is None or not handle.alive or self._binary != self._running_binary:
            return False
        return self.reachable and self._control.listener_pid() == handle.pid

    async def _start(self, generation: str) -> None:
        binary = self._binary
        handle = await self._launcher.start(binary, generation)
        self._watch(handle, binary)
        self._launcher.retire_others(handle.pid)

    def _watch(self, handle: ProcessHandle, binary: Binary) -> None:
        self._running_binary = binary
        self._supervisor.watch(handle)

    async def _restart(self) -> bool:
        """Start HAProxy with the configuration that served last; return False if none is proven."""
        if self._live_generation is None:
            return False
        text = self.path.read_text(errors="replace")
        if generation_of(text) != self._live_generation:
            raise ApplyError(f"{self.path} was changed by another program")
        # The servers' states at the last reload may be long outdated.
        await self._save_states("")
        await self._start(self._live_generation)
        self._note_start(self._live_generation, parse(text))
        return True

    async def _reload(self, generation: str) -> None:
        self._pipe.tail.clear()
        try:
            await self._while_running(reload_through_master(self._control, generation))
        except ApplyError as error:
            self._pipe.drain()
            output = "\n".join(self._pipe.tail)
            if reason := first_alert(output):
                failure = type(error)(f"HAProxy cannot load the new configuration: {reason}")
                if isinstance(failure, RefusedError):
                    failure.alerts = alerts(output)
                raise failure from None
            raise

    async def _while_running(self, work: Coroutine[None, None, None]) -> None:
        """Await `work`. Raises ApplyError if HAProxy ends before."""
        handle = self._supervisor.handle
        assert handle is not None  # noqa: S101 - only a running HAProxy is reloaded
        working, ended = asyncio.create_task(work), asyncio.create_task(handle.wait())
        try:
            await asyncio.wait((working, ended), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise ApplyError("HAProxy ended while it loaded the new configuration")
            working.result()
        finally:
            for task in (working, ended):
                task.cancel()
            await asyncio.gather(working, ended, return_exceptions=True)

    async def _save_states(self, text: str) -> None:
        """Save the states of the servers that `text` configures, for the next reload or start."""
        try:
            # A socket that was removed would only be waited for.
            reachable = self.running and self._files.master_socket.exists()
            states = EMPTY_STATES
            if reachable:
                known = self._servers.configuration
                states = keep_configured(await self._control.server_states(), text, known, self._servers.undecided)
            self._states.write(states)
        except (ControlError, OSError) as error:
            self._states.clear()
            # No reason to fail the apply: the health checks find the states again.
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self._log.warning("the servers' states are not carried over this reload", reason=reason)

    async def _count_log_drops(self) -> None:
        """Count before a reload, after which an idle worker ends with its count."""
        if self.running and self.reachable:
            await self.log_drops.count(self._control)

    def _last_log_line(self) -> str:
        self._pipe.drain()
        return self._pipe.tail[-1] if self._pipe.tail else ""
