"""A real Collector of OpenTelemetry for tests, which passes what it accepts on as JSON."""

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from discovery.testing import eventually_sync, free_port


@dataclass
class Sink:
    """Where the Collector sends what it has accepted; `answer` and `headers` are those of the next answers."""

    url: str = ""
    answer: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    requests: int = 0
    resources: list[dict[str, Any]] = field(default_factory=list)
    """The `resourceSpans` of OTLP in JSON."""

    def spans(self) -> list[dict[str, Any]]:
        """Each span, with attributes as a mapping; `resource` and `scope` are beside the keys of the protocol."""
        return [
            {
                **span,
                "attributes": attributes(span),
                "resource": attributes(of_resource["resource"]),
                "scope": of_scope["scope"],
            }
            for of_resource in tuple(self.resources)
            for of_scope in of_resource["scopeSpans"]
            for span in of_scope["spans"]
        ]

    def trace_of(self, backend: str) -> list[dict[str, Any]]:
        """The spans of the trace whose change names this backend."""
        spans = self.spans()
        named = {each["traceId"] for each in spans if backend in each["attributes"].get("discovery.backends", ())}
        return [each for each in spans if each["traceId"] in named]


def attributes(of: dict[str, Any]) -> dict[str, Any]:
    return {each["key"]: _value(each["value"]) for each in of.get("attributes", ())}


def _value(value: dict[str, Any]) -> Any:
    ((kind, it),) = value.items()
    if kind == "arrayValue":
        return [_value(each) for each in it.get("values", ())]
    return int(it) if kind == "intValue" else it


@contextmanager
def receiving() -> Iterator[Sink]:
    sink = Sink()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            sink.requests += 1
            if sink.answer == 200:
                sink.resources += told["resourceSpans"]
            self.send_response(sink.answer)
            for name, value in {**sink.headers, "Content-Type": "application/json", "Content-Length": "2"}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        sink.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield sink
        finally:
            server.shutdown()
            thread.join()


class Running:
    """A Collector that runs: its port, its process and what it has logged."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], path: Path) -> None:
        self.port = port
        self.process = process
        self._path = path

    @property
    def log(self) -> str:
        return self._path.read_text()

    def is_ready(self) -> bool:
        """Whether it listens, as its log says: a connection without a request would be an error there."""
        assert self.process.poll() is None, self.log
        return "Everything is ready" in self.log


@contextmanager
def running(
    program: Path, directory: Path, sink: Sink, *, port: int | None = None, **http: object
) -> Iterator[Running]:
    """Run the Collector with OTLP over HTTP; `http` are further keys of that receiver, such as `tls`."""
    number = free_port() if port is None else port
    directory.mkdir(exist_ok=True)
    config = {
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": f"127.0.0.1:{number}", **http}}}},
        "exporters": {
            "otlp_http": {
                "endpoint": sink.url,
                "encoding": "json",
                "compression": "none",
                "sending_queue": {"enabled": False},
                "retry_on_failure": {"enabled": False},
            }
        },
        "service": {
            "telemetry": {"metrics": {"level": "none"}},
            "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["otlp_http"]}},
        },
    }
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    command = [program, f"--config=file:{directory / 'config.yaml'}"]
    with (directory / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            it = Running(number, process, directory / "log")
            eventually_sync(it.is_ready, "the Collector is ready", timeout=60)
            yield it
        finally:
            process.kill()
