"""The proxy of a listener in a worker: admits clients, connects clients to backends, and counts."""

import os
import select
from collections.abc import Iterable, Mapping
from typing import Any

from discovery_tcpproxy.worker import proxyproto
from discovery_tcpproxy.worker.admission import Admission
from discovery_tcpproxy.worker.context import WorkerContext
from discovery_tcpproxy.worker.counters import ListenerCounters
from discovery_tcpproxy.worker.dialler import Dialler
from discovery_tcpproxy.worker.loop import Deadlines
from discovery_tcpproxy.worker.options import failure_of, is_connected_to_itself, no_linger
from discovery_tcpproxy.worker.pool import UpstreamPool
from discovery_tcpproxy.worker.proxy_header import HeaderReader, header_of
from discovery_tcpproxy.worker.stream import WATCHED, Connection
from discovery_tcpproxy.worker.unix_client import UnixClient
from discovery_tcpproxy.worker.upkeep import Upkeep
from discovery_tcpproxy.worker.upstream import Upstream

_FAILED = select.EPOLLERR | select.EPOLLHUP


class ListenerProxy:
    """The connections of a configured listener, which may have any number of listening sockets.

    The connections outlive the listening sockets, and the listener in the configuration.
    """

    def __init__(self, name: str, context: WorkerContext) -> None:
        """Create the proxy of the listener `name`. Call `configure` before any other method."""
        self.name = name
        self.counters = ListenerCounters()
        self.pool = UpstreamPool()
        self.connections: set[Connection] = set()
        self.service = ""
        self._context = context
        self._loop = context.loop
        self._buffer = context.buffer
        self._descriptors = context.descriptors
        self._settings: Mapping[str, Any] = {}
        self._admission = Admission()
        self._dialler = Dialler(context, self.pool, self.counters)
        self._attempts = self._dialler.attempts
        self._queue = self._dialler.queue
        self._headers = Deadlines[Connection](context.loop, 0.0, self._header_timed_out)
        self._upkeep = Upkeep(context.loop, self.connections)
        self._unacknowledged = self._upkeep.unacknowledged

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Take the settings that `targets.settings` makes; existing connections go on under the new settings."""
        before, self._settings = self._settings, settings
        self.service = settings["service"]
        if before.get("balance") != settings["balance"]:
            self.pool.set_algorithm(settings["balance"])
        self._admission.configure(settings)
        if self._admission.limited:
            for connection in self.connections:
                if connection not in self._headers:
                    self._admission.count(connection)
        self._dialler.configure(settings)
        self._headers.seconds = settings["accept_proxy_timeout"]
        self._upkeep.configure(settings["idle_timeout"], settings["unacknowledged_timeout"])

    def close(self) -> None:
        """Cancel all timers. The listener has no sockets and no connections any more."""
        self._upkeep.close()
        self._queue.close()

    def end_idle(self) -> None:
        """Close every connection that becomes idle, and hold no clients: the daemon sends no more backends."""
        self._queue.stop()
        for connection in self._headers.all():
            connection.abort("stopped")
        self._upkeep.end_idle()

    def update(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Replace the backends of the service by this complete list, and dial for held clients where possible.

        An attempt at a backend that has left is broken off: if the backend died, the attempt would take its whole time.
        """
        left = {upstream: upstream.departures for upstream in self.pool.update(records)}
        if left:
            self._dialler.break_off(left)
        drain = self._settings["drain"]
        if left and drain is not None:
            if drain:
                self._loop.call_later(drain, lambda: self._end_connections_to(left))
            else:
                self._end_connections_to(left)
        self._queue.retry()

    def accepted(self, fd: int, address: tuple[str, int]) -> None:
        """Serve a client that was accepted, at a `plain` IP address and port (`("", 0)` for a Unix socket)."""
        admission = self._admission
        proxied = counted = False
        if not admission.open:
            proxied = admission.senders.any and admission.senders.include(address[0])
            if admission.restricted and not proxied and (refusal := admission.refusal(address[0])):
                self.counters.rejected[refusal] += 1
                no_linger(fd)
                os.close(fd)  # epoll does not know the descriptor, so that no event of this batch can refer to it
                return
            counted = admission.limited and not proxied
        self.counters.total += 1
        loop = self._loop
        connection = Connection(self, loop, self._buffer, fd, address, counted=counted)
        self.connections.add(connection)
        if not self._unacknowledged.watching:
            self._unacknowledged.watch()
        self._descriptors.taken += 1
        handler = connection.client if address[0] else UnixClient(connection.client)
        try:
            if proxied:
                loop.add(fd, HeaderReader(connection, handler, self._header_received), WATCHED)
                self._headers.add(connection)
            else:
                (self._queue.exchange if self._queue.wave else self._dialler.dial)(connection)
                if not connection.closed:  # registered after the backend, whose answer may come in the same batch
                    loop.add(fd, handler, WATCHED)
        except OSError:  # the limit fs.epoll.max_user_watches is reached
            connection.abort("unserved")
            raise

    def unblock(self) -> None:
        """Dial for held clients: descriptors are free again."""
        self._queue.unblock()

    @property
    def holding(self) -> int:
        """Number of clients that wait for a backend."""
        return len(self._queue)

    def state(self, connection: Connection) -> str:
        """Return the state of a connection, as reports show it."""
        server = connection.server
        if connection.open and server is not None:
            return "half-closed" if connection.client.eof or server.eof else "open"
        if connection in self._headers:
            return "header"
        return "held" if connection in self._queue else "connecting"

    # The protocol ConnectionOwner.

    def connect_completed(self, connection: Connection, events: int) -> None:
        """See `ConnectionOwner`."""
        server, upstream, counters = connection.server, connection.upstream, self.counters
        if server is None or upstream is None:
            return
        address = connection.server_address
        if events & _FAILED or upstream.failures or not upstream.connected or address is not upstream.address:
            reason = failure_of(server.fd)
            if (events & _FAILED and not server.has_received_data()) or is_connected_to_itself(server.fd):
                self._dialler.failed(connection, reason)
                self._dialler.dial(connection)
                return
            if address is not None:
                upstream.prefer(address)
        self._attempts.discard(connection)
        seconds = self._loop.now - connection.dialled_at
        upstream.connect_seconds += seconds
        counters.connected += 1
        counters.connect_seconds += seconds
        recovered = self.pool.connected(upstream)
        version = self._settings["send_proxy"]
        connection.connected(header_of(connection, version) if version else b"")
        if recovered:
            self._queue.retry()

    def client_reset(self, connection: Connection) -> None:
        """See `ConnectionOwner`."""
        connection.abort("gone")

    def client_finished(self, connection: Connection) -> None:
        """See `ConnectionOwner`. A FIN may mean a half-close or a client that left: a held client counts as left."""
        if connection in self._queue:
            self._queue.finished(connection)

    def connection_closed(self, connection: Connection) -> None:
        """See `ConnectionOwner`."""
        counters, upstream, server = self.counters, connection.upstream, connection.server
        self.connections.discard(connection)
        sent = 0 if server is None else server.received
        received = connection.client.received
        counters.received += received
        counters.sent += sent
        if upstream is not None:
            upstream.received += sent
            upstream.sent += received
            if connection.open:
                self.pool.closed(upstream)
            else:
                self.pool.abandoned(upstream)
                self._queue.schedule()  # the attempt may have been the probe of a failed backend: plan another
        if not connection.open:
            for group in (self._attempts, self._queue, self._headers):
                group.discard(connection)
            counters.rejected[connection.reason] += 1
        if connection.counted:
            self._admission.release(connection)
        if self._settings["access_log"]:
            self._log_access(connection, received, sent)
        self._context.connection_ended()

    def connection_failed(self, connection: Connection, error: Exception) -> None:
        """See `ConnectionOwner`."""
        message = f"{type(error).__name__}: {error}"
        fields = {"listener": self.name, "client": connection.client_address[0], "error": message}
        self._context.send_event({"event": "log", "level": "error", "message": "connection broken", "fields": fields})

    def _header_received(self, connection: Connection, header: proxyproto.Header) -> None:
        """Take the addresses in a PROXY header, which has none for a connection of the proxy itself, and dial."""
        self._headers.discard(connection)
        if header.source is not None:
            connection.client_address, connection.original_destination = header.source, header.destination
        if self._admission.restricted and (refusal := self._admission.refusal(connection.client_address[0])):
            connection.abort(refusal)
            return
        connection.counted = self._admission.limited
        (self._queue.exchange if self._queue.wave else self._dialler.dial)(connection)

    def _header_timed_out(self, connection: Connection) -> None:
        connection.abort("header")

    def _end_connections_to(self, left: Mapping[Upstream, int]) -> None:
        """End connections to backends that have left and not returned since; the values are departures so far."""
        absent = {
            upstream for upstream, departures in left.items() if upstream.gone and upstream.departures == departures
        }
        for connection in list(self.connections):
            if connection.open and connection.upstream in absent:
                connection.abort("left")
        self._dialler.break_off(absent)

    def _log_access(self, connection: Connection, received: int, sent: int) -> None:
        upstream, address = connection.upstream, connection.server_address
        self._context.send_event(
            {
                "event": "access",
                "listener": self.name,
                "service": self.service,
                "client": list(connection.client_address),
                "backend": None if upstream is None else upstream.id,
                "address": None if upstream is None or address is None else list(address),
                "seconds": round(self._loop.now - connection.accepted_at, 6),
                "received": received,
                "sent": sent,
                "end": connection.reason,
            }
        )
