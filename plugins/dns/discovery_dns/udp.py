"""Answers queries over UDP."""

import asyncio
import socket
import struct
from collections.abc import Callable

_MOST_QUERY_BYTES = 4096
"""Bytes of a packet that are read. A query has a few hundred; a longer packet is cut off, and malformed."""
_PACKETS = 64
"""Packets that are answered before other tasks of the loop get their turn: about 2 ms."""
_ANCILLARY_BYTES = socket.CMSG_SPACE(20)
"""Bytes for the address to which a packet was sent: 20 for IPv6, 12 for IPv4."""
_PKTINFO4 = struct.Struct("@I4s4s")
"""The index of the interface, the address of this machine, and the address in the packet's header (ip(7))."""
_PKTINFO6 = struct.Struct("@16sI")
"""The address of this machine and the index of the interface (ipv6(7))."""
_LINK_LOCAL = 0xFE80
"""The first 10 bits of a link-local address, which needs an interface."""

Respond = Callable[[bytes], bytes | None]


class UdpServer:
    """Answers the packets of one socket, from `start` until `stop`. For one event loop."""

    def __init__(self, sock: socket.socket, respond: Respond, *, wildcard: bool) -> None:
        """Serve `sock`, which does not block and stays the caller's. `respond` returns the answer to a packet.

        Answers of a `wildcard` socket come from the address to which the query was sent.
        """
        self.dropped = 0
        """The number of answers that could not be sent."""
        self._sock, self._respond = sock, respond
        self._answer = self._answer_from_the_same_address if wildcard else self._answer_from_the_bound_address
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin to answer. Idempotent."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._sock, self._answer)

    def stop(self) -> None:
        """Stop to answer; packets stay in the queue of the socket. Idempotent."""
        if self._loop is not None:
            self._loop.remove_reader(self._sock)
            self._loop = None

    def _answer_from_the_bound_address(self) -> None:
        receive, send, respond = self._sock.recvfrom, self._sock.sendto, self._respond
        for _ in range(_PACKETS):
            try:
                packet, client = receive(_MOST_QUERY_BYTES)
            except BlockingIOError:
                return
            except OSError:  # an earlier answer was refused
                continue
            answer = respond(packet)
            if answer is not None:
                try:
                    send(answer, client)
                except OSError:  # the queue is full, or the client's address is not one to send to
                    self.dropped += 1

    def _answer_from_the_same_address(self) -> None:
        for _ in range(_PACKETS):
            try:
                packet, ancillary, _, client = self._sock.recvmsg(_MOST_QUERY_BYTES, _ANCILLARY_BYTES)
            except BlockingIOError:
                return
            except OSError:
                continue
            answer = self._respond(packet)
            if answer is not None:
                source = [(level, kind, _source(level, data)) for level, kind, data in ancillary]
                try:
                    self._sock.sendmsg([answer], source, 0, client)
                except OSError:
                    self.dropped += 1


def _source(level: int, data: bytes) -> bytes:
    """Return the ancillary data of an answer for that of a query: the same address, and the route's own interface."""
    if level == socket.IPPROTO_IP:
        _, address, _ = _PKTINFO4.unpack(data)
        return _PKTINFO4.pack(0, address, bytes(4))
    address, interface = _PKTINFO6.unpack(data)
    is_link_local = int.from_bytes(address[:2], "big") & 0xFFC0 == _LINK_LOCAL
    return _PKTINFO6.pack(address, interface if is_link_local else 0)
