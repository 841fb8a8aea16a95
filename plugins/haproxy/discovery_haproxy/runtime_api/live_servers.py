"""The servers, certificates and maps of the running HAProxy: planned, changed and read back.

All commands go through the stats socket of HAProxy's worker.
"""

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from structlog.typing import FilteringBoundLogger

from discovery.toolkit import cancel_and_wait
from discovery_haproxy.runtime_api.certificates import NewCertificate, UnfitError
from discovery_haproxy.runtime_api.checks import Connect, HAProxyCheck, Request
from discovery_haproxy.runtime_api.commands import Command, commands, delete
from discovery_haproxy.runtime_api.connection import Connection, RuntimeApiError, Worker, connect
from discovery_haproxy.runtime_api.drift import (
    Comparison,
    by_section,
    compare,
    compare_all,
    removed_servers,
    with_sections,
)
from discovery_haproxy.runtime_api.live_files import (
    known_contents,
    read_certificate_files,
    replace_map,
    set_certificates,
)
from discovery_haproxy.runtime_api.planner import (
    Add,
    Move,
    Plan,
    Reload,
    Remove,
    Revive,
    ServerKey,
    SetWeight,
    make_plan,
)
from discovery_haproxy.runtime_api.reachability import try_targets
from discovery_haproxy.runtime_api.read_back import LiveServer, parse_states
from discovery_haproxy.runtime_api.reports import DriftReports
from discovery_haproxy.text.configuration import Configuration
from discovery_haproxy.text.generation import reload_part
from discovery_haproxy.text.server_line import Server

_MOST_WAITING = 1000
"""Removed servers with open connections above which a reload, after which an old worker has them, is better."""
_FIRST_DELAY = 0.1
"""Seconds until the first attempt to delete removed servers: short, since most have no connection."""
_LAST_DELAY = 5.0
"""Seconds between later attempts. The delay doubles from the first to this."""


class Changes(NamedTuple):
    """A plan for this worker. `up` are the new or moved servers that may get traffic at once."""

    plan: Plan
    worker: Worker
    up: frozenset[ServerKey]
    certificates: tuple[NewCertificate, ...] = ()


