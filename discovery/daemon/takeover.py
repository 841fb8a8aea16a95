"""The asking side of requests to a daemon over its Unix socket: `handover` has the protocol and the answering side."""

import asyncio
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from discovery.daemon import protocol
from discovery.daemon.handover import ANSWER_SECONDS, lock_path
from discovery.errors import CannotStartError, DiscoveryError
from discovery.system import packets, rundir
from discovery.system.process import ProcessHandle
from discovery.system.systemd import is_listening
from discovery.system.unixsocket import with_short_path

MOST_SECONDS = 3600.0
"""Seconds: the most that a predecessor may ask for. A larger number is a fault of the predecessor."""
_AGAIN = 0.1
"""Seconds between two attempts to reach a daemon whose socket is missing."""


async def take_over(path: Path, instances: Mapping[str, str], log: FilteringBoundLogger) -> tuple[socket.socket, ...]:
    """Ask the daemon with the socket `path`, if there is a daemon, to hand over; return its listening sockets.

    Raises CannotStartError if the daemon refuses, or neither hands over nor ends.
    """
    sockets: list[socket.socket] = []
    with packets.new_channel() as channel:
        if (pid := await _connect(channel, path)) is None:
            log.info("there is no daemon to replace", socket=str(path))
            return ()
        with _handle_of(pid) as predecessor:
            fault = await _receive_sockets(channel, instances, sockets, predecessor, log.bind(predecessor=pid))
    if fault is not None:
        packets.close_all(sockets)
        raise CannotStartError(f"process {pid}, the daemon at {path}, {fault}")
    for each in [each for each in sockets if not is_listening(each)]:
        sockets.remove(each)
        each.close()
    return tuple(sockets)


async def _connect(channel: socket.socket, path: Path) -> int | None:
    """Connect to the daemon with the socket `path`, and return its process id; None if there is none.

    A daemon whose socket a cleaner has removed makes it again within a moment. Raises CannotStartError.
    """
    until = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            with_short_path(path, channel.connect)
            return packets.peer(channel)
        except (FileNotFoundError, ConnectionRefusedError):
            if rundir.holder(lock_path(path)) is None or time.monotonic() > until:
                return None
            await asyncio.sleep(_AGAIN)
        except (OSError, ValueError) as error:
            raise CannotStartError(f"the daemon at {path} cannot be asked: {error}; stop it first") from None


async def _receive_sockets(
    channel: socket.socket,
    instances: Mapping[str, str],
    sockets: list[socket.socket],
    predecessor: ProcessHandle | None,
    log: FilteringBoundLogger,
) -> str | None:
    """Ask the predecessor, and add to `sockets` the sockets that the predecessor hands over.

    Return why that failed, or None.

    A predecessor that ends meanwhile is no failure: nothing is left that a successor could be in conflict with.
    """
    within = ANSWER_SECONDS
    try:
        async with asyncio.timeout(within):
            await packets.send(
                channel, {"take_over": {"instances": dict(instances)}, protocol.KEY: list(protocol.SPOKEN)}
            )
            answer, _ = await packets.receive(channel)
        if "refused" in answer:
            return f"does not let go: {answer['refused']}"
        within = min(float(answer["within"]), MOST_SECONDS)
        log.info("taking over")
        while not answer.get("last"):
            async with asyncio.timeout(within + ANSWER_SECONDS):
                answer, received = await packets.receive(channel)
            sockets += received
            if (lost := answer.get("sockets", 0) - len(received)) > 0:
                log.error("sockets were lost: the limit of open files (ulimit -n) is too low", count=lost)
    except TimeoutError:
        return f"has not answered within {within:g} s; stop it first"
    except (OSError, EOFError) as error:
        log.warning("the daemon went away while it handed over", reason=str(error))
        has_ended = predecessor is None or await predecessor.wait(within)
        return None if has_ended else "does not answer any more; stop it first"
    except (ValueError, KeyError, TypeError) as error:
        return f"answers what is no answer: {error!r}; stop it first"
    return None


async def release(path: Path, service: str | None) -> tuple[str, ...] | None:
    """Ask the daemon with the socket `path` to give up the held records of `service`, or (None) of all services.

    Returns the keys of these records; None if there is no daemon. Raises DiscoveryError if it does not answer.
    """
    keys: list[str] = []
    with packets.new_channel() as channel, _answering(path):
        if _connect_once(channel, path) is None:
            return None
        async with asyncio.timeout(ANSWER_SECONDS):
            await packets.send(channel, {"release": {"service": service}, protocol.KEY: list(protocol.SPOKEN)})
            last = False
            while not last:
                answer, _ = await packets.receive(channel)
                if "refused" in answer:
                    raise DiscoveryError(f"the daemon at {path} does not release anything: {answer['refused']}")
                keys += map(str, answer["released"])
                last = bool(answer["last"])
    return tuple(keys)


async def health(path: Path) -> tuple[int, dict[str, Any]] | None:
    """Ask the daemon with the socket `path` how well it is.

    Returns its process id and `health.summary`; None if there is no daemon. Raises DiscoveryError without an answer.
    """
    with packets.new_channel() as channel, _answering(path):
        if (pid := _connect_once(channel, path)) is None:
            return None
        async with asyncio.timeout(ANSWER_SECONDS):
            await packets.send(channel, {"health": {}, protocol.KEY: list(protocol.SPOKEN)})
            answer, _ = await packets.receive(channel)
            if "refused" in answer:
                raise DiscoveryError(f"the daemon at {path} does not tell: {answer['refused']}")
            return pid, dict(answer["health"])


def sockets_of(run_dir: Path) -> list[Path]:
    """Return the sockets of the daemons of a run directory, sorted; none if there is no directory.

    Raises DiscoveryError if the directory cannot be read.
    """
    try:
        return sorted(path for path in run_dir.iterdir() if path.name.startswith("daemon") and path.suffix == ".sock")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DiscoveryError(
            f"the run directory {run_dir} cannot be read: {error.strerror}; run this as the daemon's user"
        ) from None


def _connect_once(channel: socket.socket, path: Path) -> int | None:
    """Connect to the daemon with the socket `path`, and return its process id; None if there is none."""
    try:
        with_short_path(path, channel.connect)
        return packets.peer(channel)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except (OSError, ValueError) as error:
        raise DiscoveryError(f"the daemon at {path} cannot be asked: {error}; run this as its user") from None


@contextmanager
def _answering(path: Path) -> Iterator[None]:
    """Raise DiscoveryError for every way in which a daemon gives no answer to a request."""
    try:
        yield
    except (OSError, EOFError, TimeoutError, ValueError, KeyError, TypeError):
        raise DiscoveryError(
            f"the daemon at {path} does not answer, or is of another version; try again, or restart it"
        ) from None


@contextmanager
def _handle_of(pid: int) -> Iterator[ProcessHandle | None]:
    """Open a handle for a block; None if the process has ended."""
    try:
        handle = ProcessHandle(pid)
    except ProcessLookupError:
        yield None
    else:
        with handle:
            yield handle
