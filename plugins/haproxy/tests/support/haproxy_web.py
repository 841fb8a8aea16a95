"""HTTP origins for HAProxy, the answers of HAProxy, and the types of fixtures."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Protocol

from discovery_haproxy.rendering.render import Rendered


@dataclass
class Origin:
    """An HTTP server that answers with its name, and remembers the requested paths and the last request's headers."""

    name: str
    port: int = 0
    seen: list[str] = field(default_factory=list)
    headers: Message = field(default_factory=Message)
    answers: Mapping[str, str] = field(default_factory=dict)
    """Further headers of each answer."""


@contextmanager
def serve_origin(origin: Origin) -> Iterator[Origin]:
    """Serve the origin on a free port until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            origin.seen.append(self.path)
            origin.headers = self.headers
            body = origin.name.encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            for name, value in origin.answers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        origin.port = server.server_address[1]
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield origin
        finally:
            server.shutdown()
            thread.join()


@dataclass(frozen=True)
class Answer:
    """Status, body and cookie of an HTTP response."""

    status: int
    body: str
    cookie: str | None = None


class Fetch(Protocol):
    """Type of the fixture `fetch`."""

    def __call__(self, url: str, **headers: str) -> Answer:
        """GET the URL with these headers. An error status is an answer, too."""


def with_maps_in(directory: Path, config: Rendered | str) -> str:
    """Write the map files of a configuration to the directory. Return the configuration, which names these files."""
    if isinstance(config, str):
        return config
    for path, contents in config.maps.items():
        (directory / path.name).write_text(contents)
    parts = config.with_maps_at({path: str(directory / path.name) for path in config.maps})
    return b"".join(parts).decode()


StartOrigin = Callable[[str], Origin]
"""Type of the fixture `origin`: takes the origin's name."""
RunHAProxy = Callable[[Rendered | str, str], None]
"""Type of the fixture `run`: takes the configuration, and a URL that HAProxy then answers."""
Parse = Callable[[Rendered | str], str]
"""Type of the fixture `parse`: takes a configuration and returns HAProxy's warnings."""
