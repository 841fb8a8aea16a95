"""Requests for routes: what the labels of the backends of a service ask for, as far as that is allowed. Pure functions.

Labels are data from the registry: a bad value is a problem of its backend, and never a part of the configuration.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from discovery import Backend
from discovery.fields import format_value, is_service_name
from discovery.routing import EVERYTHING, ROOT

HOST = "discovery.host"
"""Label with the host name under which the service of the backend is served."""
PATH = "discovery.path"
"""Label with the path below which the service is served; without it every path."""
_MOST_HOST = 253
"""Characters of the longest domain name (RFC 1035, without the final dot)."""
_MOST_PATH = 256
"""Characters of the longest path: far more than a prefix has, and little for a line of the map."""
_HOST_LABEL = "[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"{_HOST_LABEL}(\.{_HOST_LABEL})*")
_PATH = re.compile(r"(/[A-Za-z0-9_.~!$&'()*+,;=:@%-]+)+|/")
_QUOTED_CHARACTERS = 60
"""Characters of a value in a message, which is one line."""


class Wish(NamedTuple):
    """What the labels of a backend ask for: the requests for a host below a path.

    A wish has no more of the backend than decides on routes: a new weight or address is no other wish.
    """

    service: str
    id: str
    """Id of the backend."""
    host: str
    path: str
    created: int | None = None
    """The number of `Backend.created`, in which equal backends may differ."""

    @property
    def key(self) -> str:
        """Key of the backend."""
        return f"{self.service}/{self.id}"


class Wishes(NamedTuple):
    """The wishes of backends, and a line for a person for each that is refused for its labels alone."""

    wishes: tuple[Wish, ...] = ()
    problems: tuple[str, ...] = ()


def wishes_of(backends: Iterable[Backend], patterns: Sequence[str]) -> Wishes:
    """Return what backends ask for. `patterns` are those of host names that are allowed."""
    wishes: list[Wish] = []
    problems: dict[str, None] = {}
    for backend in backends:
        if not (host := backend.labels.get(HOST, "")):
            continue
        path = backend.labels.get(PATH, "") or ROOT
        if reason := _refusal(backend.service, host.lower(), path, patterns):
            problems[f"backend {_quoted(backend.id)} of {_quoted(backend.service)} gets no route: {reason}"] = None
        else:
            wishes.append(Wish(backend.service, backend.id, host.lower(), path, backend.created))
    return Wishes(tuple(wishes), tuple(problems))


def matches(pattern: str, host: str) -> bool:
    """Report whether a host name matches a pattern: `example.com`, `*.example.com`, `example.*` or `*`."""
    if pattern == EVERYTHING:
        return True
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    return host.startswith(pattern[:-1]) if pattern.endswith(".*") else host == pattern


def _refusal(service: str, host: str, path: str, patterns: Sequence[str]) -> str:
    """Return why labels are refused, for a person; empty if they are not."""
    if len(host) > _MOST_HOST or not _HOST.fullmatch(host):
        return f"its label {HOST} is {_quoted(host)}, which is not a host name"
    if len(path) > _MOST_PATH or not _PATH.fullmatch(path):
        return f"its label {PATH} is {_quoted(path)}, which is not a path such as /api"
    if not any(matches(pattern, host) for pattern in patterns):
        return f"'label_routes' does not allow the host {host!r}"
    return "" if is_service_name(service) else "that is not a valid service name"


def _quoted(text: str) -> str:
    return str(format_value(text[:_QUOTED_CHARACTERS]))
