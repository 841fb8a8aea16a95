"""Where traces are sent, from the environment variables that OpenTelemetry defines. Pure.

https://opentelemetry.io/docs/specs/otel/protocol/exporter/ describes the variables.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

PROTOCOL = "http/protobuf"
"""The form of OTLP that is spoken; every collector has it."""
_PATH = "v1/traces"
_SECONDS = 10.0
"""Seconds for the sending of a batch, unless a variable says otherwise: the default of the specification."""
_MOST_DIGITS = 10
"""Of milliseconds: below a hundred days."""


class TraceSettings(NamedTuple):
    """Where and how traces are sent. `headers` may have credentials: they are never logged."""

    url: str
    headers: Mapping[str, str]
    timeout: float = _SECONDS
    """Seconds for the sending of a batch, all attempts together."""
    compressed: bool = False
    certificate: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None

    @property
    def shown_url(self) -> str:
        """The URL without a name, a password and a query, for the log."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def trace_settings(environment: Mapping[str, str]) -> TraceSettings | None:
    """Return where traces are sent; None if nobody asks for traces. Raises ValueError, which names the variable."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    exporters = environment.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    if "otlp" not in (each.strip() for each in exporters.split(",")):
        return None
    own, common = (environment.get(f"OTEL_EXPORTER_OTLP_{name}ENDPOINT", "").strip() for name in ("TRACES_", ""))
    if not own and not common:
        return None
    _, protocol = _of(environment, "PROTOCOL")
    if protocol not in ("", PROTOCOL):
        raise ValueError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}: set it to {PROTOCOL}, port 4318 of most collectors"
        )
    name, compression = _of(environment, "COMPRESSION")
    if compression not in ("", "none", "gzip"):
        raise ValueError(f"{name} is {compression!r}, and neither none nor gzip")
    return TraceSettings(
        _url(own, common),
        _headers(*_of(environment, "HEADERS")),
        _seconds(*_of(environment, "TIMEOUT")),
        compression == "gzip",
        *(_path(_of(environment, what)[1]) for what in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")),
    )


def _of(environment: Mapping[str, str], what: str) -> tuple[str, str]:
    """Return the variable for traces, or the variable for all signals, and its value."""
    for name in (f"OTEL_EXPORTER_OTLP_TRACES_{what}", f"OTEL_EXPORTER_OTLP_{what}"):
        if value := environment.get(name, "").strip():
            return name, value
    return f"OTEL_EXPORTER_OTLP_{what}", ""


def _url(own: str, common: str) -> str:
    """Return the URL of traces: `own` as it is; `common` is the URL below which each signal has its path."""
    name = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" if own else "OTEL_EXPORTER_OTLP_ENDPOINT"
    url = own or f"{common.rstrip('/')}/{_PATH}"
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid:  # the value is not quoted: it may have a password
        raise ValueError(f"{name} is no URL of http or https, such as http://127.0.0.1:4318")
    return url


def _headers(name: str, value: str) -> dict[str, str]:
    """Return the headers of `name=value,...`, with percent encoding, as W3C Baggage has it."""
    headers = dict[str, str]()
    for each in filter(None, (part.strip() for part in value.split(","))):
        key, equals, text = (unquote(part).strip() for part in each.partition("="))
        if not equals or not key.replace("-", "").replace("_", "").isalnum() or not _is_printable(text):
            raise ValueError(f"{name} is no list of headers, such as api-key=secret,other=value")
        headers[key] = text
    return headers


def _is_printable(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _seconds(name: str, value: str) -> float:
    """Return the seconds of a variable in milliseconds, as the specification has it."""
    if not value:
        return _SECONDS
    if not (value.isascii() and value.isdigit() and 0 < len(value) < _MOST_DIGITS and int(value)):
        raise ValueError(f"{name} is {value[:20]!r}, and no whole number of milliseconds above 0")
    return int(value) / 1000


def _path(value: str) -> Path | None:
    return Path(value) if value else None
