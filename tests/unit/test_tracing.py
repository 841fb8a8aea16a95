"""What is traced, where it is sent, and the wire form, read with the generated code of another project."""

import threading
import time
from typing import Any

import pytest
import structlog
from collectors import SpanReceived, received
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from structlog.testing import capture_logs

from discovery.consuming.history import Applied, Change, Delay, Named, delay_by
from discovery.testing import eventually_sync, within
from discovery.tracing.opening import open_traces
from discovery.tracing.otlp import encoded
from discovery.tracing.settings import TraceSettings, trace_settings
from discovery.tracing.traces import Traces

E = "OTEL_EXPORTER_OTLP_"
ENDPOINT = {f"{E}ENDPOINT": "http://127.0.0.1:4318"}


class Kept(SpanExporter):
    """Keeps what it is given, as a collector would read it."""

    def __init__(self) -> None:
        self.spans: list[SpanReceived] = []
        self.goes_on = threading.Event()
        self.goes_on.set()

    def export(self, spans: Any) -> SpanExportResult:
        assert self.goes_on.wait(within(60))
        self.spans += received(encoded(spans))
        return SpanExportResult.SUCCESS

    def named(self, name: str) -> list[SpanReceived]:
        return [each for each in tuple(self.spans) if each.name == name]


def at(number: int, arrived: float | None = None, *keys: str) -> Change:
    arrived = time.monotonic() if arrived is None else arrived
    named = tuple(Named("+", key, "127.0.0.1:80 secret") for key in keys)
    wall = time.time() - (time.monotonic() - arrived)
    return Change(number, number, wall, arrived, arrived, False, 1, 0, 0, 0, named, frozenset({"web"}))


def took(change: Change) -> tuple[Change, Delay]:
    now = time.monotonic()
    return change, delay_by(change, Applied(change.number - 1, change.number, change.revision, now, now))


@pytest.fixture
def kept() -> Kept:
    return Kept()


def started(kept: Kept, **options: Any) -> Traces:
    provider = TracerProvider(resource=Resource({}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    return Traces(provider, "1", structlog.get_logger(), **options)


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({}, None),
        ({f"{E}ENDPOINT": "  "}, None),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "True"}, None),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, None),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "console, otlp"}, "http://127.0.0.1:4318/v1/traces"),
        ({f"{E}ENDPOINT": "https://c.example/base/"}, "https://c.example/base/v1/traces"),
        ({**ENDPOINT, f"{E}TRACES_ENDPOINT": "http://[::1]:1/own"}, "http://[::1]:1/own"),
    ],
)
def test_the_variables_tell_where_traces_are_sent(environment: dict[str, str], url: str | None) -> None:
    settings = trace_settings(environment)
    assert (settings and settings.url) == url


def test_a_variable_for_traces_goes_before_that_for_all_signals() -> None:
    more = {f"{E}HEADERS": "a=1", f"{E}TRACES_HEADERS": "api-key = two%20words , b=x=y", f"{E}TIMEOUT": "1500"}
    settings = trace_settings({**ENDPOINT, **more, f"{E}TRACES_COMPRESSION": "gzip"})
    assert settings is not None
    assert (settings.headers, settings.timeout) == ({"api-key": "two words", "b": "x=y"}, 1.5)
    assert settings.compressed
    shown = TraceSettings("https://user:hunter2@c.example:1/v1?key=hunter2", {}).shown_url
    assert shown == "https://c.example:1/v1"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENDPOINT", "127.0.0.1:4318"),
        ("ENDPOINT", "file:///etc/hunter2"),
        ("ENDPOINT", "http://hunter2:x"),
        ("TRACES_ENDPOINT", "http://"),
        ("PROTOCOL", "grpc"),
        ("COMPRESSION", "zip"),
        ("TIMEOUT", "-1"),
        ("TIMEOUT", "0"),
        ("TIMEOUT", "9" * 5000),
        ("HEADERS", "hunter2"),
        ("HEADERS", "a=b%0d%0ahunter2: x"),
        ("TRACES_HEADERS", "a b=hunter2"),
        ("CERTIFICATE", "/nowhere"),
    ],
)
def test_what_cannot_be_used_is_told_by_its_name_and_never_by_a_secret(name: str, value: str) -> None:
    with capture_logs() as lines:
        environment = {f"{E}ENDPOINT": "https://127.0.0.1", f"{E}{name}": value}
        assert open_traces(environment, "1", structlog.get_logger()) is None
    (line,) = lines
    assert line["event"] == "changes are not traced"
    assert name == "CERTIFICATE" or f"{E}{name}" in line["reason"]
    assert "hunter2" not in str(line)
    assert len(str(line)) < 300


