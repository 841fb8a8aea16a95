"""A HAProxy that another program runs: the plugin writes a file, changes servers, and requests reloads."""

import asyncio
import stat
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from discovery import ApplyError, Health, Sample
from discovery_haproxy.deployment.activation import Activation
from discovery_haproxy.deployment.checking import Checker
from discovery_haproxy.deployment.install import install, stage_all
from discovery_haproxy.deployment.reloading import reload_through_master
from discovery_haproxy.deployment.target import RefusedError
from discovery_haproxy.deployment.vantage import Vantage, external_vantage
from discovery_haproxy.external.file import ExternalFile
from discovery_haproxy.external.file_lock import FileLock
from discovery_haproxy.external.own_files import OwnFiles
from discovery_haproxy.external.ownership import is_foreign, read, refusal
from discovery_haproxy.external.requests import NotLiveError, ReloadRequests
from discovery_haproxy.limits import LIMITS, Limits
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.options.external import ExternalConfig
from discovery_haproxy.program.binary import run
from discovery_haproxy.program.control_socket import ControlError, ControlSocket
from discovery_haproxy.program.log_drops import LogDrops
from discovery_haproxy.program.old_workers import OldWorkers
from discovery_haproxy.program.process import pids_of_program
from discovery_haproxy.rendering.render import Rendered
from discovery_haproxy.rendering.route_map import route_map_path
from discovery_haproxy.runtime_api.connection import LevelError, RuntimeApiError, Worker
from discovery_haproxy.runtime_api.live_servers import LiveServers
from discovery_haproxy.runtime_api.planner import Reload, ServerKey
from discovery_haproxy.text.configuration import Inherited
from discovery_haproxy.text.seal import seal

_OPEN_SECONDS = 1.0
"""Timeout in seconds for the generation at the start; without an answer the first apply reloads."""
_HEALTH_SECONDS = 2.0
"""Timeout in seconds for the answer to a health question; HAProxy answers within milliseconds unless it hangs."""
_NEW_FILE_MODE = 0o644
"""Mode of a new configuration file: HAProxy may run as another user."""
_COMMAND_CHARACTERS = 100
"""Characters of a reload command in an error message."""
_REASON_CHARACTERS = 300
"""Characters of a reload command's output in an error message, which is one line."""


def file_fault(config: ExternalConfig) -> str | None:
    """Return the error message if the configuration file or its map of routes must not be replaced; else None.

    Raises ApplyError.
    """
    if config.file is None:
        return None
    paths = config.file, route_map_path(config.file)
    foreign = (refusal(each, config.option) for each in paths if is_foreign(read(each)))
    return None if config.adopt else next(foreign, None)


