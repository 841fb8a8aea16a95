"""The addresses at which the server listens: opened, answered, closed."""

import asyncio
import socket
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from structlog.typing import FilteringBoundLogger

from discovery_dns.sockets import CannotListenError, Sockets, copies, open_sockets
from discovery_dns.tcp import TcpServer
from discovery_dns.udp import UdpServer

Respond = Callable[[bytes], bytes | None]


class _Listener(NamedTuple):
    sockets: Sockets
    udp: UdpServer


class Listeners:
    """The addresses with their sockets. Queries wait in the queues of the sockets until `start`. For one event loop."""

    def __init__(self, log: FilteringBoundLogger, respond_udp: Respond, tcp: TcpServer) -> None:
        """Create without any address. `respond_udp` answers packets, and `tcp` serves the connections."""
        self.errors: dict[str, str] = {}
        """Why addresses are not open, by address."""
        self._log, self._respond_udp, self._tcp = log, respond_udp, tcp
        self._listeners: dict[str, _Listener] = {}
        self._started = False
        self._dropped = 0  # answers of closed sockets
        self._lock = asyncio.Lock()

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses that are open."""
        return tuple(self._listeners)

    @property
    def dropped(self) -> int:
        """The number of answers that could not be sent over UDP. From any thread."""
        return self._dropped + sum(each.udp.dropped for each in tuple(self._listeners.values()))

    async def listen(self, binds: Collection[str], inherited: Iterable[socket.socket] = ()) -> None:
        """Close addresses that are not among `binds`, and open the missing ones; failures are in `errors`."""
        async with self._lock:
            await self._listen(binds, inherited)

    async def start(self) -> None:
        """Begin to answer. Idempotent."""
        async with self._lock:
            if not self._started:
                self._started = True
                for each in self._listeners.values():
                    await self._start(each)

    def copies(self) -> tuple[socket.socket, ...]:
        """Return copies of all sockets for a successor."""
        return copies(each.sockets for each in self._listeners.values())

    async def close(self, patience: float) -> None:
        """Close everything; clients have `patience` seconds to read the answers that they have asked for.

        Queries that have not been read stay in the queues of copies.
        """
        async with self._lock:
            for bind in tuple(self._listeners):
                self._close(bind)
        await self._tcp.close(patience)

    async def _listen(self, binds: Collection[str], inherited: Iterable[socket.socket]) -> None:
        for bind in [bind for bind in self._listeners if bind not in binds]:
            self._close(bind)
            self._log.info("no longer listening", address=bind)
        before, self.errors = self.errors, {}
        for bind in binds:
            if bind in self._listeners:
                continue
            try:
                sockets = open_sockets(bind, inherited)
            except CannotListenError as error:
                self.errors[bind] = str(error)
                continue
            udp = UdpServer(sockets.udp, self._respond_udp, wildcard=sockets.wildcard)
            self._listeners[bind] = _Listener(sockets, udp)
            self._log.info("listening", address=bind)
            if self._started:
                await self._start(self._listeners[bind])
        if not self._listeners and not self._started:
            return  # the setup fails, and the core tells the reason, once for all attempts
        for bind, reason in self.errors.items():
            if before.get(bind) != reason:
                self._log.error("an address is not open; the attempt is repeated", reason=reason)

    async def _start(self, listener: _Listener) -> None:
        listener.udp.start()
        await self._tcp.listen(listener.sockets.tcp)

    def _close(self, bind: str) -> None:
        listener = self._listeners.pop(bind)
        listener.udp.stop()
        self._dropped += listener.udp.dropped
        self._tcp.stop_listening(listener.sockets.tcp)
        listener.sockets.close()
