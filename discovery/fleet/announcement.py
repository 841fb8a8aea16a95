"""The record by which a daemon announces itself: a backend, whose labels tell what the daemon is. Pure.

Records come from the registry, in which others may write: `announcement_of` checks every part.
"""

import hashlib
import re
from datetime import UTC, datetime
from typing import NamedTuple

from discovery.errors import RecordError
from discovery.model import Backend, join_host_port

SERVICE = "daemons"
"""The name below the prefix, in the place of a service's."""
ROLES = ("consumer", "provider")
SCHEMES = ("http", "https")

_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+!_-]{0,63}")
_SINCE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_ID = re.compile(r"[0-9a-f]{16}")


class Announcement(NamedTuple):
    """A daemon as announced: `host` and `port` are of its admin endpoint, `since` is when it began (UTC, ISO 8601)."""

    id: str
    host: str
    port: int
    scheme: str
    version: str
    machine: str
    run_dir: str
    roles: tuple[str, ...]
    since: str

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return join_host_port(self.host, self.port)


def id_of(owner: str) -> str:
    """Return the id of the daemon that `owner` names: no two living daemons have one owner."""
    return hashlib.sha256(owner.encode(errors="surrogateescape")).hexdigest()[:16]


def time_text(seconds: float) -> str:
    """Return a time since the epoch as `since` has it."""
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")


def backend_of(announcement: Announcement) -> Backend:
    """Return the backend whose record announces the daemon."""
    labels = {name: getattr(announcement, name) for name in ("scheme", "version", "machine", "run_dir", "since")}
    labels["roles"] = " ".join(announcement.roles)
    return Backend(SERVICE, announcement.id, announcement.host, announcement.port, labels=labels)


def announcement_of(backend: Backend) -> Announcement:
    """Return the daemon that a backend announces. Raises RecordError, which names the part that is not valid."""
    labels = backend.labels
    roles = tuple(labels.get("roles", "").split(" ")) if labels.get("roles") else ()
    _require(_ID.fullmatch(backend.id), "the id is not 16 hexadecimal digits")
    _require(labels.get("scheme") in SCHEMES, "the scheme is neither http nor https")
    _require(_VERSION.fullmatch(labels.get("version", "")), "the version is missing or is no version")
    _require(_SINCE.fullmatch(labels.get("since", "")), "since is missing or is no time, as in 2026-01-31T12:00:00Z")
    _require(set(roles) <= set(ROLES) and len(set(roles)) == len(roles), "the roles are not consumer and provider")
    for name in ("machine", "run_dir"):
        _require(labels.get(name), f"{name} is missing")
    return Announcement(
        backend.id,
        backend.host,
        backend.port,
        labels["scheme"],
        labels["version"],
        labels["machine"],
        labels["run_dir"],
        tuple(role for role in ROLES if role in roles),
        labels["since"],
    )


def _require(fulfilled: object, reason: str) -> None:
    if not fulfilled:
        raise RecordError(reason)
