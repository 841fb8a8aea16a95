"""The names that a container already has, as sources of its service's name. Pure.

A source is a word, such as `compose` or `image`, or a text with the names of labels in braces, such as `{tier}-web`.
"""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from discovery.fields import is_service_name
from discovery_docker.container import Container
from discovery_docker.conventions import quoted

TEMPLATES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "compose": ("{com.docker.compose.service}", "{io.podman.compose.service}"),
        "compose-project": (
            "{com.docker.compose.project}-{com.docker.compose.service}",
            "{io.podman.compose.project}-{io.podman.compose.service}",
        ),
        "swarm": ("{com.docker.swarm.service.name}",),
        "nomad": ("{com.hashicorp.nomad.task_name}",),
        "nomad-job": ("{com.hashicorp.nomad.job_name}-{com.hashicorp.nomad.task_name}",),
    }
)
"""The labels that programs which start containers set, by a word for the program."""
WORDS = (*TEMPLATES, "podman", "container", "image")

_UNIT = "PODMAN_SYSTEMD_UNIT"
"""The label with the systemd unit of a container. Podman sets the label for units that it has generated."""
_UNIT_NAME = re.compile(r"(?:container-)?(.*?)(?:@.*)?\.service", re.DOTALL)
_LABEL = re.compile(r"\{([^{}\s]+)\}")
_TEMPLATE = re.compile(rf"(?:[A-Za-z0-9_.-]|{_LABEL.pattern})+")


def valid_source(text: str) -> str:
    """Return the source. Raises ValueError."""
    if text not in WORDS and not (_TEMPLATE.fullmatch(text) and _LABEL.search(text)):
        words = ", ".join(WORDS)
        raise ValueError(f"{text!r} names no service: write {words}, or a text with labels, such as {{tier}}-web")
    return text


def follows_labels(source: str) -> bool:
    """Return True if the source depends on the labels of the container."""
    return source not in ("container", "image")


def service_name(container: Container, sources: Iterable[str]) -> str | None:
    """Return the name by the first of the `sources` that the container has; None if the container has none.

    Raises ValueError, in one line, if that is not a valid name: under another name clients of another service would
    find the container.
    """
    for source in sources:
        if name := _name(container, source):
            if not is_service_name(name):
                raise ValueError(f"{source!r} gives the service name {quoted(name)}, which is not valid")
            return name
    return None


def base_name(image: str) -> str:
    """Return the last part of an image's repository without tag and digest: `httpd` of `example.com/a/httpd:2.4`.

    An image that is referenced by its digest alone has no name; the result is empty.
    """
    if image.startswith("sha256:"):
        return ""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0]


def _name(container: Container, source: str) -> str:
    """Return the name by a source, empty if the container has none."""
    if source == "container":
        return container.name
    if source == "image":
        return next(map(base_name, container.images), "")
    if source == "podman":
        found = _UNIT_NAME.fullmatch(container.labels.get(_UNIT, ""))
        return found[1] if found else ""
    filled = (_filled(template, container.labels) for template in TEMPLATES.get(source, (source,)))
    return next(filter(None, filled), "")


def _filled(template: str, labels: Mapping[str, str]) -> str:
    """Return the template with the values of the labels, empty if a label is absent or empty."""
    if not all(labels.get(label) for label in _LABEL.findall(template)):
        return ""
    return _LABEL.sub(lambda found: labels[found[1]], template)
