"""Web servers that answer with their names; a fixture that modules import."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from discovery.testing import free_port


class Site:
    """A web server that answers with its own name."""

    def __init__(self, name: str, host: str, port: int) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(name)))
                self.end_headers()
                self.wfile.write(name.encode())

            def log_message(self, *arguments: object) -> None:
                pass

        self.name = name
        self.server = ThreadingHTTPServer((host, port or free_port()), Handler)
        self.port: int = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()


StartSite = Callable[..., Site]


@pytest.fixture
def site() -> Iterator[StartSite]:
    """Starts web servers, at 127.0.0.1 and a free port unless a host and a port are given."""
    sites: list[Site] = []

    def start(name: str, host: str = "127.0.0.1", port: int = 0) -> Site:
        sites.append(Site(name, host, port))
        return sites[-1]

    yield start
    for each in sites:
        each.server.shutdown()
        each.server.server_close()
