"""Batches of spans on their way to a collector: TLS, further attempts, pauses, redirects."""

import gc
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path

import pytest
import structlog
import trustme
from collectors import Collector, collecting
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from structlog.testing import capture_logs

from discovery.testing import eventually_sync, within
from discovery.tracing.sending import CollectorExporter, seconds_of
from discovery.tracing.settings import TraceSettings

SPANS = [ReadableSpan("it", resource=Resource({}), start_time=1, end_time=2)]


def exporter(collector: Collector, **settings: object) -> CollectorExporter:
    made = TraceSettings(collector.url, {"api-key": "hunter2"})._replace(**settings)  # type: ignore[arg-type]
    return CollectorExporter(made, structlog.get_logger())


def test_both_sides_prove_who_they_are(tmp_path: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    for name, ca in (("ours", authority), ("other", other)):
        ca.cert_pem.write_to_path(str(tmp_path / f"{name}.pem"))
    client = authority.issue_cert("client@example.org")
    client.cert_chain_pems[0].write_to_path(str(tmp_path / "client.pem"))
    client.private_key_pem.write_to_path(str(tmp_path / "client.key"))
    ours = {"certificate": tmp_path / "ours.pem", "timeout": within(10)}
    proof = {"client_certificate": tmp_path / "client.pem", "client_key": tmp_path / "client.key"}
    with collecting(context) as collector:
        assert exporter(collector, **ours, **proof).export(SPANS) is SpanExportResult.SUCCESS
        assert [each.name for each in collector.spans] == ["it"]
        unproven, wary = (
            exporter(collector, **ours),
            exporter(collector, **{**ours, "certificate": tmp_path / "other.pem"}),
        )
        with capture_logs() as lines:
            for each in (wary, unproven):
                each.shutdown()  # so that it does not try again
                assert each.export(SPANS) is SpanExportResult.FAILURE
        assert "CERTIFICATE_VERIFY_FAILED" in lines[0]["reason"]
        assert len(collector.spans) == 1


def test_a_collector_that_is_busy_is_tried_again() -> None:
    with collecting() as collector:
        collector.answer = 503
        results: list[SpanExportResult] = []
        sending = exporter(collector, timeout=within(60))
        thread = threading.Thread(target=lambda: results.append(sending.export(SPANS)))
        thread.start()
        eventually_sync(lambda: bool(collector.requests))
        collector.answer = 200
        thread.join(within(60))
        assert results == [SpanExportResult.SUCCESS]
        assert [each.name for each in collector.spans] == ["it"]


def test_the_end_waits_for_no_further_attempt() -> None:
    with collecting() as collector:
        collector.answer = 503
        sending = exporter(collector, timeout=3600)
        thread = threading.Thread(target=sending.export, args=[SPANS], daemon=True)
        thread.start()
        eventually_sync(lambda: bool(collector.requests))
        sending.shutdown()
        thread.join(within(20))
        assert not thread.is_alive()


@pytest.mark.parametrize("status", [301, 307])
def test_another_address_gets_neither_spans_nor_headers(status: int) -> None:
    with collecting() as other, collecting() as collector, capture_logs() as lines:
        collector.answer, collector.headers = status, {"Location": other.url}
        assert exporter(collector).export(SPANS) is SpanExportResult.FAILURE
        assert other.requests == []
    assert lines[0]["reason"].endswith(f"the collector answers {status}")
    assert "hunter2" not in str(lines)


@pytest.mark.parametrize("asked", [lambda: "3600", lambda: formatdate(time.time() + 3600)], ids=["seconds", "date"])
def test_a_collector_that_asks_for_a_long_pause_is_left_alone(asked: Callable[[], str]) -> None:
    with collecting() as collector, capture_logs() as lines:
        collector.answer, collector.headers = 429, {"Retry-After": asked()}
        sending = exporter(collector)
        assert [sending.export(SPANS) for _ in range(100)] == [SpanExportResult.FAILURE] * 100
        assert len(collector.requests) == 1
    assert [line["reason"] for line in lines] == ["the collector answers 429"], "a line, and not a hundred"


class Batch(list[ReadableSpan]):
    """Spans to which there can be weak references."""


def test_batches_that_are_dropped_in_a_pause_are_not_kept() -> None:
    with collecting() as collector, capture_logs():
        collector.answer, collector.headers = 429, {"Retry-After": "3600"}
        sending, dropped = exporter(collector), []
        for _ in range(3):
            batch = Batch(SPANS)
            dropped.append(weakref.ref(batch))
            assert sending.export(batch) is SpanExportResult.FAILURE
        del batch
        gc.collect()
        assert [each() for each in dropped] == [None] * 3


def test_a_short_pause_is_waited_for() -> None:
    with collecting() as collector:
        collector.answer, collector.headers = 503, {"Retry-After": "2"}
        results: list[SpanExportResult] = []
        sending = exporter(collector, timeout=within(60))
        thread = threading.Thread(target=lambda: results.append(sending.export(SPANS)))
        begun = time.monotonic()
        thread.start()
        eventually_sync(lambda: bool(collector.requests), timeout=60)
        collector.answer = 200
        thread.join(within(60))
        assert results == [SpanExportResult.SUCCESS]
        assert time.monotonic() - begun >= 2, "an attempt without the header comes after 0.8 to 1.2 s"
        assert sending.export(SPANS) is SpanExportResult.SUCCESS, "the pause is over"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *(("", 0), ("2", 2), ("-1", 0), ("1.5", 0), ("9" * 5000, 0), ("99999", 300), ("soon", 0), ("\u00b2", 0)),
        *((formatdate(1_000_000_060), 60), (formatdate(1), 0)),
    ],
)
def test_the_pause_that_is_asked_for_has_bounds(value: str, seconds: float) -> None:
    assert seconds_of(value, 1_000_000_000) == seconds


