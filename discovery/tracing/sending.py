"""Sends spans to a collector by OTLP over HTTP. A collector that does not answer costs a line in the log."""

import gzip
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from structlog.typing import FilteringBoundLogger

from discovery.errors import describe
from discovery.system.backoff import delays
from discovery.system.frequency import Failures, times
from discovery.tracing.otlp import encoded
from discovery.tracing.settings import TraceSettings

_FOR_NOW = frozenset({429, 502, 503, 504})
"""Answers after which the specification has a client try again."""
_CONTENT_TYPE = "application/x-protobuf"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Another address gets neither our spans nor our headers."""

    def redirect_request(self, *_: Any) -> None:
        return None


class CollectorExporter:
    """Sends batches, one at a time, on the thread that calls `export`: a `SpanExporter` of OpenTelemetry's library."""

    def __init__(self, settings: TraceSettings, log: FilteringBoundLogger) -> None:
        """Prepare. Raises OSError, of which SSLError is one, if a certificate cannot be used."""
        self._settings = settings
        self._log = log
        self._failures = Failures()
        self._ended = threading.Event()
        handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
        if urlsplit(settings.url).scheme == "https":
            context = ssl.create_default_context(cafile=settings.certificate)
            if settings.client_certificate is not None:
                context.load_cert_chain(settings.client_certificate, settings.client_key)
            handlers.append(urllib.request.HTTPSHandler(context=context))
        self._opener = urllib.request.build_opener(*handlers)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send `spans`. What cannot be sent within the settings' time is dropped: the next ones matter more."""
        try:
            self._send(encoded(spans))
        except Exception as error:  # noqa: BLE001 - whatever it is, the daemon goes on without these spans
            reason = describe(error)
            if self._failures.add(reason):
                self._log.warning(
                    "traces cannot be sent and are dropped",
                    url=self._settings.shown_url,
                    reason=reason,
                    spans=len(spans),
                )
            return SpanExportResult.FAILURE
        if failed := self._failures.end():
            self._log.info(f"traces are sent again after {times(failed)}")
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Wait for no further attempt."""
        self._ended.set()

    def _send(self, body: bytes) -> None:
        headers = {**self._settings.headers, "Content-Type": _CONTENT_TYPE}
        if self._settings.compressed:
            body = gzip.compress(body)
            headers["Content-Encoding"] = "gzip"
        deadline = time.monotonic() + self._settings.timeout
        for pause in delays(first=1.0, most=5.0):
            left = max(0.1, deadline - time.monotonic())
            request = urllib.request.Request(self._settings.url, body, headers, method="POST")  # noqa: S310 - http or https
            try:
                with self._opener.open(request, timeout=left):
                    return
            except urllib.error.HTTPError as error:
                error.close()
                if error.code not in _FOR_NOW or self._is_over(deadline, pause):
                    raise ConnectionError(f"the collector answers {error.code}") from None
            except OSError:
                if self._is_over(deadline, pause):
                    raise

    def _is_over(self, deadline: float, pause: float) -> bool:
        """Wait before another attempt; return True if there is to be none."""
        return time.monotonic() + pause >= deadline or self._ended.wait(pause)
