"""How the daemon is, as frozen data: what the admin endpoint shows and the metrics count."""

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from types import MappingProxyType

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily

from discovery.checks import Verdict
from discovery.holding import Cause, Held
from discovery.isolation import Phase
from discovery.model import Addresses, Snapshot, State
from discovery.plugin import Sample
from discovery.providing import ProvidingStatus
from discovery.runner import ConsumerStatus


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """The registry as followed, every consumer and every provider. Instants are `time.monotonic()`.

    `followed` is whether a consumer asks for the registry to be followed at all; `stale` is why it cannot be now;
    `alarms` is what is wrong with it although it can.
    `snapshot_from_disk` marks a snapshot that an earlier run remembered and this one has not yet seen confirmed;
    `snapshot_time` is when it was last known to be true. `addresses` are those of backends that are registered by host
    name, `unresolved` is what is wrong with the names, by the backends' services and ids. `held` are the records in
    the snapshot that the registry has removed, which is not believed, by key.
    """

    registry: str
    followed: bool = True
    snapshot: Snapshot | None = None
    snapshot_time: float | None = None
    snapshot_from_disk: bool = False
    stale: str | None = None
    alarms: tuple[str, ...] = ()
    resets: int = 0
    addresses: Addresses = field(default_factory=lambda: MappingProxyType({}))
    unresolved: Mapping[tuple[str, str], str] = field(default_factory=lambda: MappingProxyType({}))
    held: Mapping[str, Held] = field(default_factory=dict)
    consumers: tuple[ConsumerStatus, ...] = ()
    providers: tuple[ProvidingStatus, ...] = ()
    config_error: str | None = None

    @property
    def snapshot_age(self) -> float | None:
        """Seconds since the snapshot was last known to be the registry's state: 0 while it is followed."""
        if self.snapshot_time is None:
            return None
        return time.monotonic() - self.snapshot_time if self.stale or self.snapshot_from_disk else 0.0

    @property
    def connected(self) -> bool | None:
        """Whether the registry is followed at this moment; None if nobody asks for it."""
        return (
            self.stale is None and self.snapshot is not None and not self.snapshot_from_disk if self.followed else None
        )

    @property
    def waiting_for(self) -> list[str]:
        """Each consumer that has not applied a snapshot, and each provider whose first set the registry has not had."""
        return [
            *(each.name for each in self.consumers if each.applied_revision is None),
            *(each.runner.name for each in self.providers if not each.ready),
        ]

    @property
    def problems(self) -> dict[str, str]:
        """Each consumer and provider that is not well, and why."""
        return {
            **{each.name: each.problem for each in self.consumers if each.problem},
            **{each.runner.name: each.problem for each in self.providers if each.problem},
        }


def metrics(status: DaemonStatus, own: Mapping[str, Iterable[Sample]] | None = None) -> Iterator[Metric]:
    """The status as Prometheus metrics, and what consumers measure of their `own`, by instance name."""
    taken: set[str] = set()
    for metric in chain(_metrics(status), _own_metrics(status.consumers, own or {})):
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
        for phase in Phase:
            phases.add_metric((each.name, phase.value), float(each.phase is phase))
    yield from (revision, lag, behind, applies, failures, seconds, healthy, phases)


def _own_metrics(consumers: tuple[ConsumerStatus, ...], own: Mapping[str, Iterable[Sample]]) -> Iterator[Metric]:
    """Figures of instances of one plugin are one metric, told apart by the label `consumer`."""
    families: dict[str, Metric] = {}
    for consumer in consumers:
        prefix = re.sub(r"[^a-zA-Z0-9_]", "_", f"discovery_{consumer.plugin}")
        for sample in own.get(consumer.name, ()):
            name = f"{prefix}_{sample.name}"
            family = families.setdefault(name, Metric(name, sample.help, sample.kind))
            if family.type == sample.kind:
                exposed = f"{name}_total" if sample.kind == "counter" else name
                family.add_sample(exposed, {"consumer": consumer.name, **sample.labels}, sample.value)
    yield from families.values()


def _provider_metrics(providers: tuple[ProvidingStatus, ...]) -> Iterator[Metric]:
    by = ("provider",)
    found = GaugeMetricFamily(
        "discovery_provider_candidates", "Backends found, by what their checks say", labels=("provider", "verdict")
    )
    registered = GaugeMetricFamily("discovery_provider_registered", "Backends that stand in the registry", labels=by)
    problems = GaugeMetricFamily("discovery_provider_problems", "Things found with which something is wrong", labels=by)
    failures = CounterMetricFamily("discovery_provider_failures", "Setups and discoveries that failed", labels=by)
    healthy = GaugeMetricFamily("discovery_provider_healthy", "1 while all is well with the provider", labels=by)
    phases = GaugeMetricFamily("discovery_provider_phase", "1 for what it is doing", labels=("provider", "phase"))
    for each in providers:
        runner, name = each.runner, (each.runner.name,)
        verdicts = [candidate.verdict for candidate in runner.candidates.values()]
        for verdict in Verdict:
            found.add_metric((runner.name, verdict.value), verdicts.count(verdict))
        found.add_metric((runner.name, "unknown"), verdicts.count(None))
        registered.add_metric(name, len(each.registered))
        problems.add_metric(name, len(runner.problems))
        failures.add_metric(name, runner.failures)
        healthy.add_metric(name, float(each.problem is None))
        for phase in Phase:
            phases.add_metric((runner.name, phase.value), float(runner.phase is phase))
    yield from (found, registered, problems, failures, healthy, phases)
