"""The status of the daemon as Prometheus metrics."""

import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, SummaryMetricFamily
from prometheus_client.utils import floatToGoString

from discovery.admin.status import DaemonStatus
from discovery.checks import Verdict
from discovery.consuming.histograms import BOUNDS, Histogram
from discovery.consuming.holding import Cause
from discovery.consuming.runner import ConsumerStatus
from discovery.hosting.isolation import Phase, PluginStatus
from discovery.model import State
from discovery.plugin import Sample
from discovery.providing.provider import RunningProviderStatus

_LIMITS = (*map(floatToGoString, BOUNDS), "+Inf")


def metrics(status: DaemonStatus, own: Mapping[str, Iterable[Sample]] | None = None) -> Iterator[Metric]:
    """The status as Prometheus metrics, and what plugins measure of their `own`, by instance name."""
    taken: set[str] = set()
    for metric in chain(_metrics(status), _own_metrics(status, own or {})):
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        if name not in taken:  # twice, it would make all of them unreadable
            taken.add(name)
            yield metric


def _metrics(status: DaemonStatus) -> Iterator[Metric]:
    if status.connected is not None:
        yield GaugeMetricFamily(
            "discovery_registry_connected",
            "1 while the registry is followed, 0 while the last snapshot stands in for it",
            value=float(status.connected),
        )
    yield CounterMetricFamily(
        "discovery_registry_resets", "Full listings of the registry, the first included", value=status.resets
    )
    held = GaugeMetricFamily(
        "discovery_held_records", "Records that are served although the registry has removed them", labels=("cause",)
    )
    causes = [each.cause for each in status.held.values()]
    for cause in Cause:
        held.add_metric((cause.value,), causes.count(cause))
    yield held
    yield GaugeMetricFamily("discovery_registry_alarms", "Alarms that the registry raises", value=len(status.alarms))
    snapshot = status.snapshot
    if snapshot is not None:
        yield GaugeMetricFamily(
            "discovery_registry_revision", "Registry revision of the latest snapshot", value=snapshot.revision
        )
        yield GaugeMetricFamily(
            "discovery_snapshot_age_seconds",
            "Seconds since the snapshot was last known to be the registry's state",
            value=status.snapshot_age or 0.0,
        )
        yield GaugeMetricFamily(
            "discovery_rejected_records",
            "Records or fields refused in the latest snapshot",
            value=len(snapshot.rejected) + snapshot.more_rejected,
        )
        backends = GaugeMetricFamily(
            "discovery_backends", "Backends of a service in the latest snapshot", labels=("service", "state")
        )
        for name, service in snapshot.services.items():
            active = sum(backend.state is State.ACTIVE for backend in service.backends)
            backends.add_metric((name, State.ACTIVE.value), active)
            backends.add_metric((name, State.DRAINING.value), len(service.backends) - active)
        yield backends
        yield GaugeMetricFamily(
            "discovery_unresolved_backends",
            "Backends whose host name cannot be looked up now, whether or not its last addresses stand",
            value=len(status.unresolved),
        )
    yield from _consumer_metrics(status.consumers)
    yield from _provider_metrics(status.providers)
    yield GaugeMetricFamily(
        "discovery_config_ok",
        "0 while the configuration file on disk is invalid and an earlier one is in force",
        value=float(status.config_error is None),
    )


def _consumer_metrics(consumers: tuple[ConsumerStatus, ...]) -> Iterator[Metric]:
    by = ("consumer",)
    revision = GaugeMetricFamily("discovery_consumer_applied_revision", "Revision last applied", labels=by)
    lag = GaugeMetricFamily("discovery_consumer_lag_revisions", "Revisions between latest and applied", labels=by)
    behind = GaugeMetricFamily(
        "discovery_consumer_lag_seconds", "Seconds since the first change that is not applied yet", labels=by
    )
    applies = CounterMetricFamily("discovery_consumer_applies", "Snapshots applied", labels=by)
    failures = CounterMetricFamily("discovery_consumer_failures", "Setups and applies that failed", labels=by)
    seconds = SummaryMetricFamily("discovery_consumer_apply_seconds", "Time that applies took", labels=by)
    healthy = GaugeMetricFamily("discovery_consumer_healthy", "1 while all is well with the consumer", labels=by)
    degraded = GaugeMetricFamily("discovery_consumer_degraded", "1 while a part of the work is not done", labels=by)
    problems = GaugeMetricFamily("discovery_consumer_problems", "Problems that the consumer reports", labels=by)
    down = GaugeMetricFamily(
        "discovery_consumer_down_backends",
        "Backends that the registry calls active, and that what the consumer drives finds down",
        labels=("consumer", "service"),
    )
    phases = GaugeMetricFamily("discovery_consumer_phase", "1 for what it is doing", labels=("consumer", "phase"))
    for each in consumers:
        name = (each.name,)
        if each.applied_revision is not None:
            revision.add_metric(name, each.applied_revision)
        if each.offered_revision is not None:
            lag.add_metric(name, max(0, each.offered_revision - (each.applied_revision or 0)))
            behind.add_metric(name, time.monotonic() - each.behind_since if each.behind_since is not None else 0.0)
        applies.add_metric(name, each.applies)
        failures.add_metric(name, each.failures)
        seconds.add_metric(name, each.applies, each.apply_seconds)
        healthy.add_metric(name, float(each.problem is None))
        degraded.add_metric(name, float(each.degraded is not None))
        problems.add_metric(name, len(each.health.problems))
        counts = Counter(key.partition("/")[0] for key in each.health.down)
        for service in sorted(counts.keys() | each.health.watched):
            down.add_metric((each.name, service), counts[service])
        for phase in Phase:
            phases.add_metric((each.name, phase.value), float(each.phase is phase))
    yield from (revision, lag, behind, applies, failures, seconds, healthy, degraded, problems, down, phases)
    yield from _delay_metrics(consumers)


