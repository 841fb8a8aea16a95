"""Containers of Swarm's services that the ingress mesh publishes. Pure.

The mesh publishes a port of the service at every node, and none at a container. Which node answers for which container
is the mesh's own choice, so that there is nothing to register for a container.
"""

from collections.abc import Mapping

from discovery_docker.container import Addresses, Container

_INGRESS = "ingress"
_OF_SWARM = frozenset({_INGRESS, "docker_gwbridge"})
"""Swarm's own networks, whose addresses no other machine reaches."""

ADVICE = (
    "Swarm's ingress mesh publishes the service's port at every node, and none at the container: create the service"
    " with --endpoint-mode dnsrr --publish target=PORT,mode=host, or register the service once by hand, at a node's"
    " address"
)


def is_behind_mesh(container: Container) -> bool:
    """Return True if the ingress mesh publishes ports of the container's service, and the container itself none."""
    return _INGRESS in container.networks and not container.ports


def usable_networks(container: Container) -> Mapping[str, Addresses]:
    """Return the container's networks without those of Swarm itself."""
    return {name: addresses for name, addresses in container.networks.items() if name not in _OF_SWARM}
