"""A HAProxy of our own: started, watched, reloaded, taken over from a daemon that died, and stopped in order."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Coroutine
from contextlib import suppress
from itertools import chain, repeat
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from discovery.errors import ApplyError
from discovery.plugin import Health
from discovery.system.environment import for_children
from discovery.system.process import ProcessHandle
from discovery.system.rundir import SOCKET_PATH_BYTES, is_too_long_for_a_socket
from discovery_haproxy import process, reload
from discovery_haproxy.binary import Binary, complaint, first_line
from discovery_haproxy.control import Control, ControlError
from discovery_haproxy.family import Family, hold
from discovery_haproxy.install import install, last_good, restore, stage
from discovery_haproxy.logpipe import LogPipe
from discovery_haproxy.probe import SUFFIX
from discovery_haproxy.states import NO_STATES, still_wanted

STOP_SECONDS = 6.0
"""How long connections may take to end when we stop; the core gives us 10, of which it may wait 2 for an apply."""

_START_SECONDS = 30.0
_ADOPT_SECONDS = 5.0
_POLL = 0.005
_MANY_WORKERS = 5
_RESTARTS = (0.0, 0.5, 1.0, 2.0, 5.0)
_RESTART_EVERY = 10.0
_HEALTHY_AFTER = 60.0


class Files:
    """The paths in the run directory."""

    def __init__(self, run_dir: Path) -> None:
        """Name the files; none is touched."""
        run_dir = run_dir.absolute()
        self.config = run_dir / "haproxy.cfg"
        self.stats_socket = run_dir / "stats.sock"
        self.server_states = run_dir / "servers.state"
        self.master_socket = run_dir / "master.sock"
        self.log = run_dir / "log.pipe"
        self.mark = f"{self.master_socket},mode,600"
        """The argument by which every process of this run directory is known."""

    @property
    def fault(self) -> str | None:
        """Why HAProxy can have no sockets here, if it cannot."""
        if not is_too_long_for_a_socket(self.master_socket, SUFFIX):
            return None
        return (
            f"{self.master_socket} is a path of more than {SOCKET_PATH_BYTES - SUFFIX} bytes, too long for HAProxy's"
            " sockets: choose a shorter name for the instance, or another --run-dir"
        )

    def remove_leftovers(self) -> None:
        """Remove what is of use only while HAProxy runs; the configuration stays."""
        for path in (self.stats_socket, self.server_states, self.master_socket, self.log):
            with suppress(OSError):
                path.unlink()


async def end(run_dir: Path, log: FilteringBoundLogger) -> list[int]:
    """Stop in order what an earlier daemon left in this run directory; the pids of its masters."""
    files = Files(run_dir)
    family = Family(Control(files.master_socket), files.mark, log)
    if pids := [each.pid for each in process.masters(family.processes())]:
        await family.stop(STOP_SECONDS)
        files.remove_leftovers()
    return pids


class Managed:
    """The one HAProxy of a run directory, in master-worker mode."""

    def __init__(self, run_dir: Path, log: FilteringBoundLogger, binary: Binary) -> None:
        """Prepare; `open` does the work."""
        self._binary = binary
        self._files = files = Files(run_dir)
        self.path = files.config
        self.live: str | None = None
        """The generation that was last proven to serve."""
        self._state_file = files.server_states
        self._socket = files.master_socket
        self._mark = files.mark
        self._control = Control(self._socket)
        self._family = Family(self._control, self._mark, log)
        self._log = log
        self._pipe = LogPipe(files.log, log)
        self._handle: ProcessHandle | None = None
        self._taken = asyncio.Event()
        self._running_binary: Binary | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._busy = asyncio.Lock()
        self._died: str | None = None

    @property
    def running(self) -> bool:
        """Whether there is a HAProxy of ours."""
        return self._handle is not None and self._handle.alive

    @property
    def intact(self) -> bool:
        """Whether what HAProxy is reached by is still there. A reload would not make it again: a new HAProxy has to."""
        return self._pipe.is_there() and self._files.stats_socket.exists() and self._socket.exists()

    async def open(self) -> None:
        """Begin, and take over the HAProxy that outlived a daemon, if there is one. Raises ApplyError or OSError."""
        if reason := self._files.fault:
            raise ApplyError(reason)
        try:
            self._pipe.open()
        except OSError as error:
            raise ApplyError(f"{self._socket.parent} cannot be used for HAProxy: {error.strerror}") from None
        await self._adopt(self._binary)
        self._supervisor = asyncio.create_task(self._supervise())

    async def prepare(self, text: str) -> None:
        """Do what can be done before `text` is known to be good. Raises ApplyError or OSError."""
        await asyncio.gather(asyncio.to_thread(stage, self.path, text.encode(), 0o600), self._save_states(text))

    async def deploy(self, generation: str, binary: Binary, unchecked: str | None) -> None:
        """Make what was prepared serve, by this program; what is `unchecked` only by starting it.

        Raises ApplyError, with HAProxy's reason; what served then goes on serving.
        """
        async with self._busy:
            self._binary = binary
            if unchecked is not None and self.running:
                await binary.check(unchecked)  # it has been restarted meanwhile, and is to be reloaded
            await install(self.path, lambda: self._activate(generation))

    def pids(self) -> set[int]:
        """Every process of ours."""
        return {each.pid for each in self._family.processes()}

    async def health(self) -> Health:
        """Whether it runs and answers."""
        if self._handle is None:
            return Health(detail="HAProxy is started with the first snapshot")
        if not self._handle.alive:
            return Health(ok=False, detail=self._died or "HAProxy has ended")
        if self._busy.locked():
            return Health(detail="HAProxy is being reloaded")
        try:
            processes = await self._control.processes(2.0)
        except ControlError as error:
            return Health(ok=False, detail=f"HAProxy does not answer: {error}")
        if len(processes.old) > _MANY_WORKERS:
            return Health(
                detail=f"{len(processes.old)} old workers still serve connections; a shorter hard_stop_after ends them"
            )
        return Health()

    async def leave(self) -> None:
        """Leave HAProxy as it is, for another daemon to take over."""
        await self._unwatch()
        if self._handle is not None:
            self._handle.close()
        self._pipe.close()

    async def close(self) -> None:
        """Stop HAProxy: at once for new connections, for those that it has within `STOP_SECONDS`."""
        await self._unwatch()
        # Ours or an earlier daemon's, which nobody else would ever stop.
        if self.pids():
            await self._family.stop(STOP_SECONDS)
        if self._handle is not None:
            self._handle.close()
        self._pipe.close()
        if not self.pids():
            self._files.remove_leftovers()

    # --- starting and taking over

    def _command(self, binary: Binary) -> list[str]:
        return [str(binary.path), "-W", "-S", self._mark, "-f", str(self.path)]

    async def _adopt(self, binary: Binary) -> None:
        listening = self._control.peer()
        family = self._family.processes()
        for found in process.masters(family):
            # One that another program, or other arguments, started is replaced when there is a configuration for it,
            # and so is one that does not answer.
            same = found.program == os.path.realpath(binary.path) and list(found.argv[-5:]) == self._command(binary)[1:]
            if same and found.pid == listening:
                with suppress(ControlError):
                    self.live = await self._control.generation(_ADOPT_SECONDS)
                if self.live is None:
                    continue
                with suppress(ProcessLookupError):
                    self._take(ProcessHandle(found.pid, started=found.started), binary)
                self._mend()
                self._log.info("took over the HAProxy of an earlier daemon", pid=found.pid, generation=self.live)
                # The earlier daemon may have died between starting this one and dismissing the one before.
                self._dismiss([each for each in family if found.pid not in (each.pid, each.parent)])

    def _mend(self) -> None:
        """If the earlier daemon died amid a change, let the file be again what HAProxy serves."""
        with suppress(OSError):
            serves = f" {self.live}\n"
            if serves not in self.path.read_text() and serves in last_good(self.path).read_text():
                restore(self.path)

    async def _activate(self, generation: str) -> None:
        try:
            if self._reloadable():
                await self._reload(generation)
            else:
                await self._start(generation)
        except (ApplyError, ControlError) as error:
            if self.running:
                self.live = None
                with suppress(ControlError):
                    self.live = await self._control.generation()
            if isinstance(error, ControlError):
                raise ApplyError(f"HAProxy does not answer: {error}") from None
            raise
        self.live = generation

    def _reloadable(self) -> bool:
        """Whether what runs is to be reloaded, and not replaced: its program is right, its socket still there."""
        handle = self._handle
        if handle is None or not handle.alive or self._binary != self._running_binary:
            return False
        return self.intact and self._control.peer() == handle.pid

    async def _save_states(self, text: str) -> None:
        try:
            reachable = self.running and self._socket.exists()  # a socket that is removed is not waited for
            states = still_wanted(await self._control.server_states(), text) if reachable else NO_STATES
            # Worth nothing after a crash of the machine, so that the disk need not be waited for.
            temporary = self._state_file.with_suffix(".new")
            temporary.touch(0o600)
            temporary.write_text(states)
            temporary.replace(self._state_file)
        except (ControlError, OSError) as error:
            # Not worth a failed apply: the health checks find out again.
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self._log.warning("the servers' states are not carried over this reload", reason=reason)

    def _take(self, handle: ProcessHandle, binary: Binary) -> None:
        before, self._handle, self._running_binary = self._handle, handle, binary
        if before is not None:
            before.close()
        self._taken.set()

    async def _start(self, generation: str) -> None:
        binary = self._binary
        others = self._family.processes()
        if not self._pipe.is_there():
            self._pipe.close()
            self._pipe.open()
        self._pipe.tail.clear()
        try:
            child = subprocess.Popen(  # noqa: ASYNC220 - it takes a millisecond, and is awaited through its pidfd
                self._command(binary),
                stdin=subprocess.DEVNULL,
                stdout=self._pipe.fileno(),
                stderr=self._pipe.fileno(),
                cwd="/",
                env=for_children(),
                start_new_session=True,  # Ctrl-C is for us, who then stop it in order
            )
        except OSError as error:
            raise ApplyError(f"{binary.path} cannot be run: {error.strerror}") from None
        handle = ProcessHandle(child.pid, on_exit=child.wait)
        try:
            await self._until_started(handle, generation)
        except BaseException:
            process.send_signal(handle, signal.SIGTERM)
            await handle.wait(1.0)
            process.send_signal(handle, signal.SIGKILL)
            handle.close()
            raise
        self._take(handle, binary)
        self._died = None
        self._log.info("HAProxy started", pid=child.pid, version=".".join(map(str, binary.version)))
        self._dismiss(others)

    async def _until_started(self, handle: ProcessHandle, generation: str) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if not handle.alive:
                self._pipe.drain()
                said = "\n".join(self._pipe.tail)
                reason = complaint(said) or first_line(said) or "it gave no reason"
                raise ApplyError(f"HAProxy does not start: {reason}")
            with suppress(ControlError):
                if self._control.peer() == handle.pid and await self._control.generation(0.2) == generation:
                    return
            await asyncio.sleep(_POLL)
        raise ApplyError(f"HAProxy was not ready within {_START_SECONDS:g} s")

    def _dismiss(self, others: list[process.Process]) -> None:
        """Let what an earlier daemon left finish what it has, now that ours listens."""
        # The workers, too: a master that hangs would not tell them.
        for handle in hold(others):
            process.send_signal(handle, signal.SIGUSR1)
            handle.close()
        if others:
            heads = process.masters(others)
            self._log.info("replaced the HAProxy of an earlier daemon", pids=[each.pid for each in heads])

    # --- reloading

    async def _reload(self, generation: str) -> None:
        self._pipe.tail.clear()
        try:
            await self._while_it_runs(reload.through_master(self._control, generation))
        except ApplyError:
            self._pipe.drain()
            if reason := complaint("\n".join(self._pipe.tail)):
                raise ApplyError(f"HAProxy cannot load the new configuration: {reason}") from None
            raise

    async def _while_it_runs(self, work: Coroutine[None, None, None]) -> None:
        """Do `work`, but for no longer than HAProxy lives. Raises ApplyError if it ends before."""
        assert self._handle is not None  # noqa: S101 - only what runs is reloaded
        working, ended = asyncio.create_task(work), asyncio.create_task(self._handle.wait())
        try:
            await asyncio.wait((working, ended), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise ApplyError("HAProxy ended while it loaded the new configuration")
            working.result()
        finally:
            for task in (working, ended):
                task.cancel()
            await asyncio.gather(working, ended, return_exceptions=True)

    # --- watching

    async def _supervise(self) -> None:
        waits = chain(_RESTARTS, repeat(_RESTART_EVERY))
        while True:
            await self._taken.wait()
            handle, since = self._handle, time.monotonic()
            if handle is None:
                return
            await handle.wait()
            if time.monotonic() - since > _HEALTHY_AFTER:
                waits = chain(_RESTARTS, repeat(_RESTART_EVERY))
            async with self._busy:
                if self.running:
                    continue
                if self._died is None:
                    self._pipe.drain()
                    self._died = "HAProxy has ended unexpectedly and is being restarted"
                    self._log.error(self._died, pid=handle.pid, last=self._pipe.tail[-1] if self._pipe.tail else "")
            await asyncio.sleep(next(waits))
            async with self._busy:
                if not self.running:
                    await self._restart()

    async def _restart(self) -> None:
        generation = self.live
        if generation is None:
            # It was never known to serve: the next apply starts it.
            self._taken.clear()
            return
        # What was true of the servers at the last reload may be long past.
        await self._save_states("")
        try:
            await self._start(generation)
        except (ApplyError, ControlError, OSError) as error:
            reason = f"HAProxy has ended and cannot be restarted: {error}"
            if reason != self._died:
                self._log.error(reason)
            self._died = reason

    async def _unwatch(self) -> None:
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])
