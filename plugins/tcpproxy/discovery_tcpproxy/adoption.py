"""Workers that have outlived their daemon: found in the run directory, and taken over with their sockets."""

import asyncio
import os
import socket
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from discovery import describe
from discovery.toolkit import ProcessHandle
from discovery_tcpproxy.channel import GoneError, RefusedError, WorkerError
from discovery_tcpproxy.worker.build import build
from discovery_tcpproxy.worker_process import PATIENCE, WorkerProcess

_NOTICES = 2.0
"""Seconds in which a worker notices that its daemon has died."""
_AGAIN = 0.02
_CREDENTIALS = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid


@dataclass(frozen=True, slots=True)
class Adopted:
    """A worker of an earlier daemon, and copies of the listening sockets that it has, by address.

    `grace`: the seconds that it gives its connections if it is told to stop without any.
    """

    worker: WorkerProcess
    sockets: Mapping[str, socket.socket]
    grace: float


async def adopt(
    run_dir: Path,
    log: FilteringBoundLogger,
    patience: float = PATIENCE,
    killed: Callable[[int], None] = lambda _: None,
    stderr: int | None = 2,
) -> list[Adopted]:
    """Those found in `run_dir`, whose lock the caller holds, the oldest first.

    One that hangs is killed, and `killed` is called with its process id. A worker of other code is mute: it can be told
    to stop, and should be. `stderr` is where they log should the caller die; None: to their last daemon's.
    """
    doors = sorted(run_dir.glob("worker-*.sock"))
    ours = build() if doors else ""
    found = await asyncio.gather(*(_adopt(door, ours, log, patience, killed, stderr) for door in doors))
    return sorted((each for each in found if each is not None), key=lambda each: each.worker.started)


async def _adopt(
    door: Path,
    ours: str,
    log: FilteringBoundLogger,
    patience: float,
    killed: Callable[[int], None],
    stderr: int | None,
) -> Adopted | None:
    until = time.monotonic() + _NOTICES
    while (worker := _knock(door, log, patience)) is not None:
        try:
            said = await worker.hello(stderr)
            worker.mute = said["build"] != ours
            return Adopted(worker, await worker.sockets(said["sockets"]), said["grace"])
        except RefusedError as error:
            worker.leave()
            if error.answer.get("stopping") or time.monotonic() >= until:
                log.info("a worker is left as it is", pid=worker.pid, reason=describe(error))
                return None
            await asyncio.sleep(_AGAIN)
        except GoneError:
            worker.leave()
            return None
        except (WorkerError, KeyError, TypeError, ValueError) as error:
            log.error("a worker of an earlier daemon is killed", pid=worker.pid, reason=describe(error))
            await worker.close()
            killed(worker.pid)
        except BaseException:  # the worker obeys one daemon at a time
            worker.leave()
            raise
    return None


def _knock(door: Path, log: FilteringBoundLogger, patience: float) -> WorkerProcess | None:
    """The worker that listens there, if it is this user's."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        channel.setblocking(False)
        directory = os.open(door.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            channel.connect(f"/proc/self/fd/{directory}/{door.name}")  # the path may be too long for an address
        finally:
            os.close(directory)
        credentials = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(credentials)
        if uid != os.geteuid():
            raise PermissionError(f"process {pid} belongs to another user, {uid}")
        return WorkerProcess(0, ProcessHandle(pid), channel, log, patience)
    except (ConnectionRefusedError, FileNotFoundError, ProcessLookupError):
        with suppress(OSError):
            door.unlink()  # of one that is dead
    except OSError as error:
        log.warning("a worker of an earlier daemon cannot be reached", socket=str(door), reason=describe(error))
    channel.close()
    return None
