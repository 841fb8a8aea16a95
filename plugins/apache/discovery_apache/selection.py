"""Which containers are Apache's, and which of their ports. Pure."""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from discovery_apache.announce import allowed, is_direct, not_published
from discovery_apache.config import APACHE_PORT, ApacheConfig, DockerConfig
from discovery_apache.container import Container
from discovery_apache.conventions import asks_for_a_name, named_ports, shown

APACHE_IMAGES = ("httpd", "apache", "apache2", "httpd-2*", "php:*apache*")
_SHORTEST_ID = 12
_WILDCARDS = frozenset("*?[")


def is_selected(container: Container, docker: DockerConfig) -> bool:
    """Whether the configuration means this container: see `unselected`."""
    return unselected(container, docker) is None


def unselected(container: Container, docker: DockerConfig) -> str | None:
    """The rule by which the configuration does not mean this container, in words; None if it does.

    Without `names`, `images` and `labelled` it means Apache's images, and containers that ask for a name by
    registrator's conventions and have Apache's port.
    """
    if docker.names or docker.images or docker.labelled:
        if (
            any(_is_named(container, pattern) for pattern in docker.names)
            or _is_of(container, docker.images)
            or any(_is_labelled(container, pattern) for pattern in docker.labelled)
        ):
            return None
        given = [f"'docker.{key}'" for key in ("names", "images", "labelled") if getattr(docker, key)]
        return f"it does not match {' or '.join(given)}"
    if _is_of(container, APACHE_IMAGES):
        return None
    if not docker.conventions:
        return f"its image {shown(container.image)} is not one of Apache's, and 'docker.conventions' is off"
    if not asks_for_a_name(container.labels, container.env):
        return f"its image {shown(container.image)} is not one of Apache's, and it has no SERVICE_NAME"
    there = {number for number, protocol in (*container.ports, *container.exposed) if protocol == "tcp"}
    wanted = docker.port or (APACHE_PORT,)
    if there.isdisjoint(wanted):
        ports = ", ".join(map(str, wanted))
        return f"its image {shown(container.image)} is not one of Apache's, and it does not expose port {ports}"
    return None


def missing(containers: Iterable[Container], docker: DockerConfig) -> Iterator[str]:
    """The names, written out in the configuration, of which no container runs, not even a paused one."""
    running = [container for container in containers if container.running]
    for name in docker.names:
        if not _WILDCARDS & set(name) and not any(_is_named(container, name) for container in running):
            yield name


def base_name(image: str) -> str:
    """The last part of the image's repository, without tag and digest: `httpd` of `example.com/a/httpd:2.4`.

    Empty for an image that is named by its digest alone.
    """
    if image.startswith("sha256:"):
        return ""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0]


def ports_of(container: Container, config: ApacheConfig, network: str | None = None) -> tuple[int, ...]:
    """Apache's ports, of those that can be reached; `network` is the one that a label wants.

    They are those of `docker.port`; without it those that a label names, and 80, or else the only one that there is.
    Raises ValueError if there are none, with the reason and the way out in a line.
    """
    docker = config.docker or DockerConfig()
    direct = is_direct(container, network, config)
    there = {number for number, protocol in container.ports if protocol == "tcp"}
    exposed = {number for number, protocol in container.exposed if protocol == "tcp"}
    if direct or (not there and any(allowed(name, config.networks) for name in container.networks)):
        there |= exposed
    if docker.port is not None:
        # What an image declares is no proof: where ports need not be published, the configuration's word counts.
        ports = tuple(port for port in docker.port if port in there) or (docker.port if direct else ())
        if not ports:
            raise ValueError(not_published(container, *docker.port))
        return ports
    named = named_ports(container.labels, container.env) if docker.conventions else frozenset()
    ports = tuple(sorted(there & (named | {APACHE_PORT})))
    if not ports and len(there) == 1:
        ports = tuple(there)
    if not ports and direct and not there:
        ports = (APACHE_PORT,)
    if not ports:
        raise ValueError(not_published(container, *sorted(named or {APACHE_PORT})))
    return ports


def _is_named(container: Container, pattern: str) -> bool:
    return fnmatchcase(container.name, pattern) or (
        len(pattern) >= _SHORTEST_ID and container.id.startswith(pattern.lower())
    )


def _is_of(container: Container, patterns: tuple[str, ...]) -> bool:
    repository, _, _ = container.image.partition("@")
    last = repository.rpartition("/")[2]
    untagged = repository[: len(repository) - len(last)] + last.partition(":")[0]
    for pattern in patterns:
        name = repository if ":" in pattern.rpartition("/")[2] else untagged
        if fnmatchcase(name if "/" in pattern else name.rpartition("/")[2], pattern):
            return True
    return False


def _is_labelled(container: Container, pattern: str) -> bool:
    key, equals, value = pattern.partition("=")
    return any(fnmatchcase(k, key) and (not equals or fnmatchcase(v, value)) for k, v in container.labels.items())