def test_spans_that_are_refused_for_good_are_told_and_not_sent_again() -> None:
    with collecting() as collector, capture_logs() as lines:
        collector.body = bytes([0x0A, 11, 0x08, 1, 0x12, 7]) + b"too\nold"  # ExportTraceServiceResponse
        assert exporter(collector).export(SPANS) is SpanExportResult.FAILURE
        assert len(collector.requests) == 1
        collector.body = b"\xff no message"
        assert exporter(collector).export(SPANS) is SpanExportResult.SUCCESS
    assert [line["reason"] for line in lines] == ["spans that the collector refuses: 1 (too old)"]


@pytest.mark.parametrize("head", [b"X-More: ", b"Content-Length: 1000\r\n\r\n"], ids=["head", "body"])
def test_a_collector_that_answers_byte_by_byte_has_no_more_time_than_any_other(head: bytes) -> None:
    over = threading.Event()

    def trickle(server: socket.socket) -> None:
        while not over.is_set():
            with suppress(OSError):
                client, _ = server.accept()
                with client:
                    client.sendall(b"HTTP/1.1 200 OK\r\n" + head)
                    while not over.wait(0.05):
                        client.sendall(b"H")

    with socket.create_server(("127.0.0.1", 0)) as server, capture_logs() as lines:
        server.settimeout(0.2)
        threads = [threading.Thread(target=trickle, args=[server], daemon=True)]
        sending = exporter(Collector(f"http://127.0.0.1:{server.getsockname()[1]}"), timeout=0.5)
        threads.append(threading.Thread(target=sending.export, args=[SPANS], daemon=True))
        for thread in threads:
            thread.start()
        threads[1].join(within(20))
        over.set()
        threads[0].join(within(20))
    assert not threads[1].is_alive()
    assert [line["reason"] for line in lines] == ["TimeoutError: the collector has not answered in time"]


def test_what_is_no_collector_is_told_without_the_secrets_of_its_url() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, capture_logs() as lines:

        def answer() -> None:
            client, _ = server.accept()
            with client:
                client.recv(1)
                client.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                with suppress(ConnectionError):
                    while client.recv(4096):  # to close with something left to read would reset the connection
                        pass

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        url = f"http://user:hunter2@127.0.0.1:{server.getsockname()[1]}/?key=hunter2"
        assert exporter(Collector(url)).export(SPANS) is SpanExportResult.FAILURE
        thread.join(within(20))
    assert [line["reason"] for line in lines] == ["what answers is no collector: it does not speak HTTP"]
    assert "hunter2" not in str(lines)


def test_a_url_that_cannot_be_asked_is_told_without_its_secrets() -> None:
    with capture_logs() as lines:
        url = f"http://user:hunter2@{'a' * 64}.test/?key=hunter2"  # a label of a host name has 63 characters at most
        assert exporter(Collector(url), timeout=0.1).export(SPANS) is SpanExportResult.FAILURE
    assert len(lines) == 1
    assert "hunter2" not in str(lines)
