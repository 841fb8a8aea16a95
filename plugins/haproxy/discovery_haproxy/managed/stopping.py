"""Graceful stop of every HAProxy process of a run directory, of this daemon and of earlier daemons."""

import asyncio
import signal
import time
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from discovery.toolkit import ProcessHandle
from discovery_haproxy.limits import LIMITS
from discovery_haproxy.managed.run_files import RunFiles
from discovery_haproxy.program import process
from discovery_haproxy.program.control_socket import ControlError, ControlSocket

_IDLE_SECONDS = 1.0
"""Seconds after which a HAProxy that has only idle clients is terminated: enough for a request that just arrived."""
_POLL_SECONDS = 0.1
"""Seconds between two counts of the open connections; a count costs one command for each worker."""
_COUNT_SECONDS = 0.5
"""Timeout in seconds for a count of the open connections; a hanging HAProxy must not delay the stop."""
_TERMINATE_SECONDS = 1.0
"""Seconds that a master gets to end after SIGTERM, which a healthy one does at once."""
_KILL_SECONDS = 0.2
"""Seconds to wait for a process after SIGKILL, so that its sockets are closed when the stop returns."""


async def stop_orphans(run_dir: Path, log: FilteringBoundLogger) -> list[int]:
    """Stop the HAProxy processes that an earlier daemon left in the run directory. Return the masters' pids."""
    files = RunFiles(run_dir)
    found = process.find_processes(files.master_socket_argument)
    if pids := [master.pid for master in process.masters(found)]:
        await stop_all(files, log)
        files.remove_runtime_files()
    return pids


async def stop_all(files: RunFiles, log: FilteringBoundLogger, seconds: float = LIMITS.stop) -> None:
    """Stop all HAProxy processes of the run directory.

    New connections are refused at once. Open connections get `seconds` to end, and are cut then.
    """
    started = time.monotonic()
    control = ControlSocket(files.master_socket)
    handles = list(process.open_handles(process.masters(process.find_processes(files.master_socket_argument))))
    for handle in handles:
        # SIGTERM would cut the requests in flight.
        process.send_signal(handle, signal.SIGUSR1)
    connections: int | None = None
    was_idle = False
    while alive := [handle for handle in handles if handle.alive]:
        if await alive[0].wait(_POLL_SECONDS):
            continue
        elapsed = time.monotonic() - started
        connections = await _count_connections(control)
        idle = connections == 0 and len(alive) == 1
        # Idle clients remain, which HAProxy's timeouts would keep. Two counts in a row: a request may be between both.
        if elapsed > seconds or (elapsed > _IDLE_SECONDS and idle and was_idle):
            break
        was_idle = idle
    if alive:
        if connections:
            log.warning("connections were cut: they had not ended in time", count=connections, seconds=seconds)
        await _terminate(alive, files)
    for handle in handles:
        handle.close()
    log.info("HAProxy stopped", seconds=round(time.monotonic() - started, 1))


async def _terminate(masters: list[ProcessHandle], files: RunFiles) -> None:
    for handle in masters:
        process.send_signal(handle, signal.SIGTERM)
    await asyncio.gather(*(handle.wait(_TERMINATE_SECONDS) for handle in masters))
    # Normally no process is left.
    for handle in process.open_handles(process.find_processes(files.master_socket_argument)):
        process.send_signal(handle, signal.SIGKILL)
        await handle.wait(_KILL_SECONDS)
        handle.close()


async def _count_connections(control: ControlSocket) -> int | None:
    """Return the number of open connections and requests of all workers; None if HAProxy does not answer."""
    try:
        async with asyncio.timeout(_COUNT_SECONDS):
            processes = await control.processes()
            return sum([await control.count_streams(worker) for worker in (*processes.workers, *processes.old)])
    except (ControlError, TimeoutError):
        return None
