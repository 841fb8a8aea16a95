"""What answers at an address may be no daemon: no terminal acts on what it says."""

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from discovery.cli.app import app

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e\n\r\x9b31mok"
REGISTRY = {
    "url": HOSTILE,
    "connected": True,
    "revision": 1,
    "stale": HOSTILE,
    "snapshot_age_seconds": 1.0,
    "alarms": [HOSTILE],
}
NUMBERS = dict.fromkeys(("services", "backends", "down", "rejected", "held", "unresolved"), 1)
CONSUMER = {
    "name": HOSTILE,
    "plugin": HOSTILE,
    "state": HOSTILE,
    "phase": HOSTILE,
    "applied_revision": HOSTILE,
    "lag_seconds": 0,
    "applies": 0,
    "down": 0,
}
TEXTS = {"problems": {HOSTILE: HOSTILE}, "broken": {}, "degraded": {}, "config_error": HOSTILE}
CHANGE = {
    "time": HOSTILE,
    "revision": HOSTILE,
    "listing": False,
    "changes": [{"mark": HOSTILE, "key": HOSTILE, "text": HOSTILE}],
    "more": 0,
    "consumers": {HOSTILE: None},
}
REASON = {"instance": HOSTILE, "kind": HOSTILE, "seconds": None, "text": HOSTILE}
RENDERED = {"consumer": HOSTILE, "live": True, "revision": HOSTILE, "seconds": None, "rendered": [HOSTILE]}
RECORD = {"key": HOSTILE, "backend": None, "used": None, "reasons": [REASON], "consumers": [RENDERED]}
ANSWERS: dict[str, dict[str, Any]] = {
    "/api/status": {
        "status": HOSTILE,
        "ready": False,
        "waiting_for": [HOSTILE],
        "registry": REGISTRY,
        "consumers": [CONSUMER],
        "providers": [],
        **NUMBERS,
        **TEXTS,
    },
    "/api/history": {"changes": [CHANGE]},
    "/api/explain": {"registry": HOSTILE, "records": [RECORD], "more": 0},
    "/api/wait": {"met": True, "service": HOSTILE, "backends": {HOSTILE: HOSTILE}, "revisions": {HOSTILE: HOSTILE}},
}


class _Impostor(http.server.BaseHTTPRequestHandler):
    refuses = False

    def do_GET(self) -> None:
        body = json.dumps({"error": HOSTILE} if self.refuses else ANSWERS[self.path.partition("?")[0]]).encode()
        self.send_response(500 if self.refuses else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(params=[False, True], ids=["answers", "refuses"])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    handler = type("Handler", (_Impostor,), {"refuses": request.param})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "line", [("status",), ("top", "--count", "1"), ("history",), ("explain", "web"), ("wait", "web", "--timeout", "0")]
)
def test_no_control_character_of_an_answer_reaches_the_terminal(line: tuple[str, ...], address: str) -> None:
    done = CliRunner().invoke(app, [*line, "--admin", address, "--config", "/dev/null"])
    told = done.stdout + done.stderr + str(done.exception or "")
    assert "owned" in told
    if done.exception is None or isinstance(done.exception, SystemExit):
        assert not [each for each in done.stdout + done.stderr if not each.isprintable() and each != "\n"]
