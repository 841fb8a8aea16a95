"""The labels of Swarm's services, which are not on the services' containers.

A manager of the Swarm tells them, another node does not.
"""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from http import HTTPStatus
from types import MappingProxyType

from discovery_docker.container import Container
from discovery_docker.sdk import APIError, NotFound, docker

SERVICE = "com.docker.swarm.service.id"
"""The label with the id of a container's service."""
_REFUSALS = frozenset({HTTPStatus.FORBIDDEN, HTTPStatus.NOT_ACCEPTABLE})
"""The answers of a proxy of the API that allows less, and of the earliest nodes that are no managers."""
_NO_MANAGER = "not a swarm manager"
"""In the answer 503 of a node that is no manager. A manager has other reasons for a 503, as without a leader."""
_LONGEST_REFUSAL = 200
"""Characters of an engine's answer in a message, which is one line."""


def with_labels(container: Container, labels: Mapping[str, str]) -> Container:
    """Return the container with the labels of its service, which the container's own override."""
    return replace(container, labels=MappingProxyType({**labels, **container.labels})) if labels else container


class Services:
    """The labels of services, by the id of a service, kept until `expire`.

    What was read once stands while it cannot be read. `complete` blocks, and several threads may call it; the other
    methods do not block.
    """

    def __init__(self, known: dict[str, Mapping[str, str]], client: docker.APIClient) -> None:
        """Keep the arguments; no I/O. `known` outlives the connection to the engine."""
        self._known = known
        self._client = client
        self._fresh: set[str] = set()
        self._lock = threading.Lock()
        self.refusal: str | None = None
        """Why services cannot be read, in the engine's words; None if they can be read, or nobody has asked."""

    def complete(self, container: Container) -> Container:
        """Return the container with the labels of its service, if it has one. Raises APIError and OSError."""
        id_ = container.labels.get(SERVICE)
        return container if id_ is None else with_labels(container, self._labels(id_))

    def expire(self, used: Iterable[str]) -> None:
        """Have every service asked for again, and forget all services but those in `used`."""
        self._fresh.clear()
        self.refusal = None
        for id_ in set(self._known) - set(used):
            self._known.pop(id_, None)

    def changed(self, id_: str) -> None:
        """Have a service asked for again, which has changed."""
        self._fresh.discard(id_)

    def _labels(self, id_: str) -> Mapping[str, str]:
        with self._lock:  # also for the time of the request, since others wait for its answer
            if id_ not in self._fresh and self.refusal is None:
                self._fresh.add(id_)  # before the request: a service that changes meanwhile is asked for again
                try:
                    self._read(id_)
                except BaseException:  # raised again, and the service is asked for again
                    self._fresh.discard(id_)
                    raise
            return self._known.get(id_, {})

    def _read(self, id_: str) -> None:
        try:
            self._known[id_] = _labels_of(self._client.inspect_service(id_))
        except NotFound:  # removed: its containers stop
            pass
        except APIError as error:
            if _is_refusal(error):
                self.refusal = " ".join(str(error.explanation or error.status_code).split())[:_LONGEST_REFUSAL]
            elif error.is_client_error() or id_ not in self._known:
                raise
            else:
                self._fresh.discard(id_)


def _is_refusal(error: APIError) -> bool:
    """Return True if the engine will not tell of any service, in contrast to a failure that passes."""
    is_no_manager = error.status_code == HTTPStatus.SERVICE_UNAVAILABLE and _NO_MANAGER in str(error.explanation)
    return is_no_manager or error.status_code in _REFUSALS


def _labels_of(document: object) -> Mapping[str, str]:
    """Return the labels of a `docker service inspect` document. Never raises."""
    spec = document.get("Spec") if isinstance(document, Mapping) else None
    labels = spec.get("Labels") if isinstance(spec, Mapping) else None
    found = labels.items() if isinstance(labels, Mapping) else ()
    return MappingProxyType({key: value for key, value in found if isinstance(key, str) and isinstance(value, str)})
