"""The selection of containers, and of the ports to register. Pure."""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from discovery_docker.announce import is_reached_directly, matches_any, not_published
from discovery_docker.config import ContainerOptions
from discovery_docker.container import Container, Port
from discovery_docker.conventions import ServiceVariables, quoted
from discovery_docker.mesh import ADVICE, is_behind_mesh, usable_networks
from discovery_docker.rules import Rules

_SHORTEST_ID = 12
"""Hexadecimal digits of a container id that a pattern needs to select by id: `docker ps` prints so many."""
_WILDCARDS = frozenset("*?[")


def is_selected(container: Container, rules: Rules) -> bool:
    """Return True if the configuration selects the container."""
    return exclusion_rule(container, rules) is None


def exclusion_rule(container: Container, rules: Rules) -> str | None:
    """Return the rule by which the configuration leaves the container out, for a person; None for a selected container.

    Without `names`, `images` and `labelled` the kind of containers decides.
    """
    options = rules.containers
    if options.names or options.images or options.labelled:
        if (
            any(_matches_name(container, pattern) for pattern in options.names)
            or _matches_image(container, options.images)
            or any(_matches_label(container, pattern) for pattern in options.labelled)
        ):
            return _without_name(container, rules)
        given = [rules.key(name) for name in ("names", "images", "labelled") if getattr(options, name)]
        return f"the container does not match {' or '.join(given)}"
    rule = _another_kind(container, rules) if rules.kind.images else _without_ports(container, rules)
    return rule or _without_name(container, rules)


def _without_name(container: Container, rules: Rules) -> str | None:
    if rules.containers.explicit and not container.variables.requests_name:
        return f"the container has no SERVICE_NAME, and {rules.key('explicit')} is on"
    return None


def _another_kind(container: Container, rules: Rules) -> str | None:
    """Return the rule that leaves out a container that is not of the kind of the rules."""
    kind, options = rules.kind, rules.containers
    if _matches_image(container, kind.images):
        return None
    image = quoted(container.image)
    if not options.conventions:
        return f"the image {image} is not {kind.noun}, and {rules.key('conventions')} is off"
    if not container.variables.requests_name:
        return f"the image {image} is not {kind.noun}, and the container has no SERVICE_NAME"
    known = _tcp(container.ports) | _tcp(container.exposed)
    if is_reached_directly(container, container.variables.network, rules):
        known |= container.variables.named_ports
    required = options.port or ((kind.port,) if kind.port else ())
    if known.isdisjoint(required):
        ports = ", ".join(map(str, required))
        return f"the image {image} is not {kind.noun}, and the container does not expose port {ports}"
    return None


def _without_ports(container: Container, rules: Rules) -> str | None:
    """Return the rule that leaves out a container that has no port for others, and does not ask to be registered."""
    variables = container.variables if rules.containers.conventions else ServiceVariables()
    direct = is_reached_directly(container, variables.network, rules)
    if variables.requests_name or _reachable_ports(container, direct, variables.named_ports, rules):
        return None
    return ADVICE if is_behind_mesh(container) else "the container publishes no TCP port"


def absent_names(containers: Iterable[Container], options: ContainerOptions) -> Iterator[str]:
    """Yield each configured name without wildcards that no running or paused container has."""
    running = [container for container in containers if container.running]
    for name in options.names:
        if not _WILDCARDS & set(name) and not any(_matches_name(container, name) for container in running):
            yield name


def ports_of(container: Container, rules: Rules, network: str | None = None) -> tuple[int, ...]:
    """Return the ports of the container to register. `network` is the Docker network that a label requests.

    Of the ports in `port` those that can be reached. Without `port` all that can be reached, or, for a kind of
    containers with a usual port, that port and the ports that a label names, or else the only port that can be reached.
    Raises ValueError if there is none, one line with the reason and a remedy.
    """
    options, usual = rules.containers, rules.kind.port
    direct = is_reached_directly(container, network, rules)
    named = container.variables.named_ports if options.conventions else frozenset[int]()
    reachable = _reachable_ports(container, direct, named, rules)
    if options.port is not None:
        ports = _configured_ports(options.port, reachable, direct)
    elif usual is None:
        ports = tuple(sorted(reachable))
    else:
        ports = _usual_ports(usual, named, reachable, direct)
    if not ports:
        raise ValueError(not_published(container, rules, *(options.port or sorted(named or filter(None, (usual,))))))
    return ports


def _reachable_ports(container: Container, direct: bool, named: frozenset[int], rules: Rules) -> frozenset[int]:
    """Return the published ports; where none need be published, also the ports that the image or a label declares."""
    ports = _tcp(container.ports)
    if direct or (not ports and any(matches_any(name, rules.options.networks) for name in usable_networks(container))):
        ports |= _tcp(container.exposed) | named
    return ports


def _tcp(ports: Iterable[Port]) -> frozenset[int]:
    return frozenset(number for number, protocol in ports if protocol == "tcp")


def _configured_ports(configured: tuple[int, ...], reachable: frozenset[int], direct: bool) -> tuple[int, ...]:
    # An image need not declare the ports that it serves: without published ports the configuration decides alone.
    return tuple(port for port in configured if port in reachable) or (configured if direct else ())


def _usual_ports(usual: int, named: frozenset[int], reachable: frozenset[int], direct: bool) -> tuple[int, ...]:
    if preferred := reachable & (named | {usual}):
        return tuple(sorted(preferred))
    if len(reachable) == 1:
        return tuple(reachable)
    return (usual,) if direct and not reachable else ()


def _matches_name(container: Container, pattern: str) -> bool:
    return fnmatchcase(container.name, pattern) or (
        len(pattern) >= _SHORTEST_ID and container.id.startswith(pattern.lower())
    )


def _matches_image(container: Container, patterns: tuple[str, ...]) -> bool:
    return any(_matches_reference(image, pattern) for image in container.images for pattern in patterns)


def _matches_reference(image: str, pattern: str) -> bool:
    repository, _, _ = image.partition("@")
    last = repository.rpartition("/")[2]
    untagged = repository[: len(repository) - len(last)] + last.partition(":")[0]
    name = repository if ":" in pattern.rpartition("/")[2] else untagged
    return fnmatchcase(name if "/" in pattern else name.rpartition("/")[2], pattern)


def _matches_label(container: Container, pattern: str) -> bool:
    key, equals, value = pattern.partition("=")
    return any(fnmatchcase(k, key) and (not equals or fnmatchcase(v, value)) for k, v in container.labels.items())
