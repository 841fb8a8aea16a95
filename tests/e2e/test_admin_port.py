"""Point 21: whatever a local user does to the admin port, the core goes on, and a web page reads nothing there."""

import http.client
import os
import resource
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from daemons import Daemon, RecordFiles, Starter, processes

from discovery.testing import cannot_run, eventually_sync, free_port, require_program, within

pytestmark = pytest.mark.warm

TIMEOUT = 60.0
HALF = b"GET /api/snapshot HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Never: en"


class Crowd:
    """Many clients that each send half a request, and connect again when they are refused."""

    def __init__(self, address: str, count: int) -> None:
        host, _, port = address.rpartition(":")
        self._address = (host, int(port))
        self._clients: list[socket.socket | None] = [None] * count

    def push(self) -> int:
        """Have every client connected again; return how many had to be."""
        pushed = 0
        for place, client in enumerate(self._clients):
            if client is None or self._has_ended(client):
                pushed += 1
                if client is not None:
                    client.close()
                self._clients[place] = None
                with suppress(OSError):
                    self._clients[place] = new = socket.create_connection(self._address, timeout=1)
                    new.sendall(HALF)
                    new.setblocking(False)
        return pushed

    def close(self) -> None:
        for client in self._clients:
            if client is not None:
                client.close()

    @staticmethod
    def _has_ended(client: socket.socket) -> bool:
        try:
            return client.recv(1000, socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        cannot_run("this machine allows too few descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096 if hard == resource.RLIM_INFINITY else min(hard, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.costly
@pytest.mark.usefixtures("many_descriptors")
def test_1100_half_finished_requests_hinder_nothing(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles
) -> None:
    require_program("haproxy")
    require_program("prlimit", wheel=False)
    url, write = file_registry
    write("web/b1", "127.0.0.1:9")
    arguments = [
        "--registry",
        url,
        "--plugin",
        "haproxy",
        "--set",
        f"haproxy.services.web.bind=127.0.0.1:{free_port()}",
    ]
    daemon = start_daemon(*arguments, under=("prlimit", "--nofile=1024:1024"))
    eventually_sync(daemon.is_ready, timeout=TIMEOUT)
    crowd = Crowd(daemon.admin, 1100)
    try:
        crowd.push()
        before = masters(tmp_path)
        write("web/b2", "127.0.0.1:10")
        configuration = daemon.run_dir / "haproxy/haproxy.cfg"

        def is_applied() -> bool:
            crowd.push()
            return "127.0.0.1:10" in "".join(path.read_text() for path in configuration.parent.glob("*.cfg"))

        eventually_sync(is_applied, "a change to be applied", TIMEOUT)
        for pid in before:
            with suppress(ProcessLookupError):  # a worker goes with its master
                os.kill(pid, signal.SIGKILL)

        def is_restarted() -> bool:
            crowd.push()
            return bool(masters(tmp_path) - before)

        eventually_sync(is_restarted, "HAProxy to be restarted", TIMEOUT)
        crowd.push()
        eventually_sync(lambda: daemon.get("/healthz")[0] in (200, 503), "a real client to be answered", TIMEOUT)
        assert len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir())) < 300
        assert daemon.log_path.stat().st_size < 100_000
        assert "Traceback" not in daemon.log
    finally:
        crowd.close()


def masters(directory: Path) -> set[int]:
    return {pid for pid, line in processes(directory).items() if "master.sock" in line}


def ask(daemon: Daemon, request: bytes) -> bytes:
    """Everything that is answered to these bytes, until the daemon ends the connection."""
    host, _, port = daemon.admin.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=within(TIMEOUT)) as client:
        client.sendall(request)
        answer = b""
        with suppress(ConnectionResetError):
            while some := client.recv(65536):
                answer += some
        return answer


@pytest.fixture
def daemon(tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles) -> Daemon:
    url, write = file_registry
    write("web/b1", "127.0.0.1:9")
    path = tmp_path / "discovery.toml"
    path.write_text(
        f'admin_hosts = ["discovery.example.org"]\n[registry]\nurl = "{url}"\n'
        f'[consumers.p]\nplugin = "tcpproxy"\nlisten.web = "127.0.0.1:{free_port()}"\n'
    )
    started: Daemon = start_daemon("--config", str(path), under=("prlimit", "--nofile=512:1024"))
    eventually_sync(started.is_ready, timeout=TIMEOUT)
    return started


@pytest.mark.costly
def test_a_request_that_does_not_come_ends_the_connection(daemon: Daemon) -> None:
    requests = (b"", HALF, b"GET /healthz HTTP/1.1\r\n")
    with ThreadPoolExecutor(len(requests)) as clients:  # each waits for the daemon's limit
        for answer in clients.map(partial(ask, daemon), requests):
            assert b"200" not in answer


@pytest.mark.costly
def test_a_request_without_end_is_cut_off_and_garbage_fills_no_log(daemon: Daemon) -> None:
    assert b"200" not in ask(daemon, b"GET /healthz HTTP/1.1\r\n" + b"X-Some: thing\r\n" * 100_000)
    before = daemon.log_path.stat().st_size
    for _ in range(300):
        ask(daemon, b"\x16\x03\x01\x00garbage\r\n\r\n")
    assert daemon.log_path.stat().st_size - before < 20_000


@pytest.mark.costly
@pytest.mark.parametrize("hosts", [b"", b"Host: a\r\nHost: b\r\n"])
def test_a_malformed_request_is_answered_and_not_logged(daemon: Daemon, hosts: bytes) -> None:
    answer = ask(daemon, b"GET /healthz HTTP/1.1\r\n" + hosts + b"\r\n")
    assert answer.startswith(b"HTTP/1.0 400 ")
    fine = ask(daemon, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert fine.startswith(b"HTTP/1.1 200 ")
    assert b"aiohttp" not in fine
    assert "Traceback" not in daemon.log_path.read_text()


@pytest.mark.costly
def test_what_is_asked_by_a_foreign_name_is_not_answered(daemon: Daemon) -> None:
    host, _, port = daemon.admin.rpartition(":")
    statuses = {}
    names = (
        "evil.example",
        "evil.example:9901",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "discovery.example",
    )
    served = ("127.0.0.1", f"127.0.0.1:{port}", "[::1]:9901", "10.0.0.7", "localhost", "LOCALHOST:80", "localhost.",
              "discovery.example.org", "Discovery.Example.org:9901")  # fmt: skip
    for name in (*names, *served):
        connection = http.client.HTTPConnection(host, int(port), timeout=within(TIMEOUT))
        connection.request("GET", "/api/snapshot", headers={"Host": name})
        answer = connection.getresponse()
        statuses[name] = answer.status
        assert (b"services" in answer.read()) == (name in served)
        connection.close()
    assert statuses == dict.fromkeys(names, 403) | dict.fromkeys(served, 200)
    assert b"200 OK" in ask(daemon, b"GET /healthz HTTP/1.0\r\n\r\n")


@pytest.mark.costly
def test_the_limit_on_descriptors_is_raised(daemon: Daemon) -> None:
    limits = Path(f"/proc/{daemon.process.pid}/limits").read_text()
    assert next(line for line in limits.splitlines() if "open files" in line).split()[3:5] == ["1024", "1024"]
