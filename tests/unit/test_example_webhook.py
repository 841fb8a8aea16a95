"""The example of an observer posts what has changed."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import structlog

from discovery import Context, Update, diff
from discovery.hosting import loading
from discovery.system.either import completed
from discovery.testing import backend, snapshot

SOURCE = Path(__file__).parents[2] / "examples/webhook/webhook.py"


@contextmanager
def receiver() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server, its URL, and the documents that were posted to it."""
    posted: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            """Log nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hook", posted
        server.shutdown()
        thread.join()


async def test_each_change_is_posted(tmp_path: Path) -> None:
    observer = loading.consumer_class(str(SOURCE))
    before, after = snapshot(backend(id="a")), snapshot(backend(id="b"), revision=2)
    with receiver() as (url, posted):
        instance = observer(observer.Config(url=url), Context("webhook", tmp_path, structlog.get_logger()))
        await completed(instance.apply(Update(snapshot=after, changes=diff(before, after), previous=before)))
    assert [(each["revision"], each["added"][0]["id"], each["removed"][0]["id"]) for each in posted] == [(2, "b", "a")]
