"""Stand-ins for the programs behind HAProxy: servers that say who they are, and answer checks as a test says."""

import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from discovery.testing import within


class TcpServer:
    """A server that sends each client its greeting, and keeps the connection open."""

    def __init__(self, address: str, greeting: Callable[[], str]) -> None:
        host, _, port = address.rpartition(":")
        self._greeting = greeting
        self._listening = socket.create_server((host, int(port)), backlog=64)
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def kill(self) -> None:
        """End as a killed process does: nothing listens, and every connection is reset."""
        with suppress(OSError):  # it has ended already
            self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()
        for each in self._open:
            each.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self._open.append(client)
            with suppress(OSError):  # a check hangs up at once
                client.sendall(f"{self._greeting()}\n".encode())


class HttpServer:
    """An HTTP server. `answer` returns the status and the body of a path."""

    def __init__(
        self, address: str, answer: Callable[[str], tuple[int, str]], tls: ssl.SSLContext | None = None
    ) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # an answer in one packet: the kernel would delay the second

            def do_GET(self) -> None:
                status, body = answer(self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                """Be quiet."""

        host, _, port = address.rpartition(":")
        self._server = ThreadingHTTPServer((host, int(port)), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that hangs up is no fault
        if tls is not None:  # the handshake takes place in the connection's thread: a check makes none
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.address = f"{host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def kill(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Servers:
    """Starts stand-ins, and ends those that a test has not killed."""

    def __init__(self) -> None:
        self._started: list[TcpServer | HttpServer] = []

    def tcp(self, address: str, greeting: Callable[[], str]) -> TcpServer:
        """Start a `TcpServer`."""
        server = TcpServer(address, greeting)
        self._started.append(server)
        return server

    def http(
        self, address: str, answer: Callable[[str], tuple[int, str]], tls: ssl.SSLContext | None = None
    ) -> HttpServer:
        """Start an `HttpServer`."""
        server = HttpServer(address, answer, tls)
        self._started.append(server)
        return server

    def web(self, name: str, tls: ssl.SSLContext | None = None) -> HttpServer:
        """Start a web server on a free port that answers each request with its name."""
        return self.http("127.0.0.1:0", lambda path: (200, name), tls)

    def kill(self) -> None:
        """End every stand-in."""
        for each in self._started:
            each.kill()


class Session:
    """A connection of a client to a `TcpServer`, with what the server said."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=within(20))
        with self._socket.makefile("rb") as answer:
            self.greeting = answer.readline().decode().strip()

    def is_cut(self) -> bool:
        """Wait until the connection ends, and return True; False if it is still open after some seconds."""
        try:
            return self._socket.recv(1) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    def is_open(self) -> bool:
        """Return True if the connection has not been ended by now."""
        self._socket.setblocking(False)
        try:
            self._socket.recv(1)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        finally:
            self._socket.settimeout(within(20))
        return False

    def close(self) -> None:
        self._socket.close()


def greeting(port: int) -> str:
    """Return the greeting on a new connection; empty if nobody greets."""
    try:
        session = Session(port)
    except OSError:
        return ""
    session.close()
    return session.greeting


@contextmanager
def asking(ask: Callable[[], str], every: float = 0.005) -> Iterator[Counter[str]]:
    """Ask again and again until the block ends, with a pause of `every` seconds. The counter has the answers."""
    answers: Counter[str] = Counter()
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            answers[ask()] += 1
            stop.wait(every)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield answers
    finally:
        stop.set()
        thread.join()
