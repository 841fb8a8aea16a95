"""The daemon's side of requests over a Unix socket: a successor asks for the sockets, commands ask for other things.

Each message is a JSON object in a packet of its own, and follows the one before within a limited number of seconds. The
predecessor sends the sockets beside its messages:

    successor    {"take_over": {"instances": {NAME: PLUGIN...}}, "protocol": [OLDEST, NEWEST]}
    predecessor  {"refused": REASON}, or {"within": SECONDS, "protocol": VERSION} as soon as it begins to let go
    predecessor  {"sockets": COUNT, "last": BOOL}, again and again until the last

    command      {"release": {"service": NAME, or null for all}, "protocol": [OLDEST, NEWEST]}
    daemon       {"refused": REASON}, or
                 {"released": [KEY...], "last": BOOL}, again and again until the last

    command      {"health": {}, "protocol": [OLDEST, NEWEST]}
    daemon       {"refused": REASON}, or {"health": SUMMARY}, as `health.summary` makes it

`protocol` has the versions of this protocol. A daemon that speaks none of those that a request states refuses it.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from structlog.typing import FilteringBoundLogger

from discovery.daemon import protocol
from discovery.errors import CannotStartError, DiscoveryError
from discovery.system import packets, rundir
from discovery.system.asyncio_tools import cancel_and_wait
from discovery.system.unixsocket import with_short_path

_ACCEPT_AGAIN = 1.0
"""Seconds until connections are accepted again after a failure: descriptors are rarely free sooner."""
ANSWER_SECONDS = 5.0
"""Seconds for one message: both sides run on one machine, and a busy one may take a few seconds."""
_MOST_KEYS = 50
"""Keys in one packet: a key has at most 384 bytes, and a packet has to fit into the buffer of a Unix socket."""


def lock_path(path: Path) -> Path:
    """The lock that the daemon with the socket `path` holds."""
    return path.with_name(f"{path.name}.lock")


class HandoverRefusedError(DiscoveryError):
    """The request of a successor is refused; the message says why."""


class Successor(NamedTuple):
    """The process that asks, and the plugin of each instance to be run, by the instance's name."""

    pid: int
    instances: Mapping[str, str]
    protocol: int = 1
    """The version of the protocol in which it is answered."""


class Release(NamedTuple):
    """A command asks to give up the held records of a service, or (None) of all services."""

    pid: int
    service: str | None


