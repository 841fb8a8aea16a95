"""Slots: servers that the operator's file holds free, and that get the addresses of backends at run time. Pure.

A slot in maintenance is free. Which backend a slot serves is known by the slot's address and port alone, so that any
daemon finds the slots as they are.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from discovery_haproxy.runtime_api.checks import Check, HAProxyCheck
from discovery_haproxy.runtime_api.planner import Move, Remove, Revive, ServerKey, SetWeight, Step
from discovery_haproxy.runtime_api.read_back import FORCED_MAINTENANCE
from discovery_haproxy.text.server_line import Server

_NAME, _SERVER, _ADDRESS, _STATE, _ADMINISTRATIVE, _WEIGHT = 1, 3, 4, 5, 6, 7
_CHANGED, _CHECK_STATE, _HOST, _PORT = 9, 13, 17, 18
"""Column numbers of a row of `show servers state`."""
_CHECK_CONFIGURED, _CHECK_PAUSED = 2, 8
"""Bits of the state of a check."""
_RUNNING, _STOPPED = "2", "0"
"""Operational states."""
_LITERAL = "-"
"""Host of a slot whose line has an address, in place of a name. HAProxy restores no address of such a slot."""

Place = tuple[IPv4Address | IPv6Address, int]
"""Address and port of a backend."""


class Slot(NamedTuple):
    """A server of the operator's file, and its row of `show servers state`."""

    key: ServerKey
    row: tuple[str, ...]

    @property
    def place(self) -> Place | None:
        """Address and port; None if the slot has no address."""
        try:
            return ip_address(self.row[_ADDRESS]), int(self.row[_PORT])
        except ValueError:
            return None

    @property
    def weight(self) -> int:
        """Weight of the slot."""
        return int(self.row[_WEIGHT])

    @property
    def is_free(self) -> bool:
        """Report whether the slot gets no traffic, since it is in maintenance."""
        return bool(int(self.row[_ADMINISTRATIVE]) & FORCED_MAINTENANCE)

    @property
    def is_up(self) -> bool:
        """Report whether HAProxy takes the server for up."""
        return self.row[_STATE] != _STOPPED

    @property
    def is_checked(self) -> bool:
        """Report whether the operator's line has `check`."""
        return bool(int(self.row[_CHECK_STATE]) & _CHECK_CONFIGURED)

    @property
    def is_restorable(self) -> bool:
        """Report whether HAProxy restores the slot's address from a state file."""
        return self.row[_HOST] != _LITERAL

    @property
    def facts(self) -> tuple[str, ...]:
        """The row without the time since the last change."""
        return (*self.row[:_CHANGED], *self.row[_CHANGED + 1 :])


class Filling(NamedTuple):
    """What makes the slots of a section those that are wanted.

    `up` are the slots that get traffic before HAProxy's check has passed, `waiting` is the number of backends for which
    there is no slot.
    """

    steps: tuple[Step, ...]
    up: frozenset[ServerKey]
    waiting: int


def parse_slots(answer: str) -> dict[str, list[Slot]]:
    """Return the servers of each section, in the order of the file."""
    slots: dict[str, list[Slot]] = {}
    for line in answer.splitlines():
        row = tuple(line.split())
        if len(row) > _PORT and not line.startswith("#"):
            slots.setdefault(row[_NAME], []).append(Slot((row[_NAME], row[_SERVER]), row))
    return slots


def fill(slots: Sequence[Slot], wanted: Mapping[Place, int]) -> Filling:
    """Plan how the slots of a section get the places that are wanted, with their weights.

    A slot that is at a wanted place stays there. The others are taken from the free slots, those that are vacated last.
    """
    kept: dict[Place, Slot] = {}
    for slot in sorted(slots, key=lambda slot: slot.is_free):
        if (place := slot.place) is not None and place in wanted:
            kept.setdefault(place, slot)
    taken = {slot.key for slot in kept.values()}
    others = sorted((slot for slot in slots if slot.key not in taken), key=lambda slot: not slot.is_free)
    new = [place for place in wanted if place not in kept]
    assigned = {**kept, **dict(zip(new, others, strict=False))}
    serves = any(
        not slot.is_free and slot.is_up and wanted[place] > 0 and slot.weight > 0 for place, slot in kept.items()
    )
    steps: list[Step] = []
    up: set[ServerKey] = set()
    for place, slot in assigned.items():
        found = list(_steps(slot, place, wanted[place]))
        steps += found
        if not serves and any(isinstance(step, Move | Revive) for step in found):
            up.add(slot.key)
    used = {slot.key for slot in assigned.values()}
    steps += [Remove(slot.key, _server(*place, slot.weight)) for slot in others if (place := _leaves(slot, used))]
    return Filling(tuple(steps), frozenset(up), len(wanted) - len(assigned))


def is_filled(slots: Sequence[Slot], wanted: Collection[Place]) -> bool:
    """Report whether the slots that get traffic are at wanted places, as many as there are slots for."""
    used = [slot.place for slot in slots if not slot.is_free]
    return set(used) <= set(wanted) and len(set(used)) == len(used) == min(len(slots), len(wanted))


def states_after(slots: Iterable[Slot], steps: Iterable[Step], up: Collection[ServerKey]) -> list[str]:
    """Return the rows of a state file for the slots as the steps leave them.

    A slot whose address HAProxy does not restore has no row: such a slot is free after a reload.
    """
    rows = {slot.key: list(slot.row) for slot in slots if slot.is_restorable}
    for step in steps:
        if (row := rows.get(step.key)) is None:
            continue
        state = int(row[_ADMINISTRATIVE])
        if isinstance(step, Remove):
            row[_ADMINISTRATIVE] = str(state | FORCED_MAINTENANCE)
            row[_STATE] = _STOPPED
            continue
        row[_WEIGHT] = str(step.server.weight)
        if isinstance(step, Move | Revive):
            row[_ADDRESS], row[_PORT] = str(step.server.address), str(step.server.port)
            row[_ADMINISTRATIVE] = str(state & ~FORCED_MAINTENANCE)
            row[_CHECK_STATE] = str(int(row[_CHECK_STATE]) & ~_CHECK_PAUSED)
            row[_STATE] = _RUNNING if step.key in up or step.check is None else _STOPPED
    return [" ".join(row) for row in rows.values()]


def _steps(slot: Slot, place: Place, weight: int) -> Iterable[Step]:
    server = _server(*place, weight)
    check: Check = HAProxyCheck() if slot.is_checked else None
    if slot.is_free:
        yield Revive(slot.key, server, check)
        return
    if slot.place != place:
        yield Move(slot.key, server, check)
    if slot.weight != weight:
        yield SetWeight(slot.key, server)


def _leaves(slot: Slot, used: Collection[ServerKey]) -> Place | None:
    """Return the place of a slot that is to be vacated; else None."""
    return None if slot.is_free or slot.key in used else slot.place or (IPv4Address(0), 0)


def _server(address: IPv4Address | IPv6Address, port: int, weight: int) -> Server:
    return Server(address, port, weight, {})
