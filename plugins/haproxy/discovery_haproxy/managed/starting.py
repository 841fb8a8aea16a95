"""Start of a managed HAProxy, and adoption of a HAProxy that outlived an earlier daemon."""

import asyncio
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from structlog.typing import FilteringBoundLogger

from discovery import ApplyError
from discovery.toolkit import ProcessHandle, child_environment
from discovery_haproxy.deployment.install import last_good, restore, restore_routes
from discovery_haproxy.deployment.target import RefusedError
from discovery_haproxy.managed.logpipe import LogPipe
from discovery_haproxy.managed.run_files import RunFiles
from discovery_haproxy.program import process
from discovery_haproxy.program.binary import Binary, alerts, first_alert, first_line
from discovery_haproxy.program.control_socket import ControlError, ControlSocket
from discovery_haproxy.text.generation import generation_of, reload_part

_START_SECONDS = 30.0
"""Seconds until HAProxy must serve after its start; 10,000 backends need about one."""
_ANSWER_SECONDS = 0.2
"""Timeout in seconds for one answer during the start; no answer is normal until the worker listens."""
_POLL_SECONDS = 0.005
"""Seconds between two questions during the start: short, since the start delays the first snapshot."""
_TERMINATE_SECONDS = 1.0
"""Seconds that a HAProxy whose start failed gets to end before SIGKILL."""


class Adopted(NamedTuple):
    """An adopted HAProxy: the handle of its master process, and the generation with which its worker started."""

    handle: ProcessHandle
    generation: str


class Launcher:
    """Starts or adopts the HAProxy of a run directory."""

    def __init__(
        self, files: RunFiles, control: ControlSocket, pipe: LogPipe, log: FilteringBoundLogger, adoption: float
    ) -> None:
        """Store the arguments. `control` is the master socket; HAProxy logs to `pipe`.

        `adoption` is the timeout in seconds for the answer of a HAProxy that is to be adopted.
        """
        self._files = files
        self._control = control
        self._pipe = pipe
        self._log = log
        self._adoption = adoption

    async def adopt(self, binary: Binary) -> Adopted | None:
        """Return a running HAProxy of an earlier daemon, if its command is that of this daemon and HAProxy answers.

        A HAProxy with another program or other arguments goes on serving until `start` replaces it.
        """
        listener = self._control.listener_pid()
        if listener is None:
            return None  # without a search of /proc, which would delay the first snapshot
        processes = process.find_processes(self._files.master_socket_argument)
        program, arguments = os.path.realpath(binary.path), self._command(binary)[1:]
        for master in process.masters(processes):
            same_command = master.program == program and list(master.argv[-len(arguments) :]) == arguments
            if not same_command or master.pid != listener:
                continue
            with suppress(ControlError, ProcessLookupError):
                generation = await self._control.live_generation(self._adoption)
                if generation is None:
                    continue
                adopted = Adopted(ProcessHandle(master.pid, started=master.started), generation)
                self._restore_served_files(generation)
                self._log.info("took over the HAProxy of an earlier daemon", pid=master.pid, generation=generation)
                # The earlier daemon may have died between starting this HAProxy and stopping the one before.
                self._retire(_others(processes, master.pid))
                return adopted
        return None

    async def start(self, binary: Binary, generation: str) -> ProcessHandle:
        """Start HAProxy and return the master's handle when the worker serves `generation`.

        Raises ApplyError with HAProxy's reason, RefusedError if HAProxy itself ended. Other processes of the run
        directory go on serving until `retire_others`.
        """
        if not self._pipe.is_there():
            self._pipe.close()
            self._pipe.open()
        self._pipe.tail.clear()
        handle = self._spawn(binary)
        try:
            await self._wait_until_serving(handle, generation)
        except BaseException:  # also a cancellation: no process stays
            process.send_signal(handle, signal.SIGTERM)
            await handle.wait(_TERMINATE_SECONDS)
            process.send_signal(handle, signal.SIGKILL)
            handle.close()
            raise
        self._log.info("HAProxy started", pid=handle.pid, version=".".join(map(str, binary.version)))
        return handle

    def retire_others(self, master: int) -> None:
        """Tell every HAProxy of the run directory but that of this master to finish its connections and to end.

        Called after a start, since a search of /proc before the start would delay the first snapshot.
        """
        self._retire(_others(process.find_processes(self._files.master_socket_argument), master))

    def _command(self, binary: Binary) -> list[str]:
        return [str(binary.path), "-W", "-S", self._files.master_socket_argument, "-f", str(self._files.config)]

    def _spawn(self, binary: Binary) -> ProcessHandle:
        try:
            child = subprocess.Popen(
                self._command(binary),
                stdin=subprocess.DEVNULL,
                stdout=self._pipe.fileno(),
                stderr=self._pipe.fileno(),
                cwd="/",
                env=child_environment(),
                start_new_session=True,  # Ctrl-C is for the daemon, which then stops HAProxy gracefully
            )
        except OSError as error:
            raise ApplyError(f"{binary.path} cannot be run: {error.strerror}") from None
        return ProcessHandle(child.pid, on_exit=child.wait)

    async def _wait_until_serving(self, handle: ProcessHandle, generation: str) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if not handle.alive:
                self._pipe.drain()
                output = "\n".join(self._pipe.tail)
                reason = first_alert(output) or first_line(output) or "it gave no reason"
                failure = RefusedError(f"HAProxy does not start: {reason}")
                failure.alerts = alerts(output)
                raise failure
            if await self._is_serving(handle, generation):
                return
            await asyncio.sleep(_POLL_SECONDS)
        raise ApplyError(f"HAProxy was not ready within {_START_SECONDS:g} s")

    async def _is_serving(self, handle: ProcessHandle, generation: str) -> bool:
        if self._control.listener_pid() != handle.pid:
            return False  # no process listens, or the HAProxy that is to be replaced
        with suppress(ControlError):
            return await self._control.live_generation(_ANSWER_SECONDS) == generation
        return False

    def _restore_served_files(self, generation: str) -> None:
        """Put back the last good files if the earlier daemon died during a reload and HAProxy serves these files.

        The map of routes is put back as well if only the last good map belongs to the configuration.
        """
        config = self._files.config
        with suppress(OSError):
            part = reload_part(generation)
            if not _is_of(part, config) and _is_of(part, last_good(config)):
                restore(config)
            restore_routes(config)

    def _retire(self, others: list[process.Process]) -> None:
        """Tell processes of an earlier daemon to finish their connections, now that another HAProxy listens."""
        # The workers, too: a master that hangs would not tell them.
        for handle in process.open_handles(others):
            process.send_signal(handle, signal.SIGUSR1)
            handle.close()
        if others:
            pids = [master.pid for master in process.masters(others)]
            self._log.info("replaced the HAProxy of an earlier daemon", pids=pids)


def _is_of(part: str, path: Path) -> bool:
    """Report whether the file is of a generation with this reload part. Raises OSError."""
    generation = generation_of(path.read_text(errors="surrogateescape"))
    return generation is not None and reload_part(generation) == part


def _others(processes: list[process.Process], master: int) -> list[process.Process]:
    """Return the processes that are neither the master with this pid nor below it.

    Below the master are its workers, and what workers have forked for external checks: until such a process runs the
    command of its check, the process has the command line of HAProxy.
    """
    parents = {each.pid: each.parent for each in processes}

    def is_own(pid: int) -> bool:
        return pid == master or (pid in parents and is_own(parents[pid]))

    return [each for each in processes if not is_own(each.pid)]
