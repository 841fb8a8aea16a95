"""What Podman's API for Docker's clients leaves out of a container, from Podman's own API and from the image."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from http import HTTPStatus

from discovery_docker.container import Container, Port, parse_image_exposed
from discovery_docker.dockerapi import CALL_TIMEOUT
from discovery_docker.sdk import APIError, docker

_API = "v4.0.0"
"""The version of Podman's own API, which later versions of Podman answer, too."""
_MOST_REMEMBERED = 1024
"""Containers and images whose unchanging facts are kept in memory."""


class Podman:
    """Completes inspected containers. Each fact is asked for once, since it never changes.

    Where an engine refuses to tell, as one behind a proxy of its API does, a container stays as it is. A failure of the
    engine is no fact, and is raised. The methods block; several threads may call them.
    """

    def __init__(self, client: docker.APIClient, timeout: float = CALL_TIMEOUT) -> None:
        """Keep the client, and the seconds for an answer of Podman's own API; no I/O."""
        self._client = client
        self._timeout = timeout
        self._is_infra = lru_cache(_MOST_REMEMBERED)(self._ask_infra)
        self._exposed = lru_cache(_MOST_REMEMBERED)(self._ask_exposed)

    def complete(self, container: Container) -> Container:
        """Return the container with what is known of its pod. Raises APIError and OSError.

        A container in another's network, as in a pod, has no declared ports there: those of its image stand in.
        """
        if container.shares_network:
            return replace(container, exposed=self._exposed(container.image_id))
        return replace(container, is_infra=self._is_infra(container.id))

    def _ask_infra(self, id_: str) -> bool:
        url = f"{self._client.base_url}/{_API}/libpod/containers/{id_}/json"
        answer = self._client.get(url, timeout=self._timeout)
        if answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise APIError(f"{answer.status_code} from {url}", answer, answer.text)
        try:
            document = answer.json() if answer.ok else None
        except ValueError:
            document = None
        return isinstance(document, Mapping) and document.get("IsInfra") is True

    def _ask_exposed(self, image_id: str) -> tuple[Port, ...]:
        try:
            return parse_image_exposed(self._client.inspect_image(image_id))
        except APIError as error:
            if not error.is_client_error():
                raise
            return ()
