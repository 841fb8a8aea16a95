"""Spans in the wire form of OTLP, the protocol of OpenTelemetry: opentelemetry/proto/collector/trace/v1, 1.0 and later.

The usual package with these messages, opentelemetry-proto, shares its files with xds-protos, which has another version
of them: where both are installed, the last one installed decides whether its exporter can be imported.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan

from discovery.system.protobuf import DecodeError, described

_SCHEMA = """
message ExportTraceServiceRequest { repeated ResourceSpans resource_spans = 1; }
message ResourceSpans { Resource resource = 1; repeated ScopeSpans scope_spans = 2; }
message Resource { repeated KeyValue attributes = 1; }
message ScopeSpans { InstrumentationScope scope = 1; repeated Span spans = 2; }
message InstrumentationScope { string name = 1; string version = 2; }
message Span {
  bytes trace_id = 1; bytes span_id = 2; string trace_state = 3; bytes parent_span_id = 4; string name = 5;
  int32 kind = 6; fixed64 start_time_unix_nano = 7; fixed64 end_time_unix_nano = 8; repeated KeyValue attributes = 9;
  Status status = 15; }
message Status { string message = 2; int32 code = 3; }
message KeyValue { string key = 1; AnyValue value = 2; }
message AnyValue {
  string string_value = 1; bool bool_value = 2; int64 int_value = 3; double double_value = 4;
  ArrayValue array_value = 5; }
message ArrayValue { repeated AnyValue values = 1; }
message ExportTraceServiceResponse { ExportTracePartialSuccess partial_success = 1; }
message ExportTracePartialSuccess { int64 rejected_spans = 1; string error_message = 2; }
"""
_INTERNAL = 1
"""`SPAN_KIND_INTERNAL`: no span of ours is a call of another program."""

_classes = described("discovery.otlp", _SCHEMA)


def encoded(spans: Sequence[ReadableSpan]) -> bytes:
    """Return the ExportTraceServiceRequest for `spans`, which have one resource and one scope."""
    resource, scope = spans[0].resource, spans[0].instrumentation_scope
    request = _classes["ExportTraceServiceRequest"]()
    together = request.resource_spans.add()
    _fill(together.resource.attributes, resource.attributes)
    scoped = together.scope_spans.add()
    if scope is not None:
        scoped.scope.name, scoped.scope.version = scope.name, scope.version or ""
    for span in spans:
        _fill_span(scoped.spans.add(), span)
    return bytes(request.SerializeToString())


def refusal_in(answer: bytes) -> str | None:
    """Return the text of a collector's answer about refused spans; None if there are none.

    An answer that is no ExportTraceServiceResponse tells nothing: the status says that the request was accepted.
    """
    try:
        told = _classes["ExportTraceServiceResponse"].FromString(answer).partial_success
    except DecodeError:
        return None
    refused = told.rejected_spans
    return f"spans that the collector refuses: {refused} ({told.error_message})" if refused else None


def _fill_span(message: Any, span: ReadableSpan) -> None:
    context = span.get_span_context()
    if context is not None:
        message.trace_id = context.trace_id.to_bytes(16, "big")
        message.span_id = context.span_id.to_bytes(8, "big")
        message.trace_state = context.trace_state.to_header()
    if span.parent is not None:
        message.parent_span_id = span.parent.span_id.to_bytes(8, "big")
    message.name, message.kind = span.name, _INTERNAL
    message.start_time_unix_nano, message.end_time_unix_nano = span.start_time or 0, span.end_time or 0
    _fill(message.attributes, span.attributes or {})
    if span.status.status_code.value:
        message.status.code = span.status.status_code.value
        message.status.message = _text(span.status.description or "")


def _fill(attributes: Any, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        pair = attributes.add()
        pair.key = _text(key)
        _fill_value(pair.value, value)


def _fill_value(message: Any, value: str | bool | float | Iterable[Any]) -> None:
    if isinstance(value, bool):  # before int, which it is, too
        message.bool_value = value
    elif isinstance(value, int):
        message.int_value = value
    elif isinstance(value, float):
        message.double_value = value
    elif isinstance(value, str):
        message.string_value = _text(value)
    else:
        message.array_value.SetInParent()
        for each in value:
            _fill_value(message.array_value.values.add(), each)


def _text(text: str) -> str:
    """Return `text` as the protocol can carry it: a key of the registry may have bytes that are no UTF-8."""
    return text.encode("utf-8", "replace").decode()
