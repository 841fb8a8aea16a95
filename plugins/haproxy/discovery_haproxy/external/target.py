"""A HAProxy that another program runs: the plugin writes the configuration file and requests reloads, nothing else."""

import asyncio
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from discovery import ApplyError, Health, Sample
from discovery_haproxy.deployment.checking import Checker
from discovery_haproxy.deployment.install import install, stage_all
from discovery_haproxy.deployment.reloading import reload_through_master, wait_until_live
from discovery_haproxy.deployment.target import RefusedError
from discovery_haproxy.deployment.vantage import Vantage, external_vantage
from discovery_haproxy.external.file import ExternalFile
from discovery_haproxy.external.file_lock import FileLock
from discovery_haproxy.external.ownership import is_foreign, read, refusal
from discovery_haproxy.options.config import ExternalConfig, HAProxyConfig
from discovery_haproxy.program.binary import run
from discovery_haproxy.program.control_socket import ControlError, ControlSocket
from discovery_haproxy.program.log_drops import LogDrops
from discovery_haproxy.program.process import pids_of_program
from discovery_haproxy.rendering.render import Rendered
from discovery_haproxy.rendering.route_map import route_map_path
from discovery_haproxy.text.seal import seal

_OPEN_SECONDS = 1.0
"""Timeout in seconds for the generation at the start; without an answer the first apply reloads."""
_HEALTH_SECONDS = 2.0
"""Timeout in seconds for the answer to a health question; HAProxy answers within milliseconds unless it hangs."""
_NEW_FILE_MODE = 0o644
"""Mode of a new configuration file: HAProxy may run as another user."""
_ATTEMPTS = 3
"""Requests to reload by a command in `timeout`: HAProxy forgets a request while the reload before still ends."""
_COMMAND_CHARACTERS = 100
"""Characters of a reload command in an error message."""
_REASON_CHARACTERS = 300
"""Characters of a reload command's output in an error message, which is one line."""


def file_fault(config: ExternalConfig) -> str | None:
    """Return the error message if the configuration file or its map of routes must not be replaced; else None.

    Raises ApplyError.
    """
    path = config.path.resolve()
    foreign = (each for each in (path, route_map_path(path)) if is_foreign(read(each)))
    return None if config.adopt else next(map(refusal, foreign), None)


class ExternalHAProxy:
    """The configuration file of an external HAProxy, and the way to reload that HAProxy. Implements `Target`."""

    running = True
    """An external HAProxy is taken to run: only a reload shows whether it does."""
    reachable = True
    """The sockets of an external HAProxy are its administrator's concern."""

    def __init__(self, config: ExternalConfig, state_dir: Path, log: FilteringBoundLogger) -> None:
        """Store the arguments; `open` asks HAProxy for its generation."""
        self.path = config.path.resolve()
        self._file = ExternalFile(self.path, state_dir, log)
        self._file_lock = FileLock(self.path)
        self._new_text = ""
        self.live_generation: str | None = None
        self.log_drops = LogDrops(log)
        self._config = config
        self._log = log
        self._maps: tuple[Path, ...] = ()
        """Map files that the prepared configuration replaces."""
        if config.master_socket is not None:
            self._control: ControlSocket | None = ControlSocket(config.master_socket)
        elif config.stats_socket is not None:
            self._control = ControlSocket(config.stats_socket, master=False)
        else:
            self._control = None

    async def open(self) -> None:
        """Ask HAProxy for the live generation, if a socket is configured."""
        if self._control is not None:
            with suppress(ControlError):
                self.live_generation = await self._control.live_generation(_OPEN_SECONDS)

    def verify(self, config: HAProxyConfig) -> None:
        """Do nothing: every change is a reload."""

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
        self._new_text = rendered.text
        self._maps = await asyncio.to_thread(
            stage_all, self.path, (seal(rendered.text).encode(),), rendered.maps, mode, owner
        )

    def needs_check(self, _rendered: Rendered) -> bool:
        """Report that a reload follows."""
        return True

    async def deploy(self, generation: str, _checker: Checker, _unchecked: Rendered | None) -> None:
        """Make the prepared configuration live by a reload. Raises ApplyError; the previous file is then put back."""
        self.live_generation = None
        await asyncio.to_thread(self._claim_files)
        await install(self.path, self._maps, lambda: self._reload(generation))
        self.live_generation = generation
        await asyncio.to_thread(self._file.remember)

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
        """Return no metrics: every change is a reload."""
        return ()

    def inspect(self) -> Mapping[str, Any]:
        """Return no details: every change is a reload."""
        return {}

    async def health(self) -> Health:
        """Report whether HAProxy answers, healthy if HAProxy has no socket to ask, and whether the file was edited."""
        edit = await asyncio.to_thread(self._file.edit) or ""
        if self._control is None:
            return Health(detail=edit)
        try:
            self.live_generation = await self._control.live_generation(_HEALTH_SECONDS)
        except ControlError as error:
            return Health(ok=False, detail=f"HAProxy does not answer: {error}")
        await self.log_drops.count(self._control)
        return Health(detail=edit)

    async def hand_over(self) -> None:
        """Leave HAProxy running, and its file to the next daemon."""
        self._file_lock.release()

    async def close(self) -> None:
        """Leave HAProxy running."""
        self._file_lock.release()

    def _claim_files(self) -> None:
        """Keep what a person wrote or edited. Raises ApplyError if a file must not be replaced."""
        if fault := file_fault(self._config):
            raise ApplyError(fault)
        self._file.keep_edits(self._new_text, self._maps)

    async def _reload(self, generation: str) -> None:
        config = self._config
        if config.master_socket is not None and self._control is not None:
            try:
                await reload_through_master(self._control, generation, config.timeout)
            except ControlError as error:
                raise ApplyError(
                    f"the master socket {error}: is HAProxy running with -W -S {config.master_socket}?"
                ) from None
            return
        if self._control is None:
            await self._request_reload()
            return
        # The master forgets a signal that arrives between the start of the new worker and the end of the last reload.
        for attempt in reversed(range(_ATTEMPTS)):
            await self._request_reload()
            try:
                await wait_until_live(self._control, generation, config.timeout / _ATTEMPTS)
            except ApplyError as error:
                if attempt == 0:
                    # A HAProxy that answers has tried, and failed, to load the configuration.
                    raise (RefusedError if (await self.health()).ok else ApplyError)(str(error)) from None
            else:
                return

    async def _request_reload(self) -> None:
        config = self._config
        command = config.command or ("systemctl", "reload", str(config.systemd_unit))
        status, output = await run(command, config.timeout)
        if status != 0:
            lines = [line.strip() for line in output.splitlines() if line.strip()]
            reason = lines[-1][:_REASON_CHARACTERS] if lines else "it printed nothing"
            raise ApplyError(f"`{' '.join(command)[:_COMMAND_CHARACTERS]}` failed with exit {status}: {reason}")