def _delay_metrics(consumers: tuple[ConsumerStatus, ...]) -> Iterator[Metric]:
    delay = HistogramMetricFamily(
        "discovery_consumer_delay_seconds",
        "Time from the receipt of a change until the consumer had applied it",
        labels=("consumer",),
    )
    parts = HistogramMetricFamily(
        "discovery_consumer_delay_part_seconds",
        "Its parts: watch, queue and apply add up, verify is the part of apply that waited for proof",
        labels=("consumer", "part"),
    )
    for each in consumers:
        delay.add_metric((each.name,), _buckets(each.delays.total), each.delays.total.total)
        for part in ("watch", "queue", "apply", "verify"):
            histogram: Histogram = getattr(each.delays, part)
            parts.add_metric((each.name, part), _buckets(histogram), histogram.total)
    yield from (delay, parts)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    return list(zip(_LIMITS, histogram.cumulative, strict=True))


def _own_metrics(status: DaemonStatus, own: Mapping[str, Iterable[Sample]]) -> Iterator[Metric]:
    """Merge figures of a plugin's instances into a metric, told apart by the label `consumer` or `provider`."""
    families: dict[str, Metric] = {}
    kinds = [("consumer", each) for each in status.consumers]
    plugins: list[tuple[str, PluginStatus]] = [*kinds, *(("provider", each.runner) for each in status.providers)]
    for kind, plugin in plugins:
        prefix = re.sub(r"[^a-zA-Z0-9_]", "_", f"discovery_{plugin.plugin}")
        for sample in own.get(plugin.name, ()):
            name = f"{prefix}_{sample.name}"
            family = families.setdefault(name, Metric(name, sample.help, sample.kind))
            if family.type == sample.kind:
                exposed = f"{name}_total" if sample.kind == "counter" else name
                family.add_sample(exposed, {kind: plugin.name, **sample.labels}, sample.value)
    yield from families.values()


def _provider_metrics(providers: tuple[RunningProviderStatus, ...]) -> Iterator[Metric]:
    by = ("provider",)
    found = GaugeMetricFamily(
        "discovery_provider_candidates", "Backends found, by what their checks say", labels=("provider", "verdict")
    )
    registered = GaugeMetricFamily("discovery_provider_registered", "Backends that stand in the registry", labels=by)
    problems = GaugeMetricFamily("discovery_provider_problems", "Things found with which something is wrong", labels=by)
    failures = CounterMetricFamily("discovery_provider_failures", "Setups and discoveries that failed", labels=by)
    healthy = GaugeMetricFamily("discovery_provider_healthy", "1 while all is well with the provider", labels=by)
    degraded = GaugeMetricFamily("discovery_provider_degraded", "1 while a part of the work is not done", labels=by)
    phases = GaugeMetricFamily("discovery_provider_phase", "1 for what it is doing", labels=("provider", "phase"))
    for each in providers:
        runner, name = each.runner, (each.runner.name,)
        verdicts = [candidate.verdict for candidate in runner.candidates.values()]
        for verdict in Verdict:
            found.add_metric((runner.name, verdict.value), verdicts.count(verdict))
        found.add_metric((runner.name, "unknown"), verdicts.count(None))
        registered.add_metric(name, len(each.registered))
        problems.add_metric(name, len({**runner.problems, **runner.health.problems}))
        failures.add_metric(name, runner.failures)
        healthy.add_metric(name, float(each.problem is None))
        degraded.add_metric(name, float(each.problem is None and runner.degraded is not None))
        for phase in Phase:
            phases.add_metric((runner.name, phase.value), float(runner.phase is phase))
    yield from (found, registered, problems, failures, healthy, degraded, phases)
