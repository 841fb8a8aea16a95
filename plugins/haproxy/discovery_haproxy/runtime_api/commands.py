"""The commands of HAProxy's runtime API for the steps of a plan, and the answers that mean success.

HAProxy's management guide, "9.3. Unix Socket commands".
"""

import re
from dataclasses import dataclass, field

from discovery_haproxy.runtime_api.drift import OperatorChange
from discovery_haproxy.runtime_api.planner import Add, Move, Remove, Revive, ServerKey, SetWeight, Step

_SILENCE = re.compile(r"\s*")
_ADDED = re.compile(r"(.*\n)?New server registered\.\s*", re.DOTALL)
_MOVED = re.compile(r"(IP changed|port changed|no need to change|nothing changed)[^\n]*\s*")
"""The answer to a new address. HAProxy says "nothing changed" from 3.0 on, "no need to change" before."""
_POOL_VERSION = (2, 8)
"""HAProxy's version from which added servers reuse connections without options."""
_POOL_OPTIONS = {"pool-purge-delay": "5s", "pool-max-conn": "-1"}
"""Options with HAProxy's defaults, which HAProxy 2.6 does not set for added servers: without these options HAProxy
opens a connection for every request."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command, and the pattern of the whole answer if HAProxy obeys.

    `payload` are the lines that follow a command that ends in `<<`. A payload can be a private key, and is never shown.
    """

    text: str
    success: re.Pattern[str]
    payload: str = field(default="", repr=False)

    @property
    def lines(self) -> str:
        """The command as it is sent, but for the last line break, which after a payload makes an empty line."""
        return f"{self.text}\n{self.payload}" if self.payload else self.text


def commands(step: Step, version: tuple[int, ...], *, up: bool) -> tuple[Command, ...]:
    """Return the commands of a step, which must stay together.

    With `up`, a server that is new at its address gets traffic at once; otherwise when HAProxy's check has passed.
    """
    match step:
        case SetWeight(key, server):
            return (_silent(f"set server {_path(key)} weight {server.weight}"),)
        case Move(key, _, check):
            is_up = up and check is not None
            return (_move(step), _health(key, up=True)) if is_up else (*_down(key, up=up), _move(step))
        case Remove(key):
            return (_silent(f"set server {_path(key)} state maint"),)
        case Revive(key, server, check):
            weight = _silent(f"set server {_path(key)} weight {server.weight}")
            # The predecessor's addition may have been interrupted before its check was enabled.
            checks = () if check is None else (_silent(f"enable health {_path(key)}"), _health(key, up=up))
            return (_move(step), weight, _silent(f"set server {_path(key)} state ready"), *checks)
        case Add(key, server, check):
            options = server.options if version >= _POOL_VERSION else {**_POOL_OPTIONS, **server.options}
            words = " ".join(f"{keyword} {value}".rstrip() for keyword, value in options.items())
            add = f"add server {_path(key)} {server.host_port} weight {server.weight} {words}".rstrip()
            health = () if check is None else (_silent(f"enable health {_path(key)}"),)
            # HAProxy checks a server that is down as soon as the server is enabled: in this order no request is lost.
            enable = _silent(f"enable server {_path(key)}")
            return (Command(add, _ADDED), *health, enable, *_down(key, up=up))


def settings(key: ServerKey, change: OperatorChange) -> tuple[Command, ...]:
    """Return the commands that make the settings of an operator again, in a process that does not have them."""
    found = []
    if change.weight is not None:
        found.append(f"set server {_path(key)} weight {change.weight}")
    if change.unchecked:
        found.append(f"disable health {_path(key)}")
    if change.maintenance or change.draining:
        found.append(f"set server {_path(key)} state {'maint' if change.maintenance else 'drain'}")
    return tuple(map(_silent, found))


def undo(key: ServerKey, change: OperatorChange, weight: int) -> tuple[Command, ...]:
    """Return the commands that undo the settings of an operator. `weight` is the wanted weight."""
    found = []
    if change.weight is not None:
        found.append(f"set server {_path(key)} weight {weight}")
    if change.unchecked:
        found.append(f"enable health {_path(key)}")
    if change.maintenance or change.draining:
        found.append(f"set server {_path(key)} state ready")
    return tuple(map(_silent, found))


def delete(key: ServerKey) -> str:
    """Return the command that deletes a server in maintenance. HAProxy refuses while the server has connections."""
    return f"del server {_path(key)}"


def _down(key: ServerKey, *, up: bool) -> tuple[Command, ...]:
    return () if up else (_health(key, up=False),)


def _health(key: ServerKey, *, up: bool) -> Command:
    return _silent(f"set server {_path(key)} health {'up' if up else 'down'}")


def _move(step: Move | Revive) -> Command:
    address, port = step.server.place
    return Command(f"set server {_path(step.key)} addr {address} port {port}", _MOVED)


def _silent(text: str) -> Command:
    return Command(text, _SILENCE)


def _path(key: ServerKey) -> str:
    return "/".join(key)
