"""One trace for each change of the registry: what the core and each consumer took for it, sent to OpenTelemetry."""