class LiveServers:
    """The servers of the worker that listens on the stats socket. Belongs to one event loop."""

    def __init__(self, stats_socket: Path, lock: asyncio.Lock, log: FilteringBoundLogger) -> None:
        """Store the arguments. `lock` is held during a deployment, and for each attempt to delete servers."""
        self._stats_socket = stats_socket
        self._lock = lock
        self._log = log
        self.reports = DriftReports(log)
        """Drift, and changes of an operator."""
        self.known_worker: Worker | None = None
        """The worker that has the servers; None if a start or reload was the last change."""
        self.epoch = 0
        """Number of times that the wanted servers, or the worker, became others."""
        self._configuration: Configuration | None = None
        self._possible: tuple[Configuration, ...] = ()
        self._has_unknown_contents = False
        self._waiting: dict[ServerKey, Server | None] = {}
        self._undecided: set[ServerKey] = set()
        self._deleting: asyncio.Task[None] | None = None

    @property
    def configuration(self) -> Configuration | None:
        """Configuration that the worker serves; None if that is unknown."""
        return self._configuration

    @property
    def possible(self) -> tuple[Configuration, ...]:
        """Configurations between which the servers are, if `configuration` is None; empty if nothing is known."""
        return self._possible

    @property
    def waiting(self) -> tuple[ServerKey, ...]:
        """Removed servers that HAProxy has not deleted yet, since they have connections."""
        return tuple(self._waiting)

    @property
    def has_unknown_contents(self) -> bool:
        """Report whether HAProxy may have other contents of certificates or maps than the file that it serves."""
        return self._has_unknown_contents

    @property
    def undecided(self) -> frozenset[ServerKey]:
        """Servers that were added or moved as down, for HAProxy's check to decide."""
        return frozenset(self._undecided)

    def started(self, configuration: Configuration) -> None:
        """Note that the worker has been started, or replaced by a reload, with this configuration."""
        self.epoch += 1
        self.known_worker = None
        self._configuration, self._possible = configuration, ()
        self._has_unknown_contents = False
        self._waiting.clear()
        self._undecided.clear()

    def forget(self) -> None:
        """Note that the servers of the worker are unknown, so that the next change is a reload."""
        self.epoch += 1
        if self._configuration is not None:
            self._possible = (self._configuration,)
            self._configuration = None

    async def adopt(self, candidates: Mapping[str, tuple[Configuration, Configuration | None]]) -> str | None:
        """Find the configuration that the worker serves, and return its name among the candidates; None for none.

        Each candidate is a configuration and the configuration before. If the servers are those of none, as when the
        earlier daemon died amid a change, the change to the first candidate is completed.
        """
        if not candidates:
            return None
        try:
            async with connect(self._stats_socket) as connection:
                worker = await connection.worker()
                live = by_section(await _states(connection))
                contents = {
                    name: await known_contents(
                        connection,
                        configuration.contents,
                        [other.contents for of, (other, _) in candidates.items() if of != name],
                    )
                    for name, (configuration, _) in candidates.items()
                }
            foreign = self.known_worker is not None and self.known_worker.pid != worker.pid
            compared = {
                name: compare_all(each, before, live, new_worker=foreign) for name, (each, before) in candidates.items()
            }
            right = (name for name, found in compared.items() if not any(each.drifts for each in found))
            name = next(right, next(iter(candidates)))
            configuration, earlier = candidates[name]
            self.started(replace(configuration, contents=contents[name]))
            self.known_worker = worker
            self._has_unknown_contents = contents[name] != configuration.contents
            self._waiting = removed_servers(configuration, earlier, live)
            await self.put_right(compared[name], "the change of an earlier daemon is completed")
        except RuntimeApiError as error:
            self._log.debug("the servers are those of no configuration", reason=str(error))
            self._configuration = None
            self._possible = tuple(configuration for configuration, _ in candidates.values())
            return None
        self._delete_later()
        return name

    def suffice_for(self, wanted: Configuration, version: tuple[int, ...]) -> bool:
        """Report whether commands suffice for the change to `wanted`, and HAProxy's answers to them as its check.

        A removed server may be named in other lines, where HAProxy checks the name only when it reads the file.
        """
        if self._configuration is None:
            return False
        plan = make_plan(self._configuration, wanted, version, self._waiting)
        if isinstance(plan, Reload):
            return False
        removes = any(isinstance(step, Remove) for step in plan.steps)
        return not (removes and any(section.refers_to_servers for section in wanted.sections))

    async def prepare(self, wanted: Configuration, live_generation: str) -> Changes | Reload:
        """Plan the change to `wanted`, and connect to the targets of new and moved servers.

        `live_generation` is the generation that the worker serves.
        """
        running = self._configuration
        if running is None:
            return Reload("the servers of the running HAProxy are unknown")
        try:
            async with connect(self._stats_socket) as connection:
                worker = await connection.worker()
                if reload_part(worker.description) != reload_part(live_generation):
                    return Reload("HAProxy was reloaded by another program")
                plan = make_plan(running, wanted, worker.version, self._waiting)
                if isinstance(plan, Reload):
                    return plan
                live = {key: row for name in plan.sections for key, row in (await _states(connection, name)).items()}
        except RuntimeApiError as error:
            return Reload(str(error))
        self.known_worker = self.known_worker or worker  # another worker was started by another program
        named = by_section(live)
        found = [compare(running.backends[name], named.get(name, {}), self._waiting) for name in plan.sections]
        if drifts := [drift for each in found for drift in each.drifts]:
            self.reports.drifted(drifts, "put right by the next change")
            plan = make_plan(with_sections(running, found), wanted, worker.version, self._waiting)
            if isinstance(plan, Reload):
                return plan
        removals = sum(isinstance(step, Remove) for step in plan.steps)
        if len(self._waiting) + removals > _MOST_WAITING:
            return Reload(f"more than {_MOST_WAITING} removed servers have connections")
        try:
            certificates = [await asyncio.to_thread(read_certificate_files, path) for path in plan.certificates]
        except UnfitError as error:
            return Reload(f"a new certificate: {error}")
        changes = await self._with_tests(plan, worker, live)
        return changes._replace(certificates=tuple(certificates)) if isinstance(changes, Changes) else changes

    async def execute(self, changes: Changes) -> None:
        """Execute the plan, and read everything back. Raises RuntimeApiError if the outcome is not the wanted one."""
        plan = changes.plan
        self.epoch += 1
        if plan.is_empty:
            self._configuration = plan.wanted
            return
        self._possible = tuple(filter(None, (self._configuration, plan.wanted)))
        self._configuration = None  # unknown until everything is read back
        early, late = (
            [commands(step, changes.worker.version, up=step.key in changes.up) for step in phase]
            for phase in plan.phases
        )
        async with connect(self._stats_socket) as connection:
            await _expect(connection, changes.worker)
            await connection.execute(early)
            await set_certificates(connection, changes.certificates)
            for path in plan.maps:
                await replace_map(connection, path)
            await connection.execute(late)
        # A new connection reaches the worker that serves now, if a reload by another program came in between.
        async with connect(self._stats_socket) as connection:
            await _expect(connection, changes.worker)
            live = {key: row for name in plan.sections for key, row in (await _states(connection, name)).items()}
        self._note(changes)
        _expect_outcome(plan, live, self._waiting)
        self._configuration, self._possible = plan.wanted, ()
        self._has_unknown_contents = False
        self._delete_later()

    async def put_right(self, found: Iterable[Comparison], remedy: str = "put right at run time") -> None:
        """Put the drift right through the runtime API, while the lock is held. Raises RuntimeApiError if that fails.

        If then the servers of the worker are unknown, only a reload puts the drift right.
        """
        found = [each for each in found if each.drifts]
        running, worker = self._configuration, self.known_worker
        if not found or running is None or worker is None:
            return
        names = [each.actual.name for each in found]
        leftover = {key: server for each in found for key, server in each.leftover.items()}
        drifts = [drift for each in found for drift in each.drifts]
        actual = Configuration(tuple(each.actual for each in found))
        parts = Configuration(tuple(running.backends[name] for name in names))
        plan = make_plan(actual, parts, worker.version, {**self._waiting, **leftover})
        if isinstance(plan, Plan):
            async with connect(self._stats_socket) as connection:
                live = {key: row for name in names for key, row in (await _states(connection, name)).items()}
            changes = await self._with_tests(replace(plan, wanted=running), worker, live)
            if isinstance(changes, Changes):
                self.reports.drifted(drifts, remedy)
                unknown = self._has_unknown_contents
                await self.execute(changes)
                self._has_unknown_contents = unknown
                return
            plan = changes
        self.reports.drifted(drifts, f"put right by a reload: {plan.reason}")
        self.forget()
        raise RuntimeApiError(plan.reason)

    async def worker(self) -> Worker:
        """Return the worker that answers. Raises RuntimeApiError."""
        async with connect(self._stats_socket) as connection:
            return await connection.worker()

    async def read(self, names: Sequence[str]) -> list[str]:
        """Return the answers to `show servers state` for these sections. Raises RuntimeApiError."""
        async with connect(self._stats_socket) as connection:
            return await connection.ask_all([f"show servers state {name}" for name in names])

    async def send(self, groups: Sequence[Sequence[Command]]) -> None:
        """Execute commands that leave the wanted servers as they are. Raises RuntimeApiError."""
        if groups:
            async with connect(self._stats_socket) as connection:
                await connection.execute(groups)

    async def stop(self) -> None:
        """End the deletion of removed servers. HAProxy keeps the servers that are left."""
        if self._deleting is not None:
            await cancel_and_wait(self._deleting)

    def _note(self, changes: Changes) -> None:
        for step in changes.plan.steps:
            if isinstance(step, Remove):
                self._waiting[step.key] = step.server
                self._undecided.discard(step.key)
                continue
            self._waiting.pop(step.key, None)
            if isinstance(step, Add | Move | Revive) and isinstance(step.check, HAProxyCheck):
                self._undecided.add(step.key)

    async def _with_tests(self, plan: Plan, worker: Worker, live: Mapping[ServerKey, LiveServer]) -> Changes | Reload:
        """Decide which new and moved servers are up. Reload if a section would have to wait for HAProxy's check."""
        arriving = {step.key: step.check for step in plan.steps if isinstance(step, Add | Move | Revive)}
        passed, late = await try_targets(check for check in arriving.values() if isinstance(check, Connect | Request))
        up = frozenset(key for key, check in arriving.items() if check is None or check in passed)
        for name in plan.sections:
            untested = [
                key
                for key, check in arriving.items()
                if key[0] == name and (isinstance(check, HAProxyCheck) or check in late)
            ]
            if untested and not any(_serving(plan.wanted, name, live, arriving.keys() - up)):
                return Reload(f"no other server of {name} serves until HAProxy has checked {untested[0][1]}")
        return Changes(plan, worker, up)

    def _delete_later(self) -> None:
        """Start the task that deletes the removed servers; replace a running task, whose delays have grown."""
        if self._deleting is not None:
            self._deleting.cancel()
            self._deleting = None
        if self._waiting:
            self._deleting = asyncio.create_task(self._delete())

    async def _delete(self) -> None:
        delay = _FIRST_DELAY
        while self._waiting:
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LAST_DELAY)
            async with self._lock:
                # A worker that does not answer is asked again.
                with suppress(RuntimeApiError):
                    async with connect(self._stats_socket) as connection:
                        await connection.worker()
                        for key in list(self._waiting):
                            answer = await connection.ask(delete(key))
                            if "Server deleted" in answer or "No such server" in answer:
                                self._waiting.pop(key, None)


