"""The ports of containers that share a network, as those of a pod. Pure.

Podman reports of each container of a pod all the ports that the pod publishes. A port is registered for one container:
the one that the option `port` selects, or else the one that names the port by SERVICE_<port>_NAME, or else the one
whose network it is, or else the one whose image declares the port, or else the only one. Of several the first that
was created has the port, so that no container can take the place of another, and a restart moves no port.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from discovery_docker.container import Container
from discovery_docker.conventions import quoted
from discovery_docker.rules import Rules

_INFRA = "the container is Podman's, and holds the network of a pod"
_MOST_LISTED = 8
"""Containers in a message, which is one line: a pod may have many."""


@dataclass(frozen=True, slots=True)
class Shares:
    """The containers, each with its own ports; by id the rule that leaves a container out, and a problem."""

    containers: tuple[Container, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    problems: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def share(containers: Iterable[Container], rules: Rules, is_selected: Callable[[Container], bool]) -> Shares:
    """Return the containers with the ports that each has among those that share its network."""
    containers = tuple(containers)
    by_id = {container.id: container for container in containers}
    groups: dict[str, list[Container]] = {}
    for container in containers:
        if container.shares_network and container.ports:
            groups.setdefault(container.network_owner, []).append(container)
    own: dict[str, Container] = {}
    is_named = bool(rules.containers.names)
    skipped = {each.id: _INFRA for each in containers if each.is_infra and not (is_named and is_selected(each))}
    problems: dict[str, str] = {}
    for owner_id, members in groups.items():
        owner = by_id.get(owner_id)
        group = [*members, *([owner] if owner is not None and not owner.is_infra else [])]
        holders = {
            port: _holder(port[0], group, owner, rules, is_selected) for port in members[0].ports if port[1] == "tcp"
        }
        for container in group:
            ports = {port: bindings for port, bindings in container.ports.items() if holders.get(port) is container}
            own[container.id] = replace(container, ports=MappingProxyType(ports))
            others = {port[0]: holder for port, holder in holders.items() if holder is not container}
            if ports or not others or not is_selected(container):
                continue
            if found := next(((port, holder) for port, holder in sorted(others.items()) if holder), None):
                skipped[container.id] = (
                    f"port {found[0]} of the network that the container shares is that of the container"
                    f" {quoted(found[1].name)}: SERVICE_{found[0]}_NAME at one of them chooses"
                )
            else:
                skipped[container.id] = "the container declares no port of the pod"
                problems[container.id] = _undecided(min(others), members)
    return Shares(
        tuple(own.get(each.id, each) for each in containers), MappingProxyType(skipped), MappingProxyType(problems)
    )


def _holder(
    port: int,
    group: Sequence[Container],
    owner: Container | None,
    rules: Rules,
    is_selected: Callable[[Container], bool],
) -> Container | None:
    """Return the container to which a port belongs; None if that is not known."""
    options = rules.containers
    named = [each for each in group if options.conventions and port in each.variables.named_ports]
    chosen = [each for each in group if port in (options.port or ()) and is_selected(each)]
    declaring = [each for each in group if (port, "tcp") in each.exposed]
    claims = (chosen, named, [each for each in group if each is owner], declaring, group if len(group) == 1 else ())
    return next((min(each, key=lambda one: (one.created_at, one.id)) for each in claims if each), None)


def _undecided(port: int, members: Sequence[Container]) -> str:
    names = ", ".join(sorted(quoted(each.name) for each in members)[:_MOST_LISTED])
    return (
        f"the pod publishes port {port}, and none of its containers {names} declares the port: set"
        f" SERVICE_{port}_NAME at the container that serves it"
    )
