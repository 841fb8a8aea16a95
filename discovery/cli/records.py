"""Converts snapshots and changes to text for people, and to JSON for programs. All functions are pure."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from discovery.consuming.watcher import Observation
from discovery.documents import backend_document
from discovery.model import Backend, Changes, Rejected, Snapshot, diff
from discovery.system.terminal import printable

HEADER = ("SERVICE", "ID", "ADDRESS", "WEIGHT", "STATE", "LABELS")


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """A line of `discovery watch`: the snapshot and its changes since the line before.

    `reset` is True for a line that lists the whole registry.
    """

    snapshot: Snapshot
    changes: Changes
    reset: bool


def change_set(previous: Snapshot | None, observation: Observation) -> ChangeSet | None:
    """Return the change set after `previous`, or None if nothing changed. A listing always has a change set."""
    if observation.snapshot is None or observation.stale is not None:
        return None
    changes = diff(previous, observation.snapshot)
    if not changes and not observation.reset:
        return None
    return ChangeSet(observation.snapshot, changes, observation.reset)


def change_set_json(change: ChangeSet) -> str:
    """Return a line of JSON.

    With `reset`, `added` is the complete listing, `updated` is empty, and `removed` has what is gone since the last
    line. So the line is right for a reader that starts over at a reset, and for a reader that only applies `added` and
    `removed`.
    """
    added: Sequence[Backend] = tuple(change.snapshot.backends()) if change.reset else change.changes.added
    updated = () if change.reset else change.changes.updated
    return json.dumps(
        {
            "revision": change.snapshot.revision,
            "reset": change.reset,
            "added": [backend_document(backend) for backend in added],
            "updated": [backend_document(backend) for backend in updated],
            "removed": [backend_document(backend) for backend in change.changes.removed],
        }
    )


def change_set_lines(change: ChangeSet) -> Iterator[tuple[str, str]]:
    """Return a line for each change, with its mark apart: `=` a listing, `+` added, `~` updated, `-` removed."""
    if change.reset:
        count = sum(len(service.backends) for service in change.snapshot.services.values())
        yield "=", f"revision {change.snapshot.revision}: {count} {'backend' if count == 1 else 'backends'}"
    for mark, backends in (("+", change.changes.added), ("~", change.changes.updated), ("-", change.changes.removed)):
        for backend in backends:
            yield mark, backend_line(backend)


def row(backend: Backend) -> tuple[str, ...]:
    """Return the cells of a backend's table row, in the order of HEADER."""
    labels = " ".join(f"{name}={value}" for name, value in sorted(backend.labels.items()))
    return (backend.service, backend.id, backend.address, str(backend.weight), backend.state.value, labels)


def rejected_line(rejected: Rejected) -> str:
    """Return a rejected record and the reason as a line without control characters."""
    what = f"{rejected.key}: {rejected.field} ignored" if rejected.field else rejected.key
    return printable(f"{what}: {rejected.reason}")


def backend_line(backend: Backend) -> str:
    """Return a line about a backend: its key, its address, and each value that is not the default."""
    service, id_, address, weight, state, labels = row(backend)
    extras = [f"weight={weight}"] if backend.weight != 1 else []
    extras += [state] if state != "active" else []
    extras += [labels] if labels else []
    return " ".join((f"{service}/{id_}", address, *extras))