class HealthRequest(NamedTuple):
    """A command asks how well the daemon is."""

    pid: int


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
        ready: Callable[[], Awaitable[None]] | None = None,
        health: Callable[[], Mapping[str, Any]] = dict,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        """Prepare; `open` begins. A process that asks has `answer_seconds` for its part of each exchange.

        `accept` returns the deadline of `ready` and `hand_over` in seconds, or raises HandoverRefusedError. `ready`
        returns when the daemon can be replaced, and is cancelled if the successor leaves meanwhile. `hand_over`
        releases everything that a successor needs, closes this server, and returns the sockets. `done` is called with
        whether the successor received the sockets. `release` gives up the held records of a service, or (None) of all
        services, and returns the keys of these records. `health` returns the daemon's state, as an object of JSON that
        fits into a packet.
        """
        self.path = path
        self._log = log
        self._accept = accept
        self._hand_over = hand_over
        self._done = done
        self._release = release
        self._ready = ready
        self._health = health
        self._answer_seconds = answer_seconds
        self._lock: rundir.Lock | None = None
        self._listening: socket.socket | None = None
        self._file: os.stat_result | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._conversations: set[asyncio.Task[None]] = set()
        self._successor: Successor | None = None
        self._idle = asyncio.Event()  # no successor is being served
        self._idle.set()

    @property
    def busy(self) -> bool:
        """True while a successor that was accepted waits for the sockets."""
        return not self._idle.is_set()

    async def wait_until_idle(self) -> None:
        """Wait until no successor waits for the sockets."""
        await self._idle.wait()

    @property
    def holder(self) -> int | None:
        """The process that a successor would ask at this path; None if there is none."""
        return rundir.holder(self._lock_path)

    @property
    def _lock_path(self) -> Path:
        return lock_path(self.path)

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
                self._log.warning("requests cannot be accepted", reason=error.strerror)
                await asyncio.sleep(_ACCEPT_AGAIN)
                continue
            talk = asyncio.create_task(self._converse(channel))
            self._conversations.add(talk)
            talk.add_done_callback(self._conversations.discard)

    async def _converse(self, channel: socket.socket) -> None:
        with channel:
            channel.setblocking(False)
            try:
                async with asyncio.timeout(self._answer_seconds):
                    try:
                        asked = await self._read_request(channel)
                        if isinstance(asked, Release):
                            await self._release_records(channel, asked)
                            return
                        if isinstance(asked, HealthRequest):
                            await packets.send(channel, {"health": self._health()})
                            return
                        successor = asked
                        within = self._accept_successor(successor)
                    except HandoverRefusedError as error:
                        self._log.warning("a request was refused", pid=packets.peer(channel), reason=str(error))
                        await packets.send(channel, {"refused": str(error)})
                        return
            except (OSError, EOFError, ValueError, TimeoutError) as error:
                self._log.warning(
                    "a request could not be answered",
                    reason=str(error) or f"nothing came, or was read, within {self._answer_seconds:g} s",
                )
                return
            try:
                await self._serve_successor(channel, successor, within)
            finally:
                self._idle.set()

    async def _serve_successor(self, channel: socket.socket, successor: Successor, within: float) -> None:
        try:
            async with asyncio.timeout(self._answer_seconds):
                await packets.send(channel, {"within": within, protocol.KEY: successor.protocol})
        except (OSError, TimeoutError) as error:
            self._log.warning("a process that cannot take over has asked to", reason=str(error) or "it does not read")
            self._successor = None  # another may come
            return
        if await self._is_there_until_ready(channel):
            await self._send_sockets(channel, successor)
        else:
            self._log.warning("the successor left before it was handed anything", successor=successor.pid)
            self._successor = None

    async def _is_there_until_ready(self, channel: socket.socket) -> bool:
        """Wait until this daemon can be replaced. Return False as soon as the successor has gone."""
        if self._ready is None:
            return True
        preparing = asyncio.ensure_future(self._ready())
        leaving = asyncio.ensure_future(packets.readable(channel.fileno()))  # it has nothing more to say
        try:
            await asyncio.wait((preparing, leaving), return_when=asyncio.FIRST_COMPLETED)
            return not leaving.done()
        finally:
            await cancel_and_wait(preparing, leaving)

    async def _read_request(self, channel: socket.socket) -> Successor | Release | HealthRequest:
        """Raises HandoverRefusedError for versions that this daemon does not speak.

        Raises ValueError for what is no question of ours, and OSError.
        """
        pid = packets.peer(channel)
        message, _ = await packets.receive(channel)
        theirs = protocol.spoken_by(message)
        version = protocol.agreed(protocol.SPOKEN, theirs)
        if version is None:
            raise HandoverRefusedError(
                f"it speaks {protocol.SPOKEN} of the hand-over, and you {theirs}: use a version of discovery"
                " in between, or stop it first"
            )
        try:
            if "release" in message:
                service = message["release"]["service"]
                return Release(pid, None if service is None else str(service))
            if "health" in message:
                return HealthRequest(pid)
            return Successor(pid, dict(message["take_over"]["instances"].items()), version)
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
        self._idle.clear()
        return within

    async def _send_sockets(self, channel: socket.socket, successor: Successor) -> None:
        self._log.info("handing over", successor=successor.pid)
        sockets: list[socket.socket] = []
        received = False
        try:
            sockets += await self._hand_over(successor)
            async with asyncio.timeout(self._answer_seconds):
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