def test_the_wire_form_is_that_of_opentelemetry(kept: Kept) -> None:
    values = {"text": "ü\udcff", "number": 7, "negative": -1, "real": 0.5, "yes": True, "no": False, "list": ["a", "b"]}
    resource = Resource({"service.name": "it"})
    (span,) = received(encoded([ReadableSpan("name", attributes=values, resource=resource, start_time=1, end_time=2)]))
    assert span.attributes == {**values, "text": "ü?"}
    assert (span.name, span.resource, span.error, span.parent) == ("name", {"service.name": "it"}, "", b"")


def test_a_trace_names_backends_and_no_value_of_a_record(kept: Kept) -> None:
    traces, change = started(kept), at(2, None, "web/a", "web/b")
    traces.offered([change], ["one"])
    traces.applied("one", 2, [took(change)])
    traces.stop(within(10))
    (root,) = kept.named("change")
    assert root.attributes == {
        "discovery.revision": 2,
        "discovery.changed": 1,
        "discovery.backends": ["web/a", "web/b"],
        "discovery.services": ["web"],
    }
    assert not any("secret" in str(each.attributes) for each in kept.spans)


def test_an_apply_of_many_changes_has_a_span_in_the_trace_of_each(kept: Kept) -> None:
    traces, changes = started(kept), [at(number) for number in range(1, 6)]
    traces.offered(changes, ["one", "two"])
    traces.applied("one", 5, [took(each) for each in changes])
    traces.applied("two", 5, [])  # a filter keeps them away
    traces.stop(within(10))
    assert len({each.trace for each in kept.spans}) == 5
    assert len(kept.named("apply")) == len(kept.named("change")) == 5


def test_a_late_consumer_is_named_and_its_spans_join_the_trace(kept: Kept) -> None:
    traces, change = started(kept, open_seconds=0.01), at(1)
    traces.offered([change], ["slow"])
    eventually_sync(lambda: bool(kept.named("change")))
    (root,) = kept.named("change")
    assert root.error == "not applied within 0.01 s: slow"
    traces.applied("slow", 1, [took(change)])
    eventually_sync(lambda: bool(kept.named("apply")))
    traces.stop(within(10))
    assert len({each.trace for each in kept.spans}) == len(kept.named("change")) == 1


def test_nobody_waits_for_an_exporter_and_the_number_of_events_is_bounded(kept: Kept) -> None:
    kept.goes_on.clear()
    traces = started(kept, most_events=20)
    with capture_logs() as lines:
        for number in range(1, 101):
            traces.offered([at(number)], [])  # would block for ever if it waited
        kept.goes_on.set()
        traces.offered([at(101)], [])
        traces.stop(within(10))
    assert 20 <= len(kept.named("change")) <= 22
    assert "there are too many changes for all to be traced" in [each["event"] for each in lines]


def test_the_number_of_open_traces_is_bounded(kept: Kept) -> None:
    traces = started(kept)
    traces.offered([at(number) for number in range(1, 1001)], ["never"])
    eventually_sync(lambda: len(kept.named("change")) == 500)
    traces.stop(within(10))
    assert len(kept.named("change")) == 1000
