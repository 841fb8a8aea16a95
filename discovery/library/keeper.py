"""Keeps a backend registered in the helper process, for as long as a process of the application is connected.

Packets of JSON on a SOCK_SEQPACKET socket. A process says `join`, with the backend, and `leave`. The keeper tells the
`status`, lines for the `log`, and at the end `left`; to a process that it cannot take it says `elsewhere` (another
keeper has the key), `ending` (ask again) or `error`.
"""

import asyncio
import json
import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from discovery.checks import Check
from discovery.documents import backend_of
from discovery.errors import CannotStartError, ConfigError, DiscoveryError
from discovery.library.following import close_in_time, open_quietly
from discovery.library.logs import library_log
from discovery.library.process import error_document
from discovery.library.settings import Place, registry_of
from discovery.model import Backend
from discovery.probes import CheckSettings
from discovery.providing.registrar import RegistrarStatus
from discovery.providing.registration import Registration, Wanted, exclusive_registration, lock_path
from discovery.registry import RegistryURL
from discovery.system.asyncio_tools import cancel_and_wait
from discovery.system.owners import DefaultOwner
from discovery.system.packets import new_channel, peer, readable, receive
from discovery.system.rundir import LOOK_EVERY
from discovery.system.unixsocket import with_short_path

_BACKLOG = 128
"""Processes of an application that may ask at the same moment."""
_PATIENCE = 1.0
"""Seconds in which the process that holds the lock may turn out to be a keeper that begins or ends."""
_LOOK_EVERY = 0.02
"""Seconds between two attempts to take the lock."""
_WITHDRAW_SECONDS = 5.0
"""Seconds for the withdrawal: etcd has three; a registry of a plugin may hang."""


def socket_path(registry: RegistryURL, key: str, run_dir: Path | None) -> Path:
    """Return the path at which the keeper of this key of this registry listens."""
    return lock_path(registry, key, run_dir).with_suffix(".sock")


async def keep(descriptor: int) -> None:
    """Keep what the process at the other end of the socket `descriptor` asks for, until no process is left."""
    first = socket.socket(fileno=descriptor)
    first.setblocking(False)
    try:
        request = (await receive(first))[0]
    except (EOFError, OSError):
        return  # the application has ended
    try:
        async with AsyncExitStack() as stack:
            keeper = Keeper(request)
            await keeper.take_lock(stack)
            await keeper.run(first, request)
    except ElsewhereError:
        send(first, {"elsewhere": True})
    except Exception as error:  # noqa: BLE001 - whatever it is, the application tells its user
        send(first, {"error": error_document(error)})
    else:
        keeper.say_goodbye()


class ElsewhereError(Exception):
    """Another keeper has the key."""


