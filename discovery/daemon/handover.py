"""Requests to a daemon over a Unix socket: a successor asks for the listening sockets, a command releases records.

Each message is a JSON object in a packet of its own, and follows the one before within a limited number of seconds. The
predecessor sends the sockets beside its messages:

    successor    {"take_over": {"instances": {NAME: PLUGIN...}}}
    predecessor  {"refused": REASON}, or {"within": SECONDS} as soon as it begins to let go
    predecessor  {"sockets": COUNT, "last": BOOL}, again and again until the last

    command      {"release": {"service": NAME, or null for all}}
    daemon       {"released": [KEY...], "last": BOOL}, again and again until the last
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from structlog.typing import FilteringBoundLogger

from discovery.errors import CannotStartError, DiscoveryError
from discovery.system import packets, rundir
from discovery.system.process import ProcessHandle
from discovery.system.systemd import is_listening
from discovery.system.unixsocket import with_short_path

ANSWER_SECONDS = 5.0
"""Seconds for one message: both sides run on one machine, and a busy one may take a few seconds."""
MOST_SECONDS = 3600.0
"""Seconds: the most that a predecessor may ask for. A larger number is a fault of the predecessor."""
_MOST_KEYS = 50
"""Keys in one packet: a key has at most 384 bytes, and a packet has to fit into the buffer of a Unix socket."""


class HandoverRefusedError(DiscoveryError):
    """The request of a successor is refused; the message says why."""


class Successor(NamedTuple):
    """The process that asks, and the plugin of each instance to be run, by the instance's name."""

    pid: int
    instances: Mapping[str, str]


class Release(NamedTuple):
    """A command asks to give up the held records of a service, or (None) of all services."""

    pid: int
    service: str | None


