"""A collector of OpenTelemetry for tests: an HTTP server that reads OTLP with the generated code of another project."""

import gzip
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

# Of xds-protos: an early version of the protocol, whose later ones read and write the same bytes.
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service  # type: ignore[import-untyped,unused-ignore]


class SpanReceived(NamedTuple):
    """A span as it came. Times are seconds since 1970."""

    trace: bytes
    id: bytes
    parent: bytes
    name: str
    begun: float
    ended: float
    attributes: dict[str, Any]
    resource: dict[str, Any]
    error: str


@dataclass
class Collector:
    """What has been received; `answer` is the status of the next answers."""

    url: str = ""
    answer: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    """Further headers of the answers, such as where they redirect to."""
    body: bytes = b""
    """The body of the answers."""
    spans: list[SpanReceived] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """Path and headers of each request, names in lower case."""
    bodies: list[bytes] = field(default_factory=list)

    def trace_of(self, backend: str) -> list[SpanReceived]:
        """The spans of the trace whose change names this backend, by their begin."""
        roots = (each for each in tuple(self.spans) if backend in each.attributes.get("discovery.backends", ()))
        root = next(roots, None)
        found = [each for each in tuple(self.spans) if root is not None and each.trace == root.trace]
        return sorted(found, key=lambda each: (each.begun, each.ended))


@contextmanager
def collecting(tls: ssl.SSLContext | None = None) -> Iterator[Collector]:
    """Run a collector on a free port of 127.0.0.1, with `tls` for clients of https://localhost alone."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            headers = {name.lower(): value for name, value in self.headers.items()}
            collector.bodies.append(body)
            answer = collector.answer
            if answer == 200:
                collector.spans += received(body)
            collector.requests.append((self.path, headers))
            self.send_response(answer)
            for name, value in collector.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(collector.body)))
            self.end_headers()
            self.wfile.write(collector.body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector.url = f"{'http://127.0.0.1' if tls is None else 'https://localhost'}:{server.server_address[1]}"
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


def received(body: bytes) -> Iterator[SpanReceived]:
    """Yield the spans of an ExportTraceServiceRequest."""
    for of_resource in service.ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = _attributes(of_resource.resource.attributes)
        new = hasattr(of_resource, "scope_spans")
        for of_scope in of_resource.scope_spans if new else of_resource.instrumentation_library_spans:
            for each in of_scope.spans:
                yield SpanReceived(
                    each.trace_id,
                    each.span_id,
                    each.parent_span_id,
                    each.name,
                    each.start_time_unix_nano / 1e9,
                    each.end_time_unix_nano / 1e9,
                    _attributes(each.attributes),
                    resource,
                    each.status.message if each.status.code == 2 else "",
                )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)