class Keeper:
    """The registration, and the processes that want the registration."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        """Prepare what the first process asks for. Raises ConfigError, PluginError or RecordError."""
        self._url = registry_of(request["registry"])
        self._run_dir = Path(request["run_dir"]) if request["run_dir"] else None
        backend, checks = _backend(request)
        self._key = backend.key
        self._path = socket_path(self._url, self._key, self._run_dir)
        default = DefaultOwner(f"register/{self._key}", lock_path(self._url, self._key, self._run_dir))
        self._default_owner = str(default)
        owner = request["owner"]
        self._wanted = Wanted(
            self._url,
            backend,
            checks,
            owner or self._default_owner,
            request["ttl"],
            request["force"],
            request["takeover"],
            (lambda other: False) if owner else default.succeeds,
        )
        self._members: dict[socket.socket, asyncio.Task[None]] = {}
        self._leaving: list[socket.socket] = []
        self._ending = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._log = library_log(self._emit)
        self._registry = open_quietly(Place(self._url))
        self._registration = Registration(self._wanted, self._registry, self._log, lambda _: self._tell_all())

    async def take_lock(self, stack: AsyncExitStack) -> None:
        """Take the lock of the key until the end of `stack`.

        Raises ElsewhereError if another keeper has the lock, CannotStartError if another program has the lock.
        """
        until = self._loop.time() + _PATIENCE
        while True:
            try:
                await stack.enter_async_context(exclusive_registration(self._wanted, self._run_dir, self._log))
            except CannotStartError:
                if _is_served(self._path):
                    raise ElsewhereError from None
                if self._loop.time() > until:
                    raise
                await asyncio.sleep(_LOOK_EVERY)
            else:
                return

    async def run(self, first: socket.socket, request: Mapping[str, Any]) -> None:
        """Keep the registration for `first`, and whichever process asks meanwhile; withdraw when the last has left."""
        listening = asyncio.create_task(self._listen())
        self._take(first, request)
        running = asyncio.create_task(self._registration.run())
        ending = asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait({running, ending, listening}, return_when=asyncio.FIRST_COMPLETED)
            for task in (running, listening):
                if task.done():
                    task.result()
        finally:
            self._ending.set()
            await cancel_and_wait(running, ending, timeout=_WITHDRAW_SECONDS)
            await close_in_time(self._registry)
            await cancel_and_wait(listening)
            with suppress(OSError):
                self._path.unlink()

    def say_goodbye(self) -> None:
        """Tell the processes that left last: the backend is withdrawn, and nothing holds the key any more."""
        for channel in self._leaving:
            send(channel, {"left": True})
            channel.close()

    async def _listen(self) -> None:
        """Listen at the path, and again if a cleaner removes the socket from the run directory."""
        while True:
            # An OSError: the directory is missing, too, and is made again with the lock.
            with suppress(OSError), _listener(self._path) as listener:
                accepting = asyncio.create_task(self._accept(listener))
                try:
                    while self._path.exists() and not accepting.done():  # noqa: ASYNC110 - a removal sets no event
                        await asyncio.sleep(LOOK_EVERY)
                finally:
                    await cancel_and_wait(accepting)
            await asyncio.sleep(_LOOK_EVERY)

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            await readable(listener.fileno())
            with suppress(BlockingIOError, ConnectionError):
                channel, _ = listener.accept()
                channel.setblocking(False)
                try:
                    peer(channel)
                except (ValueError, OSError):
                    channel.close()
                else:
                    self._take(channel)

    def _take(self, channel: socket.socket, request: Mapping[str, Any] | None = None) -> None:
        self._members[channel] = asyncio.create_task(self._serve(channel, request))

    async def _serve(self, channel: socket.socket, request: Mapping[str, Any] | None) -> None:
        leaves = False
        try:
            while not leaves:
                message = request or (await receive(channel))[0]
                if self._ending.is_set():
                    send(channel, {"ending": True})
                    break
                if message.get("leave"):
                    leaves = True
                elif "backend" in message:
                    if request is None:  # else it is the first, whose backend the registration has
                        self._check_owner(message)
                        self._registration.set(*_backend(message))
                    self._tell(channel)
                request = None
        except (EOFError, OSError, ValueError, KeyError, TypeError, DiscoveryError) as error:
            if isinstance(error, DiscoveryError):
                send(channel, {"error": error_document(error)})
        del self._members[channel]
        is_last = not self._members and not self._ending.is_set()
        if is_last:
            self._ending.set()
        if leaves and is_last:
            self._leaving.append(channel)
            return
        if leaves:
            send(channel, {"left": True})
        channel.close()

    def _check_owner(self, message: Mapping[str, Any]) -> None:
        """Raise ConfigError if a process wants what the lease of the present registration cannot have."""
        wanted = self._wanted
        asked = {
            "owner": message["owner"] or self._default_owner,
            "force": message["force"],
            "takeover": message["takeover"],
        }
        present = {"owner": wanted.owner, "force": wanted.force, "takeover": wanted.takeover}
        for name, value in asked.items():
            if value != present[name] and not (name in ("force", "takeover") and present[name]):
                raise ConfigError(
                    f"{self._key} is registered by another part of this application with {name} {present[name]!r},"
                    f" and cannot have {name} {value!r} as well"
                )

    def _tell_all(self) -> None:
        for channel in self._members:
            self._tell(channel)

    def _tell(self, channel: socket.socket) -> None:
        status: RegistrarStatus = self._registration.status
        error = status.failing.get(self._key)
        send(
            channel,
            {
                "status": {
                    "registered": self._key in status.registered,
                    "problem": None if error is None else error_document(error),
                    "check": self._registration.check,
                }
            },
        )

    def _emit(self, level: int, text: str) -> None:
        self._loop.call_soon_threadsafe(self._send_log, level, text)

    def _send_log(self, level: int, text: str) -> None:
        if self._members:  # to a single process: all of them log to one place
            send(next(iter(self._members)), {"log": [level, text]})


def send(channel: socket.socket, message: Mapping[str, Any]) -> None:
    """Send a packet if there is room: a process that does not read gets the next status."""
    with suppress(OSError):
        channel.send(json.dumps(message).encode(), socket.MSG_NOSIGNAL)


def _backend(request: Mapping[str, Any]) -> tuple[Backend, tuple[Check, ...]]:
    check = request["check"]
    return backend_of(request["backend"]), () if check is None else CheckSettings.model_validate(check).checks()


def _listener(path: Path) -> socket.socket:
    with suppress(FileNotFoundError):
        path.unlink()  # of a keeper that was killed: the lock is ours
    listener = new_channel()
    with_short_path(path, listener.bind)
    listener.listen(_BACKLOG)
    return listener


def _is_served(path: Path) -> bool:
    with new_channel() as channel:
        try:
            with_short_path(path, channel.connect)
        except BlockingIOError:  # its backlog is full
            return True
        except OSError:
            return False
    return True
