"""Sends spans to a collector by OTLP over HTTP. A collector that does not answer costs a line in the log."""

import asyncio
import gzip
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import aiohttp
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from structlog.typing import FilteringBoundLogger

from discovery.errors import DiscoveryError, describe
from discovery.system.backoff import delays
from discovery.system.frequency import Failures, times
from discovery.system.terminal import printable
from discovery.tracing.otlp import encoded, refusal_in
from discovery.tracing.settings import TraceSettings

_FOR_NOW = frozenset({429, 502, 503, 504})
"""Answers after which the specification has a client try again."""
_CONTENT_TYPE = "application/x-protobuf"
_MOST_BYTES = 64 * 1024
"""Bytes of an answer that are read: an answer says how many spans are refused, and why."""
_LONGEST_PAUSE = 300.0
"""Seconds for which a collector that asks for a pause is left alone, at most."""
_LONGEST_REASON = 300
"""Characters of a reason: the collector may have written it."""


class _RefusalError(DiscoveryError):
    """An answer of the collector that refuses the spans."""

    def __init__(self, message: str, *, for_now: bool = False, pause: float = 0.0) -> None:
        """Prepare. `for_now` is whether it may take them later, and `pause` the seconds that it asks to wait."""
        super().__init__(message)
        self.for_now = for_now
        self.pause = pause


class CollectorExporter:
    """Sends batches, one at a time, on the thread that calls `export`: a `SpanExporter` of OpenTelemetry's library."""

    def __init__(self, settings: TraceSettings, log: FilteringBoundLogger) -> None:
        """Prepare. Raises OSError, of which SSLError is one, if a certificate cannot be used."""
        self._settings = settings
        self._log = log
        self._failures = Failures()
        self._ended = threading.Event()
        self._left_alone: tuple[float, str] | None = None  # until when the collector asks to be, and how
        self._tls: ssl.SSLContext | None = None
        if urlsplit(settings.url).scheme == "https":
            self._tls = ssl.create_default_context(cafile=settings.certificate)
            if settings.client_certificate is not None:
                self._tls.load_cert_chain(settings.client_certificate, settings.client_key)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send `spans`. What cannot be sent within the settings' time is dropped: the next ones matter more."""
        try:
            self._send(encoded(spans))
        except Exception as error:  # noqa: BLE001 - whatever it is, the daemon goes on without these spans
            reason = printable(describe(error))[:_LONGEST_REASON]
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
        headers = {"User-Agent": "discovery", **self._settings.headers, "Content-Type": _CONTENT_TYPE}
        if self._settings.compressed:
            body = gzip.compress(body)
            headers["Content-Encoding"] = "gzip"
        deadline = time.monotonic() + self._settings.timeout
        self._heed(deadline)
        for pause in delays(first=1.0, most=5.0):
            try:
                answer = asyncio.run(self._posted(body, headers, max(0.1, deadline - time.monotonic())))
            except _RefusalError as error:
                if error.pause:
                    self._left_alone = time.monotonic() + error.pause, str(error)
                if not error.for_now or self._is_over(deadline, max(pause, error.pause)):
                    raise
            except (OSError, aiohttp.ClientError):
                if self._is_over(deadline, pause):
                    raise
            else:
                if (refused := refusal_in(answer)) is not None:  # of some of the spans, for good
                    raise _RefusalError(refused)
                return

    def _heed(self, deadline: float) -> None:
        """Wait for the end of the pause that the collector has asked for. Raises its answer if that is too late."""
        if self._left_alone is not None:
            until, reason = self._left_alone
            if self._is_over(deadline, until - time.monotonic()):
                raise _RefusalError(reason)
            self._left_alone = None

    def _is_over(self, deadline: float, pause: float) -> bool:
        """Wait before another attempt; return True if there is to be none."""
        return time.monotonic() + pause >= deadline or self._ended.wait(max(0.0, pause))

    async def _posted(self, body: bytes, headers: Mapping[str, str], seconds: float) -> bytes:
        """Send a request, and return the answer. `seconds` are for all of it, however slow the other side is."""
        try:
            async with (
                asyncio.timeout(seconds),
                aiohttp.ClientSession(
                    cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=None), trust_env=True
                ) as session,
                # Another address gets neither our spans nor our headers.
                session.post(
                    self._settings.url, data=body, headers=headers, allow_redirects=False, ssl=self._tls or True
                ) as response,
            ):
                if 200 <= response.status < 300:
                    return await _body(response)
                for_now = response.status in _FOR_NOW
                pause = seconds_of(response.headers.get("Retry-After", ""), time.time()) if for_now else 0.0
                raise _RefusalError(f"the collector answers {response.status}", for_now=for_now, pause=pause)
        except TimeoutError:
            raise TimeoutError("the collector has not answered in time") from None
        # The texts of these have the URL, of which a password and the query may be secret.
        except aiohttp.InvalidURL:
            raise _RefusalError("the URL of the collector is not valid") from None
        except aiohttp.ClientResponseError:
            raise _RefusalError("what answers is no collector: it does not speak HTTP") from None


def seconds_of(retry_after: str, now: float) -> float:
    """Return the seconds that a value of `Retry-After` asks to wait, within bounds; 0 for none. Pure.

    The value is seconds or a date; `now` is a time in seconds since 1970.
    """
    try:
        asked = (
            float(int(retry_after)) if retry_after.isdigit() else parsedate_to_datetime(retry_after).timestamp() - now
        )
    except (ValueError, OverflowError):
        return 0.0
    return min(max(0.0, asked), _LONGEST_PAUSE)


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    while len(body) < _MOST_BYTES and (chunk := await response.content.read(_MOST_BYTES - len(body))):
        body += chunk
    return body
