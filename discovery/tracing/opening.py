"""Traces, if somebody asks for them and the extra `otel` is installed. Nothing of OpenTelemetry is imported before."""

import logging
import socket
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from structlog.typing import FilteringBoundLogger

from discovery.errors import describe
from discovery.tracing.settings import trace_settings

if TYPE_CHECKING:
    from discovery.tracing.traces import Traces

_SERVICE_NAME = "discovery"


def open_traces(environment: Mapping[str, str], version: str, log: FilteringBoundLogger) -> "Traces | None":
    """Return traces as the OTEL_ variables of `environment` ask for them; None, with a line in the log, if not.

    OpenTelemetry's own library reads its variables (resource, sampler, batches) from the environment of the process.
    """
    try:
        settings = trace_settings(environment)
        if settings is None:
            return None
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from discovery.tracing.sending import CollectorExporter
        from discovery.tracing.traces import Traces

        ours = {
            "service.name": _SERVICE_NAME,
            "service.version": version,
            "service.instance.id": str(uuid.uuid4()),  # of this process, as the semantic conventions have it
            "host.name": socket.gethostname(),
        }
        told = Resource.create()
        unnamed = str(told.attributes.get("service.name", "")).startswith("unknown_service")
        resource = Resource(ours).merge(told).merge(Resource({"service.name": _SERVICE_NAME} if unnamed else {}))
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)  # an exit waits for no collector
        # It would warn of each span that a dead collector costs; the exporter tells of the batches.
        logging.getLogger("opentelemetry.sdk._shared_internal").setLevel(logging.ERROR)
        exporter = CollectorExporter(settings, log)
        untyped: Any = exporter  # it has the methods of a SpanExporter, and not the class
        provider.add_span_processor(BatchSpanProcessor(untyped))
        traces = Traces(provider, version, log, exporter.shutdown)
    except ModuleNotFoundError as error:
        log.warning(
            "changes are not traced: the extra is not installed: pip install 'discovery-framework[otel]'",
            reason=describe(error),
        )
    except Exception as error:  # noqa: BLE001 - whatever is wrong with traces, the daemon serves
        log.warning("changes are not traced", reason=describe(error))
    else:
        log.info("changes are traced", url=settings.shown_url)
        return traces
    return None
