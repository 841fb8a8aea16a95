"""An HTTP server for clients that nobody vouches for: bounded in connections, time, bytes and log lines.

Any user of the machine, and a web page in any browser, can reach the admin port. So a connection carries one request,
which has to arrive and to be answered in time; and there are few connections, far from all descriptors of the process.
When all are taken, clients wait until they are accepted, and connections without a request make room for them.
"""

import asyncio
import ipaddress
import logging
import resource
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import cast

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

ASK_SECONDS = 5.0
"""Seconds that a client has to send its request."""
SERVE_SECONDS = 30.0
"""Seconds within which a request is answered and its answer read."""
MOST_CONNECTIONS = 128
"""Connections at a time: enough for monitoring, and no flood takes the daemon's descriptors. Of a thousand clients that
never ask, all have made room within two seconds."""
MOST_STREAMS = 64
"""Answers without an end at a time, beside the other connections: a stream of a browser has all of its tabs."""
_END_SECONDS = 1.0
"""Seconds that requests have to be answered when the server ends: an answer takes milliseconds."""
_TLS_END_SECONDS = 1.0
"""Seconds that a client has to confirm the end of TLS, which nothing depends on."""
MOST_BYTES = 64 * 1024
"""Bytes that a client may send: its request has no body worth more."""

SILENT_SECONDS = 0.2
"""Seconds that a client has to send its request while others wait: one that has waited itself has sent it already."""
_SILENT_TLS_SECONDS = 1.0
"""The same with TLS, which a client cannot begin before it is accepted: two round trips to a distant one, or three."""
_ACCEPTED_AT_ONCE = 16
"""Connections that are accepted in one turn of the event loop, so that a flood delays no other work."""
_PAUSE = 1.0
"""Seconds without accepting after `accept` has failed, as for a lack of descriptors."""
_LONG_SECONDS = 1.0
"""Seconds without a free connection after which the log tells of it."""
_LOG_EVERY = 60.0
"""Seconds between two log lines about refused connections, so that a flood does not fill the log."""

_log = structlog.get_logger("discovery.admin.server")


