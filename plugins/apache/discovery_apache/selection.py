"""The selection of containers, and of the ports to register. Pure."""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from discovery_apache.announce import is_reached_directly, matches_any, not_published
from discovery_apache.config import APACHE_PORT, ApacheConfig, DockerConfig
from discovery_apache.container import Container
from discovery_apache.conventions import quoted

APACHE_IMAGES = ("httpd", "apache", "apache2", "httpd-2*", "php:*apache*")
_SHORTEST_ID = 12
"""Hexadecimal digits of a container id that a pattern needs to select by id: `docker ps` prints so many."""
_WILDCARDS = frozenset("*?[")


def is_selected(container: Container, docker: DockerConfig) -> bool:
    """Return True if the configuration selects the container."""
    return exclusion_rule(container, docker) is None


def exclusion_rule(container: Container, docker: DockerConfig) -> str | None:
    """Return the rule by which the configuration leaves the container out, for a person; None for a selected container.

    Without `names`, `images` and `labelled` the configuration selects Apache's images, and containers with Apache's
    port that request a name by registrator's conventions.
    """
    if docker.names or docker.images or docker.labelled:
        if (
            any(_matches_name(container, pattern) for pattern in docker.names)
            or _matches_image(container, docker.images)
            or any(_matches_label(container, pattern) for pattern in docker.labelled)
        ):
            return None
        given = [f"'docker.{key}'" for key in ("names", "images", "labelled") if getattr(docker, key)]
        return f"the container does not match {' or '.join(given)}"
    if _matches_image(container, APACHE_IMAGES):
        return None
    image = quoted(container.image)
    if not docker.conventions:
        return f"the image {image} is not an Apache image, and 'docker.conventions' is off"
    if not container.variables.requests_name:
        return f"the image {image} is not an Apache image, and the container has no SERVICE_NAME"
    known = {number for number, protocol in (*container.ports, *container.exposed) if protocol == "tcp"}
    required = docker.port or (APACHE_PORT,)
    if known.isdisjoint(required):
        ports = ", ".join(map(str, required))
        return f"the image {image} is not an Apache image, and the container does not expose port {ports}"
    return None


def absent_names(containers: Iterable[Container], docker: DockerConfig) -> Iterator[str]:
    """Yield each configured name without wildcards that no running or paused container has."""
    running = [container for container in containers if container.running]
    for name in docker.names:
        if not _WILDCARDS & set(name) and not any(_matches_name(container, name) for container in running):
            yield name


def base_name(image: str) -> str:
    """Return the last part of an image's repository without tag and digest: `httpd` of `example.com/a/httpd:2.4`.

    An image that is referenced by its digest alone has no name; the result is empty.
    """
    if image.startswith("sha256:"):
        return ""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0]


def ports_of(container: Container, config: ApacheConfig, network: str | None = None) -> tuple[int, ...]:
    """Return the ports of the container to register. `network` is the Docker network that a label requests.

    Of the ports in `docker.port` those that can be reached; without `docker.port` port 80 and the ports that a label
    names, or else the only port that can be reached. Raises ValueError if there is none, one line with the reason and a
    remedy.
    """
    docker = config.docker or DockerConfig()
    direct = is_reached_directly(container, network, config)
    reachable = _reachable_ports(container, direct, config)
    named = container.variables.named_ports if docker.conventions else frozenset[int]()
    if docker.port is not None:
        ports = _configured_ports(docker.port, reachable, direct)
    else:
        ports = _default_ports(named, reachable, direct)
    if not ports:
        raise ValueError(not_published(container, *(docker.port or sorted(named or {APACHE_PORT}))))
    return ports


def _reachable_ports(container: Container, direct: bool, config: ApacheConfig) -> set[int]:
    ports = {number for number, protocol in container.ports if protocol == "tcp"}
    if direct or (not ports and any(matches_any(name, config.networks) for name in container.networks)):
        ports |= {number for number, protocol in container.exposed if protocol == "tcp"}
    return ports


def _configured_ports(configured: tuple[int, ...], reachable: set[int], direct: bool) -> tuple[int, ...]:
    # An image need not declare the ports that it serves: without published ports the configuration decides alone.
    return tuple(port for port in configured if port in reachable) or (configured if direct else ())


def _default_ports(named: frozenset[int], reachable: set[int], direct: bool) -> tuple[int, ...]:
    if preferred := reachable & (named | {APACHE_PORT}):
        return tuple(sorted(preferred))
    if len(reachable) == 1:
        return tuple(reachable)
    return (APACHE_PORT,) if direct and not reachable else ()


def _matches_name(container: Container, pattern: str) -> bool:
    return fnmatchcase(container.name, pattern) or (
        len(pattern) >= _SHORTEST_ID and container.id.startswith(pattern.lower())
    )


def _matches_image(container: Container, patterns: tuple[str, ...]) -> bool:
    repository, _, _ = container.image.partition("@")
    last = repository.rpartition("/")[2]
    untagged = repository[: len(repository) - len(last)] + last.partition(":")[0]
    for pattern in patterns:
        name = repository if ":" in pattern.rpartition("/")[2] else untagged
        if fnmatchcase(name if "/" in pattern else name.rpartition("/")[2], pattern):
            return True
    return False


def _matches_label(container: Container, pattern: str) -> bool:
    key, equals, value = pattern.partition("=")
    return any(fnmatchcase(k, key) and (not equals or fnmatchcase(v, value)) for k, v in container.labels.items())
