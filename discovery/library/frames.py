"""States of a follower between the helper process and the application: JSON that repeats no unchanged service. Pure."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from discovery.documents import backend_document, backend_of, rejected_document
from discovery.library.following import FollowerState
from discovery.model import Rejected, Service, Snapshot


class Encoder:
    """Writes states, each as the difference from the state before."""

    def __init__(self) -> None:
        """Begin with a reader that knows nothing."""
        self._told: Mapping[str, Service] = {}

    def frame(self, state: FollowerState) -> bytes:
        """Return a line of JSON."""
        document: dict[str, Any] = {
            "stale": state.stale,
            "from_disk": state.from_disk,
            "held": sorted(state.held),
            "true_at": state.true_at,
        }
        snapshot = state.snapshot
        if snapshot is not None:
            services = snapshot.services
            before, self._told = self._told, services
            document["snapshot"] = {
                "revision": snapshot.revision,
                "changed": {
                    name: [*map(backend_document, service.backends)]
                    for name, service in services.items()
                    if before.get(name) is not service
                },
                "gone": [name for name in before if name not in services],
                "rejected": [*map(rejected_document, snapshot.rejected)],
                "more_rejected": snapshot.more_rejected,
            }
        return json.dumps({"state": document}).encode() + b"\n"


class Decoder:
    """Reads what an encoder has written."""

    def __init__(self) -> None:
        """Begin without a snapshot."""
        self._snapshot: Snapshot | None = None

    def state(self, document: Mapping[str, Any]) -> FollowerState:
        """Return the state that the object `state` of a frame describes."""
        if (told := document.get("snapshot")) is not None:
            services = dict(self._snapshot.services) if self._snapshot else {}
            for name in told["gone"]:
                services.pop(name, None)
            for name, backends in told["changed"].items():
                services[name] = Service.of(name, map(backend_of, backends))
            snapshot = Snapshot(
                told["revision"],
                MappingProxyType({name: services[name] for name in sorted(services)}),
                tuple(Rejected(**each) for each in told["rejected"]),
                told["more_rejected"],
            )
            if snapshot != self._snapshot:  # else the same object: nothing to yield again
                self._snapshot = snapshot
        return FollowerState(
            self._snapshot,
            document["stale"],
            document["from_disk"],
            frozenset(document["held"]),
            document["true_at"],
        )
