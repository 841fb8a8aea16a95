"""The state of the daemon on one screen, as JSON. Pure, and as cheap with many backends as with few."""

import time
from collections.abc import Callable
from typing import Any

from discovery.admin.health import word
from discovery.admin.status import DaemonStatus
from discovery.consuming.runner import ConsumerStatus
from discovery.providing.provider import RunningProviderStatus


def status_document(status: DaemonStatus, registry: Callable[[DaemonStatus], dict[str, Any]]) -> dict[str, Any]:
    """Return the state as an object of JSON; `registry` makes that of the registry."""
    snapshot, waiting = status.snapshot, status.waiting_for
    return {
        "status": word(status),
        "ready": not waiting,
        "waiting_for": waiting,
        "registry": registry(status),
        "services": 0 if snapshot is None else len(snapshot.services),
        "backends": 0 if snapshot is None else sum(map(len, snapshot.services.values())),
        "rejected": 0 if snapshot is None else len(snapshot.rejected) + snapshot.more_rejected,
        "held": len(status.held),
        "unresolved": len(status.unresolved),
        "down": len({key for each in status.consumers for key in each.health.down}),
        "consumers": [_consumer(each) for each in status.consumers],
        "providers": [_provider(each) for each in status.providers],
        "problems": status.problems,
        "degraded": status.degraded,
        "broken": dict(status.broken),
        "config_error": status.config_error,
    }


def _consumer(each: ConsumerStatus) -> dict[str, Any]:
    behind = each.behind_since
    return {
        "name": each.name,
        "plugin": each.plugin,
        "state": each.state,
        "phase": each.phase.value,
        "applied_revision": each.applied_revision,
        "lag_seconds": 0.0 if behind is None else round(time.monotonic() - behind, 3),
        "applies": each.applies,
        "failures": each.failures,
        "apply_seconds": round(each.apply_seconds, 3),
        "down": len(each.health.down),
    }


def _provider(each: RunningProviderStatus) -> dict[str, Any]:
    return {
        "name": each.runner.name,
        "plugin": each.runner.plugin,
        "state": "failing" if each.problem is not None else each.runner.state,
        "phase": each.runner.phase.value,
        "candidates": len(each.runner.candidates),
        "registered": len(each.registered),
        "failures": each.runner.failures,
    }
