"""Origins that close a kept connection at the next request, as Apache does during a graceful stop."""

from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection, RemoteDisconnected
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from haproxy_web import RunHAProxy

from discovery import Snapshot
from discovery.testing import backend, free_port, within
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.rendering.render import Runtime, render

METHODS: list[str] = []


@pytest.fixture
def fickle() -> Iterator[int]:
    """A server that reads the second request of every connection, and hangs up without an answer."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        answered = False

        def do_GET(self) -> None:
            METHODS.append(self.command)
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            if self.answered:
                self.close_connection = True
                return
            self.answered = True
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    METHODS.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_only_requests_that_may_be_repeated_are_repeated(run: RunHAProxy, fickle: int) -> None:
    port = free_port()
    config = HAProxyConfig.model_validate({"services": {"web": {"bind": f"127.0.0.1:{port}", "check": False}}})
    run(
        render(config, Snapshot.of(1, [backend(port=fickle)]), Runtime(), {}),
        f"http://127.0.0.1:{port}/",
    )
    client = HTTPConnection("127.0.0.1", port, timeout=within(10))
    for _ in range(5):
        client.request("GET", "/")
        assert client.getresponse().read() == b"ok"
    METHODS.clear()
    client.request("POST", "/", b"pay")
    with suppress(RemoteDisconnected):  # which is how a client is told that it may not have been received
        assert client.getresponse().status == 502
    assert METHODS == ["POST"]
    client.close()
