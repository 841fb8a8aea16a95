"""Execution of a plan in a running worker, and the reading back of the servers.

If HAProxy closes the connection between commands, it is unknown which of them HAProxy has obeyed: the servers are read
back, and the commands of the rest are sent, some of them for a second time.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, TypeVar

from discovery_haproxy.runtime_api.certificates import NewCertificate
from discovery_haproxy.runtime_api.commands import Command, commands
from discovery_haproxy.runtime_api.connection import Connection, LostConnectionError, RuntimeApiError, Worker
from discovery_haproxy.runtime_api.defects import moves_late
from discovery_haproxy.runtime_api.drift import Comparison, by_section, compare
from discovery_haproxy.runtime_api.live_files import replace_map, set_certificates
from discovery_haproxy.runtime_api.planner import Add, Move, Plan, Revive, ServerKey, SetWeight, Step
from discovery_haproxy.runtime_api.read_back import LiveServer, is_at, parse_states

_MOST_LOSSES = 3
"""Connections that HAProxy may close in a row before one command is known to be executed."""
_ADDRESS_SECONDS = 1.0
"""Most seconds that HAProxy may take for new addresses after its answer; a task of HAProxy's own makes the changes."""
_ADDRESS_POLL_SECONDS = 0.005
"""Seconds between two looks at the new addresses."""

_TRAFFIC_SECONDS = 0.005
"""Seconds between the commands and the questions about their outcome: on a busy machine HAProxy would answer these
before the first request to a new server."""

Connect = Callable[[], AbstractAsyncContextManager[Connection]]
"""Open a connection to the worker that serves."""
_Answer = TypeVar("_Answer")


class Changes(NamedTuple):
    """A plan for this worker. `up` are the new or moved servers that may get traffic at once."""

    plan: Plan
    worker: Worker
    up: frozenset[ServerKey]
    certificates: tuple[NewCertificate, ...] = ()


async def ask(connect: Connect, question: Callable[[Connection], Awaitable[_Answer]]) -> _Answer:
    """Ask on a new connection, and again if HAProxy closes the connection. Raises RuntimeApiError."""
    losses = 0
    while True:
        try:
            async with connect() as connection:
                return await question(connection)
        except LostConnectionError:
            losses += 1
            if losses > _MOST_LOSSES:
                raise


async def send(connect: Connect, changes: Changes, seconds: float) -> None:
    """Send the commands of the plan, which take `seconds` by an estimate. Raises RuntimeApiError.

    `connect` may return a connection on which the worker of the plan has answered before.
    """
    early, late = changes.plan.phases
    of_one = seconds / max(len(changes.plan.steps), 1)
    has_contents = bool(changes.certificates or changes.plan.maps)
    losses, lacks_contents, resumes = 0, True, False
    while True:
        try:
            async with connect() as connection:
                worker = None if connection.answered_by == changes.worker else changes.worker
                if worker is not None and (resumes or has_contents):
                    await connection.ask_worker(worker, ())  # otherwise with the first commands, in one exchange
                    worker = None
                present = await states_of(connection, {step.key[0] for step in early}) if resumes else {}
                rest = [_rest_of(step, changes, present) for step in early]
                await connection.execute(rest, of_one * len(early), worker)
                worker = None if early else worker
                early = ()
                if lacks_contents:
                    await set_certificates(connection, changes.certificates)
                    for path in changes.plan.maps:
                        await replace_map(connection, path)
                    lacks_contents = False
                await connection.execute([_rest_of(step, changes) for step in late], of_one * len(late), worker)
                return
        except LostConnectionError as error:
            losses = 1 if error.done else losses + 1
            if losses > _MOST_LOSSES:
                raise
            resumes = True
            if early:
                early = early[error.done :]
            elif not lacks_contents:
                late = late[error.done :]


async def read_back(connect: Connect, changes: Changes) -> Mapping[ServerKey, LiveServer]:
    """Return the servers of the changed sections. Raises RuntimeApiError if another worker serves meanwhile."""

    async def read(connection: Connection) -> Mapping[ServerKey, LiveServer]:
        questions = [f"show servers state {name}" for name in changes.plan.sections]
        return _parsed(await connection.ask_worker(changes.worker, questions))

    await asyncio.sleep(_TRAFFIC_SECONDS)
    # A new connection reaches the worker that serves now, if a reload by another program came in between.
    return await once_moved(
        lambda: ask(connect, read), changes.worker.version, lambda live: _are_moved(changes.plan.steps, live)
    )


async def once_moved(
    look: Callable[[], Awaitable[_Answer]], version: tuple[int, ...], are_moved: Callable[[_Answer], bool]
) -> _Answer:
    """Return what `look` finds once the new addresses are there, or at the latest when HAProxy has had time enough.

    Versions that change addresses before their answer are looked at once. Raises what `look` raises.
    """
    found = await look()
    deadline = time.monotonic() + _ADDRESS_SECONDS
    while moves_late(version) and not are_moved(found) and time.monotonic() <= deadline:
        await asyncio.sleep(_ADDRESS_POLL_SECONDS)
        found = await look()
    return found


def expect_outcome(
    plan: Plan, live: Mapping[ServerKey, LiveServer], waiting: Collection[ServerKey]
) -> list[Comparison]:
    """Compare the changed sections. Raises RuntimeApiError if a server that the plan changes is not as wanted."""
    steps = {step.key: step for step in plan.steps}
    named = by_section(live)
    compared = [compare(plan.targets[name], named.get(name, {}), waiting) for name in plan.sections]
    for found in compared:
        for drift in found.drifts:
            if drift.key in steps:
                raise RuntimeApiError(f"the servers are not as wanted: {drift}")
        for key, change in found.operator.items():
            step = steps.get(key)
            if (isinstance(step, Add | Revive | SetWeight) and change.weight is not None) or (
                isinstance(step, Add | Revive) and change.maintenance
            ):
                raise RuntimeApiError(f"the servers are not as wanted: {'/'.join(key)} is {change}")
    return compared


async def states_of(connection: Connection, sections: Iterable[str]) -> dict[ServerKey, LiveServer]:
    """Return the servers of these sections. Raises RuntimeApiError."""
    return _parsed(await connection.ask_all([f"show servers state {name}" for name in sections]))


async def states(connection: Connection) -> dict[ServerKey, LiveServer]:
    """Return the servers of all sections. Raises RuntimeApiError."""
    return _parsed([await connection.ask("show servers state")])


def _parsed(answers: Iterable[str]) -> dict[ServerKey, LiveServer]:
    try:
        return {key: row for answer in answers for key, row in parse_states(answer).items()}
    except ValueError as error:
        raise RuntimeApiError(str(error)) from None


def _rest_of(step: Step, changes: Changes, present: Collection[ServerKey] = ()) -> Sequence[Command]:
    """Return the commands of a step that are left if the servers `present` exist. Each may be obeyed more than once."""
    found = commands(step, changes.worker.version, up=step.key in changes.up)
    return found[1:] if isinstance(step, Add) and step.key in present else found


def _are_moved(steps: Iterable[Step], live: Mapping[ServerKey, LiveServer]) -> bool:
    """Report whether all moved servers are at their new addresses. A server that is missing is no matter of time."""
    moved = ((step.server, live.get(step.key)) for step in steps if isinstance(step, Move | Revive))
    return all(row is None or is_at(server, row) for server, row in moved)