class HandoverServer:
    """The Unix socket at which a daemon takes requests. The daemon that listens there is the one that is replaced."""

    def __init__(
        self,
        path: Path,
        log: FilteringBoundLogger,
        accept: Callable[[Successor], float],
        hand_over: Callable[[Successor], Awaitable[Sequence[socket.socket]]],
        done: Callable[[bool], None],
        release: Callable[[str | None], Sequence[str]] = lambda _: (),
    ) -> None:
        """Prepare; `open` begins.

        `accept` returns the deadline of `hand_over` in seconds, or raises HandoverRefusedError. `hand_over` releases
        everything that a successor needs, closes this server, and returns the sockets. `done` is called with whether
        the successor received the sockets. `release` gives up the held records of a service, or (None) of all services,
        and returns the keys of these records.
        """
        self.path = path
        self._log = log
        self._accept = accept
        self._hand_over = hand_over
        self._done = done
        self._release = release
        self._lock: rundir.Lock | None = None
        self._listening: socket.socket | None = None
        self._file: os.stat_result | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._conversations: set[asyncio.Task[None]] = set()
        self._successor: Successor | None = None

    @property
    def holder(self) -> int | None:
        """The process that a successor would ask at this path; None if there is none."""
        return rundir.holder(self._lock_path)

    @property
    def _lock_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.lock")

    def open(self) -> None:
        """Listen. Raises CannotStartError if another daemon does at this path, or if that cannot be."""
        self._lock = rundir.lock(self._lock_path, "a daemon that can be replaced")
        try:
            self._listen()
        except OSError as error:
            self._lock.release()
            raise CannotStartError(f"{self.path}: {error.strerror or error}; choose another --run-dir") from None
        self._keeping = asyncio.create_task(
            rundir.keep(self._lock, self.path.parent, self._log, look=self._listen_again_if_removed)
        )

    def close(self) -> None:
        """Listen no more, and leave the place to the next. Idempotent; a talk that is under way goes on."""
        if self._keeping is not None and self._lock is not None:
            self._keeping.cancel()
            self._keeping = None
            if self._socket_file_exists():
                with suppress(OSError):
                    self.path.unlink()
            self._stop_listening()
            self._lock.release()

    def _listen(self) -> None:
        """Raises OSError."""
        listening = packets.new_channel()
        try:
            self.path.unlink(missing_ok=True)  # left by a daemon that died: a living one holds the lock
            os.fchmod(listening.fileno(), 0o600)  # what bind makes has this mode, from the first moment on
            with_short_path(self.path, listening.bind)
            listening.listen(8)
            self._file = self.path.lstat()
        except OSError:
            listening.close()
            raise
        self._listening = listening
        self._accepting = asyncio.create_task(self._serve(listening))

    def _stop_listening(self) -> None:
        if self._listening is not None and self._accepting is not None:
            self._accepting.cancel()
            self._listening.close()
            self._listening = None

    def _listen_again_if_removed(self) -> bool:
        """Listen again if the socket's file has gone; whether it had. Raises OSError."""
        if self._socket_file_exists():
            return False
        self._stop_listening()
        self._listen()
        return True

    def _socket_file_exists(self) -> bool:
        with suppress(OSError):
            return self._file is not None and os.path.samestat(self.path.lstat(), self._file)
        return False

    async def _serve(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                channel, _ = await loop.sock_accept(listening)
            except OSError as error:  # no descriptor is free, say
                self._log.warning("a successor cannot be listened to", reason=error.strerror)
                await asyncio.sleep(1.0)
                continue
            talk = asyncio.create_task(self._converse(channel))
            self._conversations.add(talk)
            talk.add_done_callback(self._conversations.discard)

    async def _converse(self, channel: socket.socket) -> None:
        with channel:
            channel.setblocking(False)
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    asked = await self._read_request(channel)
                    if isinstance(asked, Release):
                        await self._release_records(channel, asked)
                        return
                    successor = asked
                    try:
                        within = self._accept_successor(successor)
                    except HandoverRefusedError as error:
                        self._log.warning("a successor was refused", pid=successor.pid, reason=str(error))
                        await packets.send(channel, {"refused": str(error)})
                        return
                    await packets.send(channel, {"within": within})
            except (OSError, EOFError, ValueError, TimeoutError) as error:
                self._log.warning("somebody asked to take over who cannot", reason=str(error) or "no question came")
                return
            await self._send_sockets(channel, successor)

    async def _read_request(self, channel: socket.socket) -> Successor | Release:
        """Raises ValueError for what is no question of ours, and OSError."""
        pid = packets.peer(channel)
        message, _ = await packets.receive(channel)
        try:
            if "release" in message:
                service = message["release"]["service"]
                return Release(pid, None if service is None else str(service))
            return Successor(pid, dict(message["take_over"]["instances"].items()))
        except (KeyError, TypeError, AttributeError):
            raise ValueError(f"process {pid} asks for something else") from None

    async def _release_records(self, channel: socket.socket, asked: Release) -> None:
        keys = list(self._release(asked.service))
        if keys:
            self._log.warning("held records were released", by=asked.pid, service=asked.service, records=len(keys))
        for at in range(0, max(1, len(keys)), _MOST_KEYS):
            last = at + _MOST_KEYS >= len(keys)
            await packets.send(channel, {"released": keys[at : at + _MOST_KEYS], "last": last})

    def _accept_successor(self, successor: Successor) -> float:
        if self._successor is not None:
            raise HandoverRefusedError(f"process {self._successor.pid} is taking over already")
        within = self._accept(successor)
        self._successor = successor
        return within

    async def _send_sockets(self, channel: socket.socket, successor: Successor) -> None:
        self._log.info("handing over", successor=successor.pid)
        sockets = list(await self._hand_over(successor))
        received = False
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                for at in range(0, max(1, len(sockets)), packets.MOST_SOCKETS):
                    some = sockets[at : at + packets.MOST_SOCKETS]
                    message = {"sockets": len(some), "last": at + packets.MOST_SOCKETS >= len(sockets)}
                    await packets.send(channel, message, [each.fileno() for each in some])
            received = True
        except (OSError, TimeoutError) as error:
            self._log.error("the successor has gone", successor=successor.pid, reason=str(error))
        finally:
            for each in sockets:
                each.close()
            self._done(received)


async def take_over(path: Path, instances: Mapping[str, str], log: FilteringBoundLogger) -> tuple[socket.socket, ...]:
    """Ask the daemon with the socket `path`, if there is a daemon, to hand over; return its listening sockets.

    Raises CannotStartError if the daemon refuses, or neither hands over nor ends.
    """
    sockets: list[socket.socket] = []
    with packets.new_channel() as channel:
        try:
            with_short_path(path, channel.connect)
            pid = packets.peer(channel)
        except (FileNotFoundError, ConnectionRefusedError):
            log.info("there is no daemon to replace", socket=str(path))
            return ()
        except (OSError, ValueError) as error:
            raise CannotStartError(f"the daemon at {path} cannot be asked: {error}; stop it first") from None
        with _handle_of(pid) as predecessor:
            fault = await _receive_sockets(channel, instances, sockets, predecessor, log.bind(predecessor=pid))
    if fault is not None:
        packets.close_all(sockets)
        raise CannotStartError(f"process {pid}, the daemon at {path}, {fault}")
    for each in [each for each in sockets if not is_listening(each)]:
        sockets.remove(each)
        each.close()
    return tuple(sockets)


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
            await packets.send(channel, {"take_over": {"instances": dict(instances)}})
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
    with packets.new_channel() as channel:
        try:
            with_short_path(path, channel.connect)
            packets.peer(channel)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except (OSError, ValueError) as error:
            raise DiscoveryError(f"the daemon at {path} cannot be asked: {error}; run this as its user") from None
        keys: list[str] = []
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await packets.send(channel, {"release": {"service": service}})
                last = False
                while not last:
                    answer, _ = await packets.receive(channel)
                    keys += map(str, answer["released"])
                    last = bool(answer["last"])
        except (OSError, EOFError, TimeoutError, ValueError, KeyError, TypeError):
            raise DiscoveryError(
                f"the daemon at {path} does not answer, or is of another version; try again, or restart it"
            ) from None
    return tuple(keys)


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
