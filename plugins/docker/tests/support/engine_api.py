"""A server with recorded answers of an engine, where no real one can give them."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import docker


class Api:
    """The answers of an engine, a status and a document each, by an id in the path; None for no answer.

    `asked` are the paths of the requests.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, tuple[int, object] | None] = {}

    def answer(self, path: str) -> tuple[int, object] | None:
        """Return the answer to a request."""
        parts = path.partition("?")[0].split("/")
        found = [self.answers[part] for part in parts if part in self.answers]
        return found[0] if found else (404, {"message": "not found"})


@contextmanager
def served(api: Api, timeout: float = 60.0) -> Iterator[docker.APIClient]:
    """Serve the answers, and yield a client that waits `timeout` seconds for an answer."""
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            api.asked.append(self.path)
            answer = api.answer(self.path)
            if answer is None:
                ended.wait()
                return
            body = json.dumps(answer[1]).encode()
            self.send_response(answer[0])
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"tcp://127.0.0.1:{server.server_port}"
        with closing(docker.APIClient(url, version="1.41", timeout=timeout)) as client:
            try:
                yield client
            finally:
                ended.set()
                server.shutdown()
