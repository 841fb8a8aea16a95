"""The fleet as JSON, for `/api/fleet` and `discovery fleet`, and what a daemon tells others of itself. Pure."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from discovery.admin.health import bounded, summary
from discovery.admin.status import DaemonStatus
from discovery.fleet.announcement import Announcement
from discovery.fleet.survey import Member, Surveyed

UNREACHABLE = "unreachable"
"""The state of a daemon that has not told its own; `reason` says why."""
WELL = frozenset({"ok", "degraded"})
"""The states that are no reason for an alarm."""


def member_document(status: DaemonStatus, id_: str, version: str) -> dict[str, Any]:
    """Return what this daemon tells of itself: bounded, whatever it runs."""
    snapshot, consumers = status.snapshot, status.consumers
    applied = [each.applied_revision for each in consumers]
    behind = [each.behind_since for each in consumers if each.behind_since is not None]
    return {
        **summary(status),
        "unregistered": bounded(dict(_unregistered(status))),
        "id": id_,
        "version": version,
        "registry": status.registry,
        "connected": status.connected,
        "services": 0 if snapshot is None else len(snapshot.services),
        "backends": 0 if snapshot is None else sum(map(len, snapshot.services.values())),
        "revision": None if snapshot is None else snapshot.revision,
        "applied_revision": min((each for each in applied if each is not None), default=None)
        if None not in applied
        else None,
        "lag_seconds": round(time.monotonic() - min(behind), 3) if behind else 0.0,
    }


def _unregistered(status: DaemonStatus) -> Iterator[tuple[str, str]]:
    """Yield by provider what it has found and does not register: the number, and one of them with the reason."""
    for provider in status.providers:
        candidates = provider.runner.candidates
        left_out = [key for key in candidates if key not in provider.registered]
        if left_out:
            told = f"{len(left_out)} of {len(candidates)} found not registered"
            yield provider.runner.name, f"{told}: {left_out[0]}: {provider.why_not(left_out[0])}"


def fleet_document(surveyed: Surveyed, own_id: str, *, announced: str | None) -> dict[str, Any]:
    """Return the fleet as an object of JSON. `announced` is why this daemon is not announced; None if it is."""
    return {
        "daemons": [_row(each, own_id) for each in surveyed.members],
        "more": surveyed.more,
        "invalid": [{"key": key, "reason": reason} for key, reason in surveyed.invalid.items()],
        "more_invalid": surveyed.more_invalid,
        "reason": surveyed.reason,
        "not_announced": announced,
        "age_seconds": round(max(0.0, time.monotonic() - surveyed.at), 3),
    }


def announced_document(announcement: Announcement) -> dict[str, Any]:
    """Return what the record of a daemon tells."""
    return {
        "id": announcement.id,
        "machine": announcement.machine,
        "run_dir": announcement.run_dir,
        "address": announcement.address,
        "scheme": announcement.scheme,
        "roles": list(announcement.roles),
        "since": announcement.since,
        "version": announcement.version,
    }


def is_well(document: Mapping[str, Any]) -> bool:
    """Return True if the records could be listed, all are valid, and every daemon has told that it is well."""
    return (
        document["reason"] is None
        and not document["invalid"]
        and not document["more_invalid"]
        and all(each["state"] in WELL for each in document["daemons"])
    )


def _row(member: Member, own_id: str) -> dict[str, Any]:
    told: Mapping[str, Any] = member.answered.told or {}
    return {
        **announced_document(member.announcement),
        "version": told.get("version") or member.announcement.version,
        "own": member.announcement.id == own_id,
        "state": told.get("state", UNREACHABLE),
        "reason": member.answered.reason,
        **{
            name: told.get(name)
            for name in ("registry", "connected", "ready", "revision", "applied_revision", "lag_seconds")
        },
        **{name: told.get(name) for name in ("services", "backends")},
        **{name: told.get(name) or [] for name in ("waiting_for", "instances")},
        "problems": told.get("problems") or {},
    }
