"""Adoption of workers that have outlived their daemon, with their listening sockets."""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from discovery import describe
from discovery.toolkit import ProcessHandle, peer_credentials, with_short_path
from discovery_tcpproxy.channel import CommandRefusedError, WorkerError, WorkerGoneError
from discovery_tcpproxy.timing import TIMING, Timing
from discovery_tcpproxy.worker.build import build
from discovery_tcpproxy.worker_process import WorkerProcess

_DETECTION_TIMEOUT = 2.0
"""Seconds within which a worker detects the end of its daemon; a worker that refuses for longer has another daemon."""
_RETRY_DELAY = 0.02
"""Seconds between two requests to a worker that has not detected the end of its daemon."""


@dataclass(frozen=True, slots=True)
class AdoptedWorker:
    """A worker of an earlier daemon, with copies of its listening sockets by address.

    `grace` is the seconds that its connections have if a stop gives no other value.
    """

    worker: WorkerProcess
    sockets: Mapping[str, socket.socket]
    grace: float


async def adopt(
    run_dir: Path,
    log: FilteringBoundLogger,
    timing: Timing = TIMING,
    on_killed: Callable[[int], None] = lambda _: None,
    on_refused: Callable[[int], None] = lambda _: None,
    stderr: int | None = 2,
) -> list[AdoptedWorker]:
    """Adopt the workers in `run_dir`, whose lock the caller holds. Return the workers, the oldest first.

    A worker that hangs is killed, and `on_killed` is called with its process id. A worker that has a daemon stays as it
    is, and `on_refused` is called with its process id. A worker of another build
    (`is_other_build`) obeys no command but to stop. Workers will log to the descriptor `stderr` if the caller dies;
    with None they keep logging to the descriptor of their last daemon.
    """
    paths = sorted(run_dir.glob("worker-*.sock"))
    own_build = build() if paths else ""
    found = await asyncio.gather(
        *(_adopt(path, own_build, log, timing, on_killed, on_refused, stderr) for path in paths)
    )
    return sorted((each for each in found if each is not None), key=lambda each: each.worker.started)


async def _adopt(
    path: Path,
    own_build: str,
    log: FilteringBoundLogger,
    timing: Timing,
    on_killed: Callable[[int], None],
    on_refused: Callable[[int], None],
    stderr: int | None,
) -> AdoptedWorker | None:
    until = time.monotonic() + _DETECTION_TIMEOUT
    while (worker := _connect(path, log, timing)) is not None:
        try:
            answer = await worker.identify(stderr)
            worker.is_other_build = answer["build"] != own_build
            return AdoptedWorker(worker, await worker.fetch_sockets(answer["sockets"]), answer["grace"])
        except CommandRefusedError as error:
            worker.release()
            if error.answer.get("stopping") or time.monotonic() >= until:
                on_refused(worker.pid)
                return None
            await asyncio.sleep(_RETRY_DELAY)
        except WorkerGoneError:
            worker.release()
            return None
        except (WorkerError, KeyError, TypeError, ValueError) as error:
            log.error("a worker of an earlier daemon is killed", pid=worker.pid, reason=describe(error))
            await worker.close()
            on_killed(worker.pid)
        except BaseException:  # another daemon may adopt the worker after this connection is closed
            worker.release()
            raise
    return None


def _connect(path: Path, log: FilteringBoundLogger, timing: Timing) -> WorkerProcess | None:
    """Connect to the worker that listens at `path`; None if there is none of this user. Removes a stale socket."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        channel.setblocking(False)
        with_short_path(path, channel.connect)
        other = peer_credentials(channel)
        if other.uid != os.geteuid():
            raise PermissionError(f"process {other.pid} belongs to another user, {other.uid}")
        return WorkerProcess(0, ProcessHandle(other.pid), channel, log, timing)
    except (ConnectionRefusedError, FileNotFoundError, ProcessLookupError):
        with suppress(OSError):
            path.unlink()  # left by a process that was killed
    except OSError as error:
        log.warning("a worker of an earlier daemon cannot be reached", socket=str(path), reason=describe(error))
    channel.close()
    return None