def _serving(
    wanted: Configuration, section: str, live: Mapping[ServerKey, LiveServer], down: set[ServerKey]
) -> Iterator[ServerKey]:
    """Yield the servers of the section that get traffic: up, and not draining."""
    for name in wanted.backends[section].servers:
        key, server, row = (section, name), wanted.backends[section].server(name), live.get((section, name))
        is_up = row is None or (row.up and not row.removed)
        if key not in down and is_up and (server is None or server.weight > 0):
            yield key


async def _expect(connection: Connection, worker: Worker) -> None:
    """Raise RuntimeApiError if another worker answers."""
    if (found := await connection.worker()) != worker:
        raise RuntimeApiError(f"the worker {worker.pid} was replaced by {found.pid}")


def _expect_outcome(plan: Plan, live: Mapping[ServerKey, LiveServer], waiting: Collection[ServerKey]) -> None:
    """Raise RuntimeApiError if a server that the plan changes is not as wanted. The others are verified later."""
    steps = {step.key: step for step in plan.steps}
    named = by_section(live)
    for name in plan.sections:
        found = compare(plan.wanted.backends[name], named.get(name, {}), waiting)
        for drift in found.drifts:
            if drift.key in steps:
                raise RuntimeApiError(f"the servers are not as wanted: {drift}")
        for key, change in found.operator.items():
            step = steps.get(key)
            if (isinstance(step, Add | Revive | SetWeight) and change.weight is not None) or (
                isinstance(step, Add | Revive) and change.maintenance
            ):
                raise RuntimeApiError(f"the servers are not as wanted: {'/'.join(key)} is {change}")


async def _states(connection: Connection, section: str = "") -> dict[ServerKey, LiveServer]:
    answer = await connection.ask(f"show servers state {section}".rstrip())
    try:
        return parse_states(answer)
    except ValueError as error:
        raise RuntimeApiError(str(error)) from None
