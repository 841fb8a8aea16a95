"""The smallest web server that can be told apart from its copies: `python -m discovery.demo.webserver NAME`.

Listens on a free loopback port, prints it, and answers every GET with its name. SIGTERM lets it finish what it began.
"""

import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class _Handler(BaseHTTPRequestHandler):
    timeout = 5  # seconds that a silent connection may keep us from ending

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
        """Say nothing: the demo counts on the other side."""


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # closing waits for the answers that are due


def main() -> None:
    """Serve until SIGTERM."""
    server = _Server(("127.0.0.1", 0), _Handler)
    # From another thread: `shutdown` waits for the loop that the signal has interrupted.
    signal.signal(signal.SIGTERM, lambda *_: Thread(target=server.shutdown).start())
    print(server.server_address[1], flush=True)
    server.serve_forever(poll_interval=0.05)
    server.server_close()


if __name__ == "__main__":
    main()
