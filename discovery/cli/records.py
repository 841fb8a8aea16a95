"""Snapshots and changes as text for people and as JSON for programs. Pure."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from discovery.consuming.watcher import Observation
from discovery.documents import record
from discovery.model import Backend, Changes, Rejected, Snapshot, diff
from discovery.system.terminal import printable

HEADER = ("SERVICE", "ID", "ADDRESS", "WEIGHT", "STATE", "LABELS")


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """A line of `discovery watch`: the snapshot, the difference from the line before, and whether it is a listing."""

    snapshot: Snapshot
    changes: Changes
    reset: bool


def change_set(previous: Snapshot | None, observation: Observation) -> ChangeSet | None:
    """The change set after `previous`; None if nothing changed. A listing is always one, even if it is empty."""
    if observation.snapshot is None or observation.stale is not None:
        return None
    changes = diff(previous, observation.snapshot)
    if not changes and not observation.reset:
        return None
    return ChangeSet(observation.snapshot, changes, observation.reset)


def change_set_json(told: ChangeSet) -> str:
    """Return a line of JSON.

    With `reset`, `added` is the complete listing, `updated` is empty, and `removed` has what is gone since the last
    line. This is correct for a reader that starts over at a reset, and for one that only applies `added` and `removed`.
    """
    added: Sequence[Backend] = tuple(told.snapshot.backends()) if told.reset else told.changes.added
    updated = () if told.reset else told.changes.updated
    return json.dumps(
        {
            "revision": told.snapshot.revision,
            "reset": told.reset,
            "added": [record(backend) for backend in added],
            "updated": [record(backend) for backend in updated],
            "removed": [record(backend) for backend in told.changes.removed],
        }
    )


def change_set_lines(told: ChangeSet) -> Iterator[tuple[str, str]]:
    """Return a line for each change, with its mark apart: `=` a listing, `+` added, `~` updated, `-` removed."""
    if told.reset:
        count = sum(len(service.backends) for service in told.snapshot.services.values())
        yield "=", f"revision {told.snapshot.revision}: {count} {'backend' if count == 1 else 'backends'}"
    for mark, backends in (("+", told.changes.added), ("~", told.changes.updated), ("-", told.changes.removed)):
        for backend in backends:
            yield mark, backend_line(backend)


def row(backend: Backend) -> tuple[str, ...]:
    """The cells of a table row, under HEADER."""
    labels = " ".join(f"{name}={value}" for name, value in sorted(backend.labels.items()))
    return (backend.service, backend.id, backend.address, str(backend.weight), backend.state.value, labels)


def rejected_line(rejected: Rejected) -> str:
    """A rejected record and why, fit for a terminal."""
    what = f"{rejected.key}: {rejected.field} ignored" if rejected.field else rejected.key
    return printable(f"{what}: {rejected.reason}")


def backend_line(backend: Backend) -> str:
    """A backend in a line: key, address, and what is not as it usually is."""
    service, id_, address, weight, state, labels = row(backend)
    extras = [f"weight={weight}"] if backend.weight != 1 else []
    extras += [state] if state != "active" else []
    extras += [labels] if labels else []
    return " ".join((f"{service}/{id_}", address, *extras))
