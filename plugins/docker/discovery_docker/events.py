"""What the events of an engine say of containers, in the words of Docker and of Podman. Pure.

Podman's compatible API has words of its own: `died`, `remove` and `cleanup` (later versions have `die` and `destroy`),
a `kill` without the number of the signal, and events of networks with the container as actor. Podman 4.3 has no event
of a health check, which shows only as a program that has ended in the container.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from discovery_docker.container import signal_number

_DOCKER = (
    *("start", "die", "stop", "restart", "kill", "destroy", "pause", "unpause", "rename", "health_status"),
    *("connect", "disconnect"),
    "update",
)
_PODMAN = (*_DOCKER, "died", "remove", "cleanup", "exec_died")
_ENDS = frozenset({"die", "died"})


class Notice(NamedTuple):
    """An event about a container.

    `ended`: the container has ended. `signalled`: it was sent the `signal`. `probed`: a program has ended in it,
    perhaps its health check. `service`: the service of this id in Swarm has changed. `changed`: anything else. `at` is
    on the engine's clock, in nanoseconds since the epoch.
    """

    id: str
    kind: Literal["changed", "ended", "signalled", "probed", "service"]
    at: int
    signal: int = 0


def filters(*, is_podman: bool) -> dict[str, list[str]]:
    """Return the filters of the events to ask the engine for.

    Docker is not asked for the end of every program in a container, and Podman has no services.
    """
    if is_podman:
        return {"type": ["container", "network"], "event": list(_PODMAN)}
    return {"type": ["container", "network", "service"], "event": list(_DOCKER)}


def read(event: Mapping[str, Any]) -> Notice | None:
    """Return what the event says of a container, None for an event that is about none."""
    actor = event.get("Actor") or {}
    attributes, action = actor.get("Attributes") or {}, str(event.get("Action"))
    id_ = str(actor.get("ID") or "")
    if event.get("Type") == "network":
        id_ = str(attributes.get("container") or id_) if action in ("connect", "disconnect") else ""
    at = _int_or_zero(event.get("timeNano")) or _int_or_zero(event.get("time")) * 10**9
    if not id_:
        return None
    if event.get("Type") == "service":
        return Notice(id_, "service", at)
    if action in _ENDS:
        return Notice(id_, "ended", at)
    if action == "exec_died":
        return Notice(id_, "probed", at)
    if action == "kill" and (number := signal_number(str(attributes.get("signal") or ""))):
        return Notice(id_, "signalled", at, number)
    return Notice(id_, "changed", at)


def _int_or_zero(value: object) -> int:
    try:
        return int(value) if isinstance(value, str | int) else 0
    except ValueError:
        return 0
