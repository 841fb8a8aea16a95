"""The JSON form of backends and snapshots, which the command line and the admin endpoint share."""

from collections.abc import Mapping
from typing import Any

from discovery.errors import RecordError
from discovery.model import Addresses, Backend, Rejected, Snapshot, State, join_host_port
from discovery.validity import validate


def backend_document(backend: Backend) -> dict[str, Any]:
    """Return the JSON object of a backend: service, id, host, port, weight, state and labels."""
    return {
        "service": backend.service,
        "id": backend.id,
        "host": backend.host,
        "port": backend.port,
        "weight": backend.weight,
        "state": backend.state.value,
        "labels": dict(backend.labels),
    }


def backend_of(document: object) -> Backend:
    """Return the backend that `document` describes, a JSON object as `backend_document` returns.

    Raises RecordError if `document` is no such object, or if the backend is not valid.
    """
    try:
        if not isinstance(document, Mapping):
            raise TypeError(f"it is of type {type(document).__name__}")
        return validate(Backend(**{**document, "state": State(document["state"])}))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RecordError(f"this is not the JSON object of a backend: {error!r}") from None


def snapshot_document(snapshot: Snapshot, owners: Mapping[str, str | None]) -> dict[str, Any]:
    """Return the JSON object of a snapshot: revision, services by name, rejected records with their reasons.

    Each backend also has an `owner`, taken from `owners` by key, None if unknown. `more_rejected` is the number of
    rejections that are not listed. The object lacks `more_rejected` if that is 0.
    """
    document = {
        "revision": snapshot.revision,
        "services": {
            name: [{**backend_document(each), "owner": owners.get(each.key)} for each in service.backends]
            for name, service in snapshot.services.items()
        },
        "rejected": [rejected_document(each) for each in snapshot.rejected],
    }
    return {**document, "more_rejected": snapshot.more_rejected} if snapshot.more_rejected else document


def rejected_document(rejected: Rejected) -> dict[str, Any]:
    """Return the JSON object of a rejection: key, reason, and the ignored field (null: the whole record is refused)."""
    return {"key": rejected.key, "reason": rejected.reason, "field": rejected.field}


def names_document(addresses: Addresses, unresolved: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """Return the JSON object of host names: the addresses by `host:port`, and the backends with a problem."""
    return {
        "addresses": {join_host_port(*endpoint): list(found) for endpoint, found in sorted(addresses.items())},
        "unresolved": [
            {"service": service, "id": id_, "problem": problem} for (service, id_), problem in unresolved.items()
        ],
    }
