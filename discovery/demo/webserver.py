"""A small web server whose answers have its name: `python -m discovery.demo.webserver NAME`.

The server listens on a free loopback port, prints the port, and answers every GET with its name. After SIGTERM the
server answers the requests in progress and ends.
"""

import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class _Handler(BaseHTTPRequestHandler):
    timeout = 5  # seconds after which a silent connection is closed: open connections delay the server's end

    def do_GET(self) -> None:
        port = self.connection.getsockname()[1]
        body = f"Hello from {sys.argv[1]} (process {os.getpid()}, port {port})\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Backend", sys.argv[1])
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing: the demo counts the answers at the client."""


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # `server_close` waits for requests in progress


def main() -> None:
    """Serve until SIGTERM."""
    server = _Server(("127.0.0.1", 0), _Handler)
    # In another thread: `shutdown` waits for the loop that the signal handler interrupts.
    signal.signal(signal.SIGTERM, lambda *_: Thread(target=server.shutdown).start())
    print(server.server_address[1], flush=True)
    server.serve_forever(poll_interval=0.05)
    server.server_close()


if __name__ == "__main__":
    main()