class ExternalHAProxy:
    """The configuration file of an external HAProxy, and the way to reload that HAProxy. Implements `Target`."""

    running = True
    """An external HAProxy is taken to run: only a reload shows whether it does."""
    reachable = True
    """The sockets of an external HAProxy are its administrator's concern."""

    def __init__(
        self,
        config: ExternalConfig,
        own_files: OwnFiles,
        state_dir: Path,
        log: FilteringBoundLogger,
        request_apply: Callable[[], None],
        limits: Limits = LIMITS,
    ) -> None:
        """Store the arguments; `open` asks HAProxy for its generation. `request_apply` asks for a deployment.

        `own_files` are the operator's files beside a fragment.
        """
        assert config.file is not None  # noqa: S101 - `Slots` has no file
        self.path = config.file
        self._own_files = own_files
        self._file = ExternalFile(self.path, state_dir, log)
        self._file_lock = FileLock(self.path, config.option)
        self.log_drops = LogDrops(log)
        self._old_workers = OldWorkers(log)
        self._config = config
        self._limits = limits
        self._log = log
        self._request_apply = request_apply
        self._prepared: Rendered | None = None
        self._requests = ReloadRequests(self._request_reload, config.timeout)
        self._checker: Checker | None = None
        self._maps: tuple[Path, ...] = ()
        """Map files that the prepared configuration replaces."""
        self._lock = asyncio.Lock()
        """Held during a deployment, and while the servers of the running HAProxy are read."""
        self._servers = LiveServers(config.stats_socket, self._lock, log, config.marker, limits)
        self._worker: Worker | None = None
        """The worker that serves; None if that is unknown."""
        self._level_fault = ""
        """Why servers cannot be changed through the stats socket; empty if they can."""
        self._activation = Activation(self._servers, self, self._lock, request_apply, log, limits=limits)
        if config.master_socket is not None:
            self._control: ControlSocket | None = ControlSocket(config.master_socket, marker=config.marker)
        elif config.stats_socket is not None:
            self._control = ControlSocket(config.stats_socket, master=False, marker=config.marker)
        else:
            self._control = None

    @property
    def live_generation(self) -> str | None:
        """Generation of the configuration that HAProxy serves, as far as proven; else None."""
        return self._activation.live_generation

    async def open(self) -> None:
        """Ask HAProxy for the live generation and its servers, if a socket is configured."""
        if self._control is not None:
            with suppress(ControlError):
                await self._adopt(await self._control.live_generation(_OPEN_SECONDS))
        if self._config.stats_socket is not None:
            self._activation.verifier.start()

    def verify(self, config: HAProxyConfig) -> None:
        """Compare the live servers with the wanted servers from now on, as the options say."""
        self._activation.verifier.follow(config)

    async def prepare(self, rendered: Rendered) -> None:
        """Write the configuration and its map files beside the present files, with that file's mode and owner.

        Raises ApplyError, also for a file that a person wrote and that may not be adopted.
        """
        if fault := file_fault(self._config):
            raise ApplyError(fault)
        await self._file_lock.take()
        try:
            state = self.path.stat()
            mode, owner = stat.S_IMODE(state.st_mode), (state.st_uid, state.st_gid)
        except FileNotFoundError:
            mode, owner = _NEW_FILE_MODE, None
        except OSError as error:
            raise ApplyError(f"{self.path} cannot be inspected: {error.strerror}") from None
        self._prepared = rendered
        self._maps = await asyncio.to_thread(
            stage_all, self.path, (seal(rendered.text).encode(errors="surrogateescape"),), rendered.maps, mode, owner
        )

    def needs_check(self, rendered: Rendered) -> bool:
        """Report whether a reload follows. HAProxy checks the commands of the runtime API itself."""
        worker = self._worker
        return worker is None or self._activation.needs_check(rendered.configuration, worker.version)

    async def deploy(self, generation: str, checker: Checker, unchecked: Rendered | None) -> None:
        """Make the prepared configuration live, through the runtime API or by a reload.

        The files are replaced first, so that a reload by another program at any moment leads to the same state. Raises
        ApplyError; the previous file is then put back.
        """
        async with self._lock:
            assert self._prepared is not None  # noqa: S101 - `prepare` comes first
            self._checker = checker
            wanted = self._prepared.configuration
            changes = await self._activation.plan(wanted)
            if unchecked is not None and isinstance(changes, Reload):
                await checker.check(unchecked)
            await asyncio.to_thread(self._claim_files, self._prepared.text)
            before = self._worker
            await install(self.path, self._maps, lambda: self._activation.activate(generation, wanted, changes))
            reloaded = before is None or self._worker is not before
            self._note_inherited_lines(self._prepared.neighbours.inherited, reloaded=reloaded)
            await asyncio.to_thread(self._file.remember)

    async def check(self) -> None:
        """Check the prepared configuration. Raises ApplyError."""
        assert self._prepared is not None  # noqa: S101 - `prepare` comes first
        assert self._checker is not None  # noqa: S101 - of `deploy`
        await self._checker.check(self._prepared)

    async def load(self, generation: str) -> str:
        """Reload HAProxy. Raises ApplyError."""
        self._worker = None
        await self._reload(generation)
        with suppress(RuntimeApiError):
            self._worker = await self._servers.worker()
        return "reload"

    def expect_changes(self, servers: Collection[ServerKey]) -> None:
        """Do nothing: the states of an external HAProxy's servers are its administrator's concern."""

    async def confirm_worker(self, pid: int) -> None:
        """Raise RuntimeApiError if the master has another worker than this. Without a master socket, trust the worker.

        During a reload by another program the answer comes after the reload. Without a master socket `health` notices
        another worker.
        """
        if self._control is not None and self._control.master:
            workers = (await self._control.processes()).workers
            if workers != (pid,):
                raise RuntimeApiError(f"HAProxy was reloaded by another program: {workers} instead of {pid}")

    async def reported_generation(self) -> str | None:
        """Return the generation with which the worker started; None without a socket. Raises ControlError."""
        return await self._control.live_generation() if self._control is not None else None

    def vantage(self) -> Vantage:
        """Return the processes behind the socket, and how far this process sees what HAProxy sees.

        Without an answer of a socket, a unit of systemd is any HAProxy of this machine, and a command may reload a
        HAProxy of another machine.
        """
        listener = self._control.listener_pid() if self._control else None
        if listener is not None:
            return external_vantage({listener})
        return external_vantage(pids_of_program("haproxy") if self._config.systemd_unit else ())

    def metrics(self) -> Iterable[Sample]:
        """Return the metrics of the changes and, if HAProxy's master can be asked, the number of old workers."""
        old_workers = () if self._config.master_socket is None else (self._old_workers.sample,)
        return (*self._activation.metrics(), *old_workers)

    def inspect(self) -> Mapping[str, Any]:
        """Return the way and the reason of the last change, and the servers that wait for their deletion."""
        return self._activation.inspect()

    async def health(self) -> Health:
        """Report whether HAProxy answers, healthy if HAProxy has no socket to ask, and whether the file was edited.

        Find out what HAProxy serves if another program has reloaded or restarted HAProxy.
        """
        edit = await asyncio.to_thread(self._file.edit) or ""
        if self._control is None:
            return Health(detail=edit)
        try:
            generation = await self._control.live_generation(_HEALTH_SECONDS)
        except ControlError as error:
            return Health(ok=False, detail=f"HAProxy does not answer: {error}")
        await self.log_drops.count(self._control)
        if self._control.master:
            with suppress(ControlError):
                self._old_workers.update(await self._control.processes(_HEALTH_SECONDS))
        level = await self._look_at_worker(generation)
        return Health(
            detail="; ".join(filter(None, (edit, level, self._old_workers.detail, self._servers.reports.summary)))
        )

    @property
    def verify_seconds(self) -> float | None:
        """Seconds of the last change that its proof took; None if that is not known."""
        return self._activation.verify_seconds

    @property
    def statistics(self) -> ControlSocket | None:
        """The socket of the configuration, while HAProxy is not being changed."""
        return self._control if not self._lock.locked() else None

    async def hand_over(self) -> None:
        """Leave HAProxy running. The next daemon takes over the configuration file."""
        await self._activation.stop()
        self._file_lock.release()

    async def close(self) -> None:
        """Leave HAProxy running."""
        await self._activation.stop()
        self._file_lock.release()

    async def _look_at_worker(self, generation: str | None) -> str:
        """Find out what HAProxy serves if another worker than before serves. Return why servers cannot be changed.

        `generation` is that with which the worker started.
        """
        if self._lock.locked():
            return ""  # a deployment is under way
        async with self._lock:
            before = self._activation.live_generation
            try:
                changed = self._config.stats_socket is None or await self._servers.worker() != self._worker
            except LevelError:
                changed = True
            except RuntimeApiError:
                return ""  # HAProxy is being reloaded, and the next look will tell
            if changed:
                await self._adopt(generation)
            live = self._activation.live_generation
            if self._config.stats_socket is not None and before is not None and live != before:
                self._log.info("HAProxy was reloaded by another program, and does not serve the latest configuration")
                self._request_apply()
            return self._level_fault

    async def _adopt(self, generation: str | None) -> None:
        """Find out which configuration the worker serves, which started with `generation`."""
        self._worker, before, self._level_fault = None, self._level_fault, ""
        # Without a socket that can change servers, the servers are those of the start.
        self._activation.live_generation = generation
        if self._config.stats_socket is None:
            return
        try:
            worker = await self._servers.worker()
        except LevelError as error:
            self._level_fault = f"{self._config.stats_socket}: {error}"
            if self._level_fault != before:
                self._log.warning(self._level_fault)
        except RuntimeApiError:
            self._activation.live_generation = None
        else:
            try:
                inherited = self._own_files.read().inherited
            except ApplyError:  # the next deployment tells
                self._activation.live_generation = None
                return
            # Not what a person has edited: such servers would be put right as the person wants them.
            path = await asyncio.to_thread(lambda: self._file.as_written)
            await self._activation.adopt(worker.generation, path, inherited)
            self._worker = worker
            if inherited != self._own_files.loaded and self._own_files.changed_since(int(worker.started or 0)):
                self._servers.forget()  # the worker may have read other lines than those that are in the files now
            self._own_files.loaded = inherited

    def _note_inherited_lines(self, inherited: Inherited, *, reloaded: bool) -> None:
        """Note what HAProxy has loaded: after a reload the operator's lines as they were when the text was rendered.

        The next change is a reload if these lines have changed since.
        """
        self._own_files.loaded = inherited
        if not reloaded:
            return
        with suppress(ApplyError):
            if self._own_files.read().inherited == inherited:
                return
        self._servers.forget()

    def _claim_files(self, text: str) -> None:
        """Keep what a person wrote or edited, before `text` replaces it. Raises ApplyError if that is not allowed."""
        if fault := file_fault(self._config):
            raise ApplyError(fault)
        self._file.keep_edits(text, self._maps)

    async def _reload(self, generation: str) -> None:
        config = self._config
        if config.master_socket is not None and self._control is not None:
            try:
                await reload_through_master(self._control, generation, config.timeout, self._limits)
            except ControlError as error:
                raise ApplyError(
                    f"the master socket {error}: is HAProxy running with -W -S {config.master_socket}?"
                ) from None
            except RefusedError:
                raise
            except ApplyError as error:
                raise await self._explained(error) from None
            return
        if self._control is None:
            await self._request_reload()
            return
        try:
            await self._requests.reload(self._control, generation)
        except NotLiveError as error:
            # A HAProxy that answers has tried, and failed, to load the configuration.
            refused = (RefusedError if (await self.health()).ok else ApplyError)(str(error))
            raise await self._explained(refused) from None

    async def _explained(self, error: ApplyError) -> ApplyError:
        """Return a better error if HAProxy runs and does not know the fragment; else `error`."""
        with suppress(ControlError):
            if self._config.fragment is not None and await self.reported_generation() is None:
                return ApplyError(
                    f"HAProxy does not load {self.path}: name the file on HAProxy's command line, after your own files"
                    f" (`-f {self.path}`), and restart HAProxy"
                )
        return error

    async def _request_reload(self) -> None:
        config = self._config
        command = config.command or ("systemctl", "reload", str(config.systemd_unit))
        status, output = await run(command, config.timeout)
        if status != 0:
            lines = [line.strip() for line in output.splitlines() if line.strip()]
            reason = lines[-1][:_REASON_CHARACTERS] if lines else "it printed nothing"
            raise ApplyError(f"`{' '.join(command)[:_COMMAND_CHARACTERS]}` failed with exit {status}: {reason}")
