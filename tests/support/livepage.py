"""A daemon for its live page: etcd, HAProxy, a provider, and a consumer that fails when a test wants it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gateway
import third_party
from daemons import Daemon, Starter, starting
from listed import LISTED, Found

from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually_sync, free_port, require_program

MANY = 10_000
"""Backends of a large registry."""
_ESTABLISHED = "01"
REASON = "the disk of the archive is full"
FAILING = f"""
from pathlib import Path
from discovery import Consumer, PluginConfig, hookimpl

class Options(PluginConfig):
    flag: Path

class Archive(Consumer[Options]):
    Config = Options

    def apply(self, update):
        if self.config.flag.exists():
            raise OSError("{REASON}")

    def inspect(self):
        return {{"shelves": [{{"boxes": {{"first": [{{"folders": {{"name": "{"n" * 80}", "sheets": [1, 2]}}}}]}}}}]}}

@hookimpl
def discovery_register_consumers(register):
    register("archive", Archive)
"""


@dataclass(frozen=True)
class Stage:
    """The daemon, what it follows, and how to change that."""

    etcd: EmbeddedEtcd
    daemon: Daemon
    found: Found
    flag: Path
    origin: int

    @property
    def url(self) -> str:
        """The address of the live page."""
        return f"http://{self.daemon.admin}/"

    @property
    def connections(self) -> int:
        """How many connections of clients the admin endpoint has now."""
        local = f":{int(self.daemon.admin.rpartition(':')[2]):04X}"
        sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(each[1].endswith(local) and each[3] == _ESTABLISHED for each in sockets)

    def put(self, key: str, value: str | None = None) -> None:
        """Write a record; by default that of the origin, which answers."""
        gateway.put(self.etcd, {key: value or f"127.0.0.1:{self.origin}"})

    def fail(self) -> None:
        """Make the consumer `archive` fail at its next apply."""
        self.flag.touch()

    def recover(self) -> None:
        """Let the consumer `archive` succeed at its next attempt."""
        self.flag.unlink(missing_ok=True)


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def origin() -> Iterator[int]:
    """Run a server that answers HAProxy's checks, and yield its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def staged(directory: Path, *, many: bool = False) -> Iterator[Stage]:
    """Run all of it until everything is shown as it is; with `many`, a registry of 10,000 backends besides."""
    for name in ("etcd", "haproxy"):
        require_program(name)
    with EmbeddedEtcd() as etcd, starting(directory) as start, origin() as port:
        if many:
            gateway.put(etcd, dict(_many()))
        yield _run(directory, etcd, start, port)


def _many() -> Iterator[tuple[str, str]]:
    for number in range(MANY):
        service, backend = divmod(number, 100)
        labels = {"zone": f"z{backend % 3}", "version": f"1.{service % 7}"}
        record = {"host": f"10.{service}.0.{backend + 1}", "port": 8080, "labels": labels}
        yield f"shop-{service:02}/n{backend:02}", json.dumps(record)


def _run(directory: Path, etcd: EmbeddedEtcd, start: Starter, port: int) -> Stage:
    archive, config, flag = directory / "archive.py", directory / "discovery.toml", directory / "fails"
    archive.write_text(FAILING)
    third_party.install(directory / "site", "listed", LISTED, "third-party-listed")
    start.environment["PYTHONPATH"] = str(directory / "site")
    found = Found(directory / "found.json")
    found(("passing", 1001, "passing"), ("refused", 1002, "failing"), idle="it publishes no port")
    config.write_text(f"""announce = true
[consumers.edge]
plugin = "haproxy"
filter = {{ services = ["api", "web"] }}
services.api.bind = "127.0.0.1:{free_port()}"
services.web = {{ bind = "127.0.0.1:{free_port()}", check = false }}
[consumers.archive]
plugin = "{archive}"
flag = "{flag}"
{found.table("machine", owner="machine-4/listed")}
""")
    records = {f"api/a{number}": f"127.0.0.1:{port}" for number in (1, 2)}
    gateway.put(etcd, {**records, "db/broken": "no address at all"})
    daemon = start("--registry", etcd.url, "--config", str(config))
    eventually_sync(daemon.is_ready, "the daemon to be ready", timeout=60)
    eventually_sync(lambda: daemon.get("/api/status")[1]["rejected"] == 1, "the broken record", timeout=60)
    eventually_sync(lambda: daemon.provider("machine")["registered"] == 1, "the provider's backend", timeout=60)
    eventually_sync(lambda: daemon.get("/api/fleet")[1]["daemons"], "the daemon to be announced", timeout=60)
    eventually_sync(lambda: daemon.consumer("edge")["lag_seconds"] == 0, "HAProxy to follow", timeout=60)
    return Stage(etcd, daemon, found, flag, port)
