"""Web servers of the tests, which answer with their name and the path that they were asked for."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from discovery.testing import within


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512


class _ServerOfIPv6(_Server):
    address_family = socket.AF_INET6


@contextmanager
def origin(name: str) -> Iterator[int]:
    """Run a web server that answers with `name`; yield its port."""
    with origin_at("127.0.0.1", name) as port:
        yield port


@contextmanager
def origin_at(host: str, name: str) -> Iterator[int]:
    """Run a web server that listens on an address of this machine, and answers with `name`; yield its port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            own = [each for each in self.headers if each.startswith("Discovery-")]
            body = " ".join((name, self.path, *own)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with (_ServerOfIPv6 if ":" in host else _Server)((host, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def ask(port: int, host: str = "example.com", path: str = "/") -> str:
    """Return the body of the answer, or the status if the answer is not 200."""
    status, body = answer(port, host, path)
    return body if status == 200 else str(status or body)


def answer(port: int, host: str, path: str) -> tuple[int, str]:
    """Return the status and the body of the answer; 0 and the name of the error if there is none."""
    connection = HTTPConnection("127.0.0.1", port, timeout=within(10))
    try:
        connection.putrequest("GET", path, skip_host=True)
        connection.putheader("Host", host)
        connection.putheader("Connection", "close")
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (HTTPException, OSError) as error:
        return 0, type(error).__name__
    finally:
        connection.close()


def is_listening(port: int) -> bool:
    """Report whether a connection to the port succeeds."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
