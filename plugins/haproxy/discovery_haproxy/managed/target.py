"""A HAProxy that the plugin manages: deployment of configurations to it, and its health.

`starting` starts or adopts HAProxy, `supervising` restarts it, `reloading` reloads it, `stopping` stops it.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from discovery import ApplyError, Health, Sample
from discovery.toolkit import ProcessHandle
from discovery_haproxy.deployment.activation import Activation
from discovery_haproxy.deployment.checking import Checker
from discovery_haproxy.deployment.install import install, last_good, restore, restore_routes, stage_all
from discovery_haproxy.deployment.reloading import reload_through_master
from discovery_haproxy.deployment.target import RefusedError
from discovery_haproxy.deployment.vantage import Vantage, managed_vantage
from discovery_haproxy.limits import LIMITS, Limits
from discovery_haproxy.managed.held_requests import HeldRequests
from discovery_haproxy.managed.logpipe import LogPipe
from discovery_haproxy.managed.run_files import RunFiles
from discovery_haproxy.managed.server_states import (
    has_servers,
    keep_configured,
    rows_with_weights,
    stopped,
    with_stopped,
)
from discovery_haproxy.managed.starting import Launcher
from discovery_haproxy.managed.state_file import StateFile
from discovery_haproxy.managed.stopping import stop_all
from discovery_haproxy.managed.supervising import Supervisor
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.program import process
from discovery_haproxy.program.binary import Binary, alerts, first_alert
from discovery_haproxy.program.control_socket import ControlError, ControlSocket
from discovery_haproxy.program.log_drops import LogDrops
from discovery_haproxy.program.old_workers import OldWorkers
from discovery_haproxy.rendering.render import Rendered
from discovery_haproxy.runtime_api.connection import RuntimeApiError
from discovery_haproxy.runtime_api.execution import Changes
from discovery_haproxy.runtime_api.live_servers import LiveServers
from discovery_haproxy.runtime_api.planner import ServerKey
from discovery_haproxy.text.configuration import Configuration, parse
from discovery_haproxy.text.generation import generation_of, reload_part

_HEALTH_SECONDS = 2.0
"""Timeout in seconds for the answer to a health question; HAProxy answers within milliseconds unless it hangs."""


class ManagedHAProxy:
    """The HAProxy of a run directory, in master-worker mode. Implements `Target`."""

    def __init__(
        self,
        run_dir: Path,
        log: FilteringBoundLogger,
        binary: Binary,
        request_apply: Callable[[], None],
        limits: Limits = LIMITS,
    ) -> None:
        """Store the arguments; `open` creates files and processes. `request_apply` asks the core for a deployment."""
        self._binary = binary
        self._limits = limits
        self._running_binary: Binary | None = None
        self._files = RunFiles(run_dir)
        self._maps: tuple[Path, ...] = ()
        """Map files that the prepared configuration replaces."""
        self._control = ControlSocket(self._files.master_socket)
        self._log = log
        self.log_drops = LogDrops(log)
        self._old_workers = OldWorkers(log)
        self._held = HeldRequests(self._control)
        self._pipe = LogPipe(self._files.log, log)
        self._launcher = Launcher(self._files, self._control, self._pipe, log, limits.adoption)
        self._lock = asyncio.Lock()
        """Held during a deployment and during a restart."""
        self._supervisor = Supervisor(
            self._restart, self._last_log_line, request_apply, self._lock, log, limits.restarts
        )
        self._servers = LiveServers(self._files.stats_socket, self._lock, log, limits=limits)
        self._states = StateFile(self._files.server_states)
        self._activation = Activation(self._servers, self, self._lock, request_apply, log, self._keep_states, limits)
        self._prepared: Rendered | None = None

    @property
    def path(self) -> Path:
        """Path of the configuration file."""
        return self._files.config

    @property
    def live_generation(self) -> str | None:
        """Generation that was last proven to serve."""
        return self._activation.live_generation

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
            if await self._activation.adopt(adopted.generation, self.path) == last_good(self.path):
                with suppress(OSError):
                    restore(self.path)
                    restore_routes(self.path)
        self._supervisor.start()
        self._activation.verifier.start()

    def verify(self, config: HAProxyConfig) -> None:
        """Verify the live servers from now on, as the options say."""
        self._activation.verifier.follow(config)

    async def prepare(self, rendered: Rendered) -> None:
        """Write the configuration and its map files beside the present files. Raises ApplyError or OSError.

        The disk is not waited for: after a crash of the machine no HAProxy runs, and a new one gets new files. So the
        files are written faster than a thread takes over.
        """
        self._prepared = rendered
        self._servers.initially_down = rendered.sections.initially_down
        self._maps = stage_all(self.path, rendered.data, rendered.maps, 0o600, durable=False)

    def needs_check(self, rendered: Rendered) -> bool:
        """Report whether a reload or a start follows. HAProxy checks the commands of the runtime API itself."""
        binary = self._running_binary
        if binary is None or not self.running:
            return True
        return self._activation.needs_check(rendered.configuration, binary.version)

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
            wanted = self._prepared.configuration
            changes = await self._activation.plan(wanted) if self._is_current() else None
            if unchecked is not None and self.running and not isinstance(changes, Changes):
                await checker.check(unchecked)  # HAProxy was restarted meanwhile, and will be reloaded
            await install(
                self.path,
                self._maps,
                lambda: self._activation.activate(generation, wanted, changes),
                durable=False,
            )

    async def check(self) -> None:
        """Check the prepared configuration. Raises ApplyError."""
        assert self._prepared is not None  # noqa: S101 - `prepare` comes first
        await self._binary.check(self._prepared)

    async def load(self, generation: str) -> str:
        """Reload HAProxy, or start a new HAProxy, with the installed configuration. Return the way.

        Raises ApplyError or ControlError.
        """
        assert self._prepared is not None  # noqa: S101 - `prepare` comes first
        way = "reload" if self._reloadable() else "start"
        if self.running and (missing := self._files.missing):
            self._log.warning(f"HAProxy is replaced: {missing} is missing in {self.path.parent}")
        prepared = self._prepared
        await asyncio.gather(self._save_states(prepared, prepared.configuration), self._count_log_drops())
        if way == "start":
            await self._start(generation)
            return way
        await self._held.before_reload(prepared.sections.holding)
        try:
            await self._reload(generation)
        except (ApplyError, ControlError):
            await self._held.after_failure()
            raise
        self._held.after_reload()
        return way

    def expect_changes(self, servers: Collection[ServerKey]) -> None:
        """Forget the states of these servers: a reload by another program reads the states of the last reload."""
        self._states.forget(servers)
        down = [key for key in servers if key[0] in self._servers.initially_down]
        if down and self._prepared is not None:
            self._states.add(stopped(self._prepared.configuration, down))

    async def confirm_worker(self, pid: int) -> None:
        """Raise RuntimeApiError if the master has another worker than this.

        During a reload by another program, which may have read the file before a change, the answer comes after the
        reload.
        """
        if (workers := (await self._control.processes(self._limits.answer)).workers) != (pid,):
            raise RuntimeApiError(f"HAProxy was reloaded by another program: {workers} instead of {pid}")

    async def reported_generation(self) -> str | None:
        """Return the generation with which the worker started. Raises ControlError."""
        return await self._control.live_generation()

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
        self._old_workers.update(processes)
        return Health(detail="; ".join(filter(None, (self._old_workers.detail, self._servers.reports.summary))))

    def inspect(self) -> Mapping[str, Any]:
        """Return the way and the reason of the last change, and the servers that wait for their deletion."""
        return self._activation.inspect()

    def metrics(self) -> Iterable[Sample]:
        """Return the metrics of the changes, and the number of old workers."""
        return (*self._activation.metrics(), self._old_workers.sample)

    @property
    def verify_seconds(self) -> float | None:
        """Seconds of the last change that its proof took; None if that is not known."""
        return self._activation.verify_seconds

    @property
    def statistics(self) -> ControlSocket | None:
        """The master's socket while HAProxy runs, and is not being changed."""
        return self._control if self.running and not self._lock.locked() else None

    async def hand_over(self) -> None:
        """Release HAProxy to the next daemon. HAProxy goes on serving."""
        await self._held.stop()
        await self._activation.stop()
        await self._supervisor.stop()
        self._supervisor.close()
        self._pipe.close()

    async def close(self) -> None:
        """Stop HAProxy gracefully, with every HAProxy of an earlier daemon, which no other daemon would stop."""
        await self._activation.stop()
        await self._supervisor.stop()
        if self.pids():
            await stop_all(self._files, self._log, self._limits.stop)
        await self._held.stop()
        self._supervisor.close()
        self._pipe.close()
        if not self.pids():
            self._files.remove_runtime_files()

    def _is_current(self) -> bool:
        """Report whether HAProxy runs, its program is the wanted one, and its sockets exist."""
        handle = self._supervisor.handle
        return handle is not None and handle.alive and self._binary == self._running_binary and self.reachable

    def _reloadable(self) -> bool:
        """Report whether a reload suffices: HAProxy is current, and listens on the master socket.

        A change at run time asks the master afterwards.
        """
        handle = self._supervisor.handle
        return handle is not None and self._is_current() and self._control.listener_pid() == handle.pid

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
        if self.live_generation is None:
            return False
        text = self.path.read_text(errors="surrogateescape")
        generation = generation_of(text)
        # An adopted HAProxy may have had older contents of certificates or maps than a new HAProxy loads.
        if generation is None or self.live_generation not in (generation, reload_part(generation)):
            raise ApplyError(f"{self.path} was changed by another program")
        # The servers' states at the last reload may be long outdated, but for those that are kept.
        configuration = parse(text)
        await self._save_states(None, configuration)
        await self._start(generation)
        self._activation.loaded(generation, configuration)
        return True

    async def _reload(self, generation: str) -> None:
        self._pipe.tail.clear()
        try:
            await self._while_running(reload_through_master(self._control, generation, limits=self._limits))
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

    async def _save_states(self, rendered: Rendered | None, configuration: Configuration) -> None:
        """Save the states of servers for the next reload or start of the configuration.

        These are the servers of `rendered`, or all of which the states are known.
        """
        reason: str | None = None
        servers = self._servers
        states = self._kept_states()
        # A socket that was removed would only be waited for.
        if self.running and self._files.master_socket.exists():
            try:
                states = await self._control.server_states()
            except ControlError as error:
                reason = str(error)
        if rendered is not None and has_servers(states):  # not at the first start, which the text would delay
            states = keep_configured(
                states,
                rendered.text,
                servers.configuration,
                servers.undecided,
                servers.possible,
                servers.initially_down,
            )
        try:
            self._states.write(with_stopped(states, configuration, servers.initially_down))
        except OSError as error:
            self._states.clear()
            reason = error.strerror
        if reason is not None:  # no reason to fail the apply: the health checks find the states again
            self._log.warning("the servers' states are not carried over this reload", reason=reason)

    def _kept_states(self) -> str:
        """Return the states that an operator has changed."""
        down, operator = self._servers.initially_down, self._servers.reports.operator
        return self._states.of([key for key, each in operator.items() if each.maintenance or key[0] not in down])

    def _keep_states(self, states: str, weights: Mapping[ServerKey, int | None], ended: Collection[ServerKey]) -> None:
        self._states.replace({*weights, *ended}, rows_with_weights(states, weights))

    async def _count_log_drops(self) -> None:
        """Count before a reload, after which an idle worker ends with its count."""
        if self.running and self.reachable:
            await self.log_drops.count(self._control)

    def _last_log_line(self) -> str:
        self._pipe.drain()
        return self._pipe.tail[-1] if self._pipe.tail else ""
