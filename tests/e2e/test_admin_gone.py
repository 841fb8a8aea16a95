"""A client of the admin endpoint that goes before its answer has come leaves no line in the log."""

import json
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import pytest
from daemons import Daemon, RecordFiles, Starter

from discovery.testing import eventually_sync, free_port, within

pytestmark = pytest.mark.warm

TOKEN = "0123456789abcdef" * 2
KNOWN = f"Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
FORM = urlencode({"token": TOKEN, "next": "/"})
STREAMS = ("/stream", "/stream?view=q%3Da&view=q%3Db")
PLACES = (
    "/",
    "/static/page.js",
    "/panel/fleet",
    "/panel/consumers/p",
    "/healthz",
    "/readyz",
    "/metrics",
    "/api",
    "/api/status",
    "/api/snapshot",
    "/api/consumers",
    "/api/consumers/p",
    "/api/providers",
    "/api/history",
    "/api/explain?service=web",
    "/api/wait?service=none&timeout=60",
    "/api/fleet",
    "/api/daemon",
    "/login",
    "/logout",
    "/nowhere",
)


def request(method: str, path: str) -> bytes:
    return f"{method} {path} HTTP/1.1\r\n{KNOWN}Accept: text/html\r\n\r\n".encode()


def form(body: str, length: int) -> bytes:
    kind = "Content-Type: application/x-www-form-urlencoded"
    return f"POST /login HTTP/1.1\r\nHost: localhost\r\n{kind}\r\nContent-Length: {length}\r\n\r\n{body}".encode()


CUT = (form(FORM[:20], len(FORM)), form("", len(FORM)), form(FORM, len(FORM)), request("GET", "/stream")[:40], b"")
"""A form cut short, without its body and whole, a head cut short, and nothing."""


def reset(client: socket.socket) -> None:
    """Close by a reset, as a client does that has something left to read."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def end(client: socket.socket) -> None:
    """Say first that nothing follows."""
    client.shutdown(socket.SHUT_WR)


@pytest.fixture
def daemon(tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles) -> Daemon:
    url, write = file_registry
    labels = {f"text-{number}": "x" * 1000 for number in range(10)}
    for number in range(30):
        write(f"web/b{number}", json.dumps({"host": "10.0.0.1", "port": number + 1, "labels": labels}))
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    config = tmp_path / "discovery.toml"
    config.write_text(
        f'admin_token_file = "{token}"\n[registry]\nurl = "{url}"\n'
        f'[consumers.p]\nplugin = "tcpproxy"\nlisten.web = "127.0.0.1:{free_port()}"\n'
    )
    daemon: Daemon = start_daemon("--config", str(config))
    eventually_sync(daemon.is_ready, timeout=60)
    return daemon


def leave(daemon: Daemon, sent: bytes, how: Callable[[socket.socket], None], moment: int) -> None:
    """Send a request and go, at one of many moments."""
    host, _, port = daemon.admin.rpartition(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # a large answer is not sent at once
        client.settimeout(within(30))
        client.connect((host, int(port)))
        client.sendall(sent)
        time.sleep(moment % 20 * 0.0001)
        if moment % 3 == 2 and b"\r\n\r\n" in sent and b"/wait" not in sent and not sent.startswith(b"POST"):
            client.recv(10)
        how(client)


@pytest.mark.costly
@pytest.mark.parametrize(("streams", "times"), [(30, 2), pytest.param(100, 15, marks=pytest.mark.exhaustive)])
def test_who_goes_early_leaves_no_line(daemon: Daemon, streams: int, times: int) -> None:
    """Each client goes at another moment of its answer."""
    often = [request("GET", path) for path in STREAMS]
    others = [request(method, path) for path in PLACES for method in ("GET", "HEAD")] + [
        *CUT,
        request("HEAD", "/stream"),
    ]
    before = daemon.log
    for requests, moments in ((often, streams), (others, times)):
        for sent in requests:
            for moment in range(moments):
                leave(daemon, sent, reset, moment)
                leave(daemon, sent, end, moment)
    eventually_sync(lambda: daemon.get("/healthz")[0] == 200, timeout=60)
    lines = daemon.log.removeprefix(before).splitlines()
    assert [line for line in lines if "logged in" not in line] == []