class HttpServer:
    """Serves an application on an address, for the hosts whose names `hosts` returns; on one event loop."""

    def __init__(
        self,
        application: web.Application,
        hosts: Callable[[], Collection[str]],
        tls: Callable[[], ssl.SSLContext | None] = lambda: None,
    ) -> None:
        """Prepare. `hosts` is called for every request, beside IP addresses and localhost, which always pass.

        `tls` is called for every connection; None stands for plain HTTP.
        """
        self._hosts = hosts
        self._tls = tls
        application.middlewares.insert(0, self._guard)
        application.on_response_prepare.append(_close_afterwards)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=_END_SECONDS,
            auto_decompress=False,  # a body of a few kilobytes would become gigabytes, which the core waits for
        )
        logging.getLogger("aiohttp.server").addFilter(_is_our_fault)
        self._listening: list[socket.socket] = []
        self._connections: dict[_Connection, None] = {}  # the oldest first
        self._tasks: set[asyncio.Task[object]] = set()
        self._waiting: asyncio.TimerHandle | None = None  # while all connections are taken
        self._taken_since = 0.0
        self._refused = 0
        self._logged = -_LOG_EVERY
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # The rest of the descriptors is the core's, its plugins' and its children's.
        share = MOST_CONNECTIONS if limit == resource.RLIM_INFINITY else limit // 8
        self.most = max(1, min(MOST_CONNECTIONS, share))
        """Connections at a time, at most."""
        self.most_streams = max(1, min(MOST_STREAMS, 2 * share))
        """Connections with an answer without an end, at most: see `keep`."""

    async def start(self, listening: list[socket.socket]) -> None:
        """Serve clients of these sockets, which are non-blocking and belong to the server from now on."""
        loop = asyncio.get_running_loop()
        self._listening = listening
        await self._runner.setup()
        for each in listening:
            loop.add_reader(each, self._accept, each)

    async def close(self) -> None:
        """Stop listening, and end every connection. Idempotent."""
        if self._waiting is not None:
            self._waiting.cancel()
        for listening in self._listening:
            asyncio.get_running_loop().remove_reader(listening)
            listening.close()
        self._listening.clear()
        await self._runner.cleanup()
        for connection in list(self._connections):
            connection.abort()

    def handler(self) -> asyncio.Protocol:
        """Return the protocol that speaks HTTP on a new connection."""
        return cast("web.Server", self._runner.server)()

    def keep(self, request: web.Request) -> bool:
        """Let the connection of `request` stay for as long as its client reads: its answer has no end.

        The answer has to send something from time to time, so that a client that has gone is noticed. Returns False,
        and changes nothing, if as many stay as may. Connections that stay take no room of the others.
        """
        if self._streams >= self.most_streams:
            return False
        connection = self._connection(request)
        if connection is None:
            return False
        connection.stay()
        self._look_for_room()
        return True

    def _connection(self, request: web.Request) -> "_Connection | None":
        """Return the connection of a request; None if its client has gone, and not one that has no transport yet."""
        if request.transport is None:
            return None
        return next((each for each in self._connections if each.transport is request.transport), None)

    @property
    def _streams(self) -> int:
        return sum(each.stays for each in self._connections)

    def forget(self, connection: "_Connection") -> None:
        """Take note that a connection has ended."""
        self._connections.pop(connection, None)
        self._look_for_room()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            if not self._has_room():
                self._let_wait()
                return
            try:
                client, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptor is free
                self._pause(listening, error)
                return
            client.setblocking(False)
            connection = _Connection(self)
            self._connections[connection] = None
            task = asyncio.create_task(self._connect(connection, client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            connection.connecting = task

    async def _connect(self, connection: "_Connection", client: socket.socket) -> None:
        loop, tls = asyncio.get_running_loop(), self._tls()
        seconds = (
            {} if tls is None else {"ssl_handshake_timeout": ASK_SECONDS, "ssl_shutdown_timeout": _TLS_END_SECONDS}
        )
        try:
            await loop.connect_accepted_socket(lambda: connection, client, ssl=tls, **seconds)
        except (OSError, asyncio.CancelledError) as error:  # the client has gone, speaks no TLS, or has to make room
            client.close()
            connection.connecting = None
            connection.abort()
            self.forget(connection)
            if isinstance(error, asyncio.CancelledError):
                raise

    def _has_room(self) -> bool:
        return len(self._connections) - self._streams < self.most

    def _let_wait(self) -> None:
        """Accept nobody until there is room."""
        loop = asyncio.get_running_loop()
        self._taken_since = loop.time()
        for listening in self._listening:
            loop.remove_reader(listening)
        self._make_room_later()

    def _make_room(self, silent: Sequence["_Connection"]) -> None:
        """End the connections that were silent at the last look, and still are: not the clock but we may be late."""
        loop = asyncio.get_running_loop()
        self._make_room_later()
        for connection in silent:
            if not connection.answering and connection in self._connections:
                connection.abort()
                self.forget(connection)
        if not self._has_room() and loop.time() - self._taken_since >= _LONG_SECONDS:
            self._report("clients of the admin endpoint wait", "too many requests are being answered")

    def _make_room_later(self) -> None:
        seconds = SILENT_SECONDS if self._tls() is None else _SILENT_TLS_SECONDS
        silent = [each for each in self._connections if not each.answering]
        self._waiting = asyncio.get_running_loop().call_later(seconds, self._make_room, silent)

    def _look_for_room(self) -> None:
        """Accept clients again if all connections were taken, and are no more."""
        if self._waiting is None or not self._has_room():
            return
        self._waiting.cancel()
        self._waiting = None
        for listening in self._listening:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _pause(self, listening: socket.socket, error: OSError) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)
        loop.call_later(_PAUSE, self._resume, listening)
        self._report("the admin endpoint cannot accept connections", error.strerror or str(error))

    def _resume(self, listening: socket.socket) -> None:
        if listening in self._listening and self._waiting is None:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _report(self, what: str, reason: str) -> None:
        """Log a refusal, at most every minute."""
        self._refused += 1
        now = asyncio.get_running_loop().time()
        if now - self._logged >= _LOG_EVERY:
            _log.warning(what, reason=reason, times=self._refused)
            self._logged, self._refused = now, 0

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.can_read_body:  # its time is that of the request: a body that never ends holds no place
            try:
                await request.read()
            except (web.RequestPayloadError, HttpProcessingError, ConnectionError):  # its fault, and no line of the log
                return web.json_response({"error": "the body is not as its header says"}, status=400)
            except RuntimeError:  # aiohttp's, if the connection has ended before anybody reads the body
                if not _has_gone(request):
                    raise
                return _nobodys(request)
        connection = self._connection(request)
        if connection is not None:
            connection.begin()
        host = request.headers.get("Host", "")
        if not is_known(host, self._hosts()):
            error = f"the host name {host[:200]!r} is not served: use an IP address, or add the name to admin_hosts"
            return web.json_response({"error": error}, status=403)
        try:
            return await handler(request)
        except ConnectionError:
            if not _has_gone(request):
                raise  # a fault of ours
            return _nobodys(request)
        finally:
            connection = self._connection(request)
            if connection is not None and connection.stays:
                connection.begin()  # an answer without an end has ended: what is left is read in time, or never


class _Connection(asyncio.Protocol):
    """A connection of a client: passes what it sends to aiohttp, within limits."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._handler = server.handler()
        self._received = 0
        self._over = False
        self._timer = asyncio.get_running_loop().call_later(ASK_SECONDS, self.abort)
        self.transport: asyncio.Transport | None = None
        self.connecting: asyncio.Task[None] | None = None
        self.answering = False
        self.stays = False

    def stay(self) -> None:
        """Have no limit of time any more."""
        self.stays = True
        self._timer.cancel()

    def begin(self) -> None:
        """Note that its request has arrived."""
        self.answering = True
        self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(SERVE_SECONDS, self.abort)

    def abort(self) -> None:
        """End the connection now."""
        self._over = True
        self._timer.cancel()
        if self.transport is not None:
            self.transport.abort()
        elif self.connecting is not None:  # a handshake of TLS holds a descriptor
            self.connecting.cancel()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._handler.connection_made(transport)
        if self._over:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > MOST_BYTES:
            self.abort()
        else:
            self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        return self._handler.eof_received()

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._server.forget(self)
        self._handler.connection_lost(exc)


def is_known(host: str, names: Collection[str]) -> bool:
    """Whether a request with this `Host` header is served.

    A web page can give its own name the address of this machine (DNS rebinding) and would then read our answers as
    its own; the browser still sends the page's name. A client without the header is no browser.
    """
    name = host[: host.rfind(":")] if host.rfind(":") > host.rfind("]") else host
    name = name.removeprefix("[").removesuffix("]").removesuffix(".").lower()
    if name in ("", "localhost") or name in {each.removesuffix(".").lower() for each in names}:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_our_fault(record: logging.LogRecord) -> bool:
    """Keep a log record, unless its cause is a malformed request: the client alone learns of that, by status 400."""
    malformed = (HttpProcessingError, web.RequestPayloadError)
    return record.exc_info is None or not isinstance(record.exc_info[1], malformed)


def _has_gone(request: web.Request) -> bool:
    """Return True if the client of a request has closed its connection, or we have."""
    return request.transport is None or request.transport.is_closing()


def _nobodys(request: web.Request) -> web.Response:
    """Return an answer to a request whose client has gone. Clients do that as they like: it is no line of the log."""
    _log.debug("a client of the admin endpoint has gone before its answer", path=request.path)
    return web.Response()


async def _close_afterwards(_: web.Request, response: web.StreamResponse) -> None:
    response.force_close()
    response.headers["Connection"] = "close"  # else a client sends its next request, such as a form, in vain
    response.headers.pop("Server", None)  # the versions of Python and aiohttp are nobody's business
