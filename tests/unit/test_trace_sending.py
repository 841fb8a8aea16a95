"""Batches of spans on their way to a collector: TLS, further attempts, redirects."""

import ssl
import threading
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
from discovery.tracing.sending import CollectorExporter
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
        collector.answer, collector.location = status, other.url
        assert exporter(collector).export(SPANS) is SpanExportResult.FAILURE
        assert other.requests == []
    assert lines[0]["reason"].endswith(f"the collector answers {status}")
    assert "hunter2" not in str(lines)
