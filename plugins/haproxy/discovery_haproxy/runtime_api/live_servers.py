"""The servers, certificates and maps of the running HAProxy: planned, changed and read back.

All commands go through the stats socket of HAProxy's worker.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from discovery_haproxy.limits import LIMITS, Limits
from discovery_haproxy.runtime_api.certificates import UnfitError
from discovery_haproxy.runtime_api.checks import Connect, HAProxyCheck, Request
from discovery_haproxy.runtime_api.commands import Command
from discovery_haproxy.runtime_api.connection import Connection, RuntimeApiError, Worker, connect, open_connection
from discovery_haproxy.runtime_api.costs import FIRST_COSTS
from discovery_haproxy.runtime_api.deletion import Deletion, too_many
from discovery_haproxy.runtime_api.drift import (
    Comparison,
    by_section,
    compare_all,
    removed_servers,
)
from discovery_haproxy.runtime_api.execution import Changes, ask, expect_outcome, read_back, send, states, states_of
from discovery_haproxy.runtime_api.live_files import known_contents, read_certificate_files
from discovery_haproxy.runtime_api.planner import Add, Move, Plan, Reload, Remove, Revive, ServerKey, make_plan
from discovery_haproxy.runtime_api.reachability import try_targets
from discovery_haproxy.runtime_api.read_back import LiveServer
from discovery_haproxy.runtime_api.reports import DriftReports
from discovery_haproxy.runtime_api.standing import StandingConnection
from discovery_haproxy.text.configuration import Configuration, Section
from discovery_haproxy.text.generation import DESCRIPTION, Marker, reload_part
from discovery_haproxy.text.server_line import HOLDING_SERVER, Server


class LiveServers:
    """The servers of the worker that listens on the stats socket. Belongs to one event loop."""

    def __init__(
        self,
        stats_socket: Path | None,
        lock: asyncio.Lock,
        log: FilteringBoundLogger,
        marker: Marker = DESCRIPTION,
        limits: Limits = LIMITS,
    ) -> None:
        """Store the arguments. `lock` is held during a deployment, and for each attempt to delete servers.

        Without a `stats_socket` no servers are known, and every change is a reload. `marker` is the line of the
        configuration that names the generation.
        """
        self._stats_socket = stats_socket
        self._marker = marker
        self._limits = limits
        self._lock = lock
        self._log = log
        self.reports = DriftReports(log)
        """Drift, and changes of an operator."""
        self.known_worker: Worker | None = None
        """The worker that has the servers; None if a start or reload was the last change."""
        self.verify_seconds = 0.0
        """Seconds for which the last change waited until the servers were read back, and were right."""
        self.epoch = 0
        """Number of times that the wanted servers, or the worker, became others."""
        self.initially_down: frozenset[str] = frozenset()
        """Names of the sections whose servers get no traffic before a check has passed: none is loaded as up."""
        self._configuration: Configuration | None = None
        self._possible: tuple[Configuration, ...] = ()
        self._has_unknown_contents = False
        self._waiting: dict[ServerKey, Server | None] = {}
        self._undecided: set[ServerKey] = set()
        self._deletion = Deletion(self._connect, lock, lambda: self._waiting, log, limits.deletion)
        self._standing = StandingConnection(self._open)
        self._costs = FIRST_COSTS
        self._planned: tuple[Configuration, Configuration, object, Plan | Reload] | None = None
        """The last plan, and what it depends on."""

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
        self.disconnect()
        self.known_worker = None
        self._configuration, self._possible = configuration, ()
        self._has_unknown_contents = False
        self._waiting.clear()
        self._undecided.clear()

    def learn_reload(self, configuration: Configuration, seconds: float) -> None:
        """Note how long a reload has taken, for the choice between the ways of later changes."""
        self._costs = self._costs.after_reload((len(each.servers) for each in configuration.sections), seconds)

    def forget(self, *others: Configuration) -> None:
        """Note that the servers of the worker are unknown, so that the next change is a reload.

        `others` are configurations that the worker may serve in place of the present one.
        """
        self.epoch += 1
        self.disconnect()
        known = self._possible if self._configuration is None else (self._configuration,)
        self._configuration = None
        self._possible = (*known, *(each for each in others if each not in known)) if known else ()

    async def adopt(self, candidates: Mapping[str, tuple[Configuration, Configuration | None]]) -> str | None:
        """Find the configuration that the worker serves, and return its name; None if it is no candidate.

        Each candidate is a configuration and the configuration before. If the servers match no candidate, as when the
        earlier daemon died during a change, the change to the first candidate is completed.
        """
        if not candidates:
            self.forget()  # the worker was started with another configuration
            return None
        try:
            async with self._connect() as connection:
                worker = await connection.worker()
                live = by_section(await states(connection))
                contents = {
                    name: await known_contents(
                        connection,
                        configuration.contents,
                        [other.contents for of, (other, _) in candidates.items() if of != name],
                    )
                    for name, (configuration, _) in candidates.items()
                }
            foreign = self.known_worker is not None and self.known_worker != worker
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
        self._deletion.begin()
        return name

    def suffice_for(self, wanted: Configuration, version: tuple[int, ...]) -> bool:
        """Report whether commands suffice for the change to `wanted`, and HAProxy's answers to them as its check.

        A removed server may be named in other lines, where HAProxy checks the name only when it reads the file.
        """
        if self._configuration is None or self._stats_socket is None:
            return False
        plan = self._plan(self._configuration, wanted, version)
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
            # The commands ask which worker answers, and what another program has changed is found afterwards.
            worker = self.known_worker or await self._find_worker(live_generation)
            plan = self._plan(running, wanted, worker.version)
            if isinstance(plan, Reload):
                return plan
            removals = sum(isinstance(step, Remove) for step in plan.steps)
            if reason := too_many(len(self._waiting) + removals, worker.version, self._limits.removed_servers):
                return Reload(reason)
            changes = await self._with_tests(plan, worker)
            if plan.certificates and isinstance(changes, Changes):
                certificates = [await asyncio.to_thread(read_certificate_files, path) for path in plan.certificates]
                return changes._replace(certificates=tuple(certificates))
        except UnfitError as error:
            return Reload(f"a new certificate: {error}")
        except RuntimeApiError as error:
            return Reload(str(error))
        return changes

    async def execute(self, changes: Changes) -> None:
        """Execute the plan, and read everything back. Raises RuntimeApiError if the outcome is not the wanted one."""
        plan = changes.plan
        self.epoch += 1
        if plan.is_empty:
            self._configuration = plan.wanted
            return
        self._possible = tuple(filter(None, (self._configuration, plan.wanted)))
        self._configuration = None  # unknown until everything is read back
        started = time.monotonic()
        await send(lambda: self._standing.to(changes.worker), changes, plan.seconds * self._costs.commands)
        if not (plan.certificates or plan.maps):
            self._costs = self._costs.after_commands(plan.seconds, time.monotonic() - started)
        sent = time.monotonic()
        live = await read_back(self._connect, changes)
        self._note(changes)
        compared = expect_outcome(plan, live, self._waiting)
        self._configuration, self._possible = plan.wanted, ()
        self._has_unknown_contents = False
        await self.put_right(compared, "put right after the change")
        self.verify_seconds = time.monotonic() - sent
        self._deletion.begin([step.key for step in plan.steps if isinstance(step, Remove)])

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
            changes = await self._with_tests(replace(plan, wanted=running), worker)
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
        """Return the worker that answers now. The connection is kept for the next change. Raises RuntimeApiError.

        If none answers, the connection that is kept is closed: the worker at its other end may be told to stop, and
        does not end before its connections.
        """
        epoch = self.epoch
        try:
            connection = await self._open()
            try:
                worker = await connection.worker()
            except BaseException:  # also a cancellation: an answer may be left unread
                connection.close()
                raise
        except RuntimeApiError:
            self.disconnect()
            raise
        if self._lock.locked() or self.epoch != epoch:  # a reload may be under way
            connection.close()
        else:
            self._standing.keep(connection)
        return worker

    def disconnect(self) -> None:
        """Close the connection that is kept for the next change: before a reload, so that no old worker outlives it."""
        self._standing.close()

    async def read(self, names: Sequence[str]) -> list[str]:
        """Return the answers to `show servers state` for these sections.

        Raises RuntimeApiError, also if another worker than the known worker answers: that worker's servers lack what an
        operator has changed in the worker before.
        """
        commands = [f"show servers state {name}" for name in names]
        async with self._connect() as connection:
            if self.known_worker is None:
                return await connection.ask_all(commands)
            return await connection.ask_worker(self.known_worker, commands)

    async def send(self, groups: Sequence[Sequence[Command]]) -> None:
        """Execute commands that leave the wanted servers as they are. Raises RuntimeApiError."""
        if groups:
            async with self._connect() as connection:
                await connection.execute(groups)

    async def stop(self) -> None:
        """End the deletion of removed servers, and close the connection. HAProxy keeps the servers that are left."""
        self.disconnect()
        await self._deletion.stop()

    def _plan(self, running: Configuration, wanted: Configuration, version: tuple[int, ...]) -> Plan | Reload:
        """Plan a change, once for the steps of a deployment."""
        state = version, tuple(self._waiting), self._costs
        before = self._planned
        if before is not None and before[0] is running and before[1] is wanted and before[2] == state:
            return before[3]
        plan = make_plan(running, wanted, version, self._waiting, self._costs)
        self._planned = running, wanted, state, plan
        return plan

    async def _find_worker(self, live_generation: str) -> Worker:
        """Return the worker, which serves this generation. Raises RuntimeApiError if the worker serves another."""
        worker = await ask(self._connect, Connection.worker)
        if reload_part(worker.generation) != reload_part(live_generation):
            raise RuntimeApiError("HAProxy was reloaded by another program")
        self.known_worker = worker
        return worker

    def _connect(self) -> AbstractAsyncContextManager[Connection]:
        return connect(self._place, self._marker, self._limits)

    async def _open(self) -> Connection:
        return await open_connection(self._place, self._marker, self._limits)

    @property
    def _place(self) -> Path:
        if self._stats_socket is None:
            raise RuntimeApiError("no stats socket is configured")
        return self._stats_socket

    def _note(self, changes: Changes) -> None:
        for step in changes.plan.steps:
            if isinstance(step, Remove):
                self._waiting[step.key] = step.server
                self._undecided.discard(step.key)
                continue
            self._waiting.pop(step.key, None)
            if isinstance(step, Add | Move | Revive) and isinstance(step.check, HAProxyCheck):
                self._undecided.add(step.key)

    async def _with_tests(self, plan: Plan, worker: Worker) -> Changes | Reload:
        """Decide which new and moved servers are up. Reload if a section would have to wait for HAProxy's check.

        Raises RuntimeApiError.
        """
        arriving = {step.key: step.check for step in plan.steps if isinstance(step, Add | Move | Revive)}
        targets = (check for check in arriving.values() if isinstance(check, Connect | Request))
        passed, late = await try_targets(targets, self._limits)
        up = frozenset(key for key, check in arriving.items() if check is None or check in passed)
        untested: dict[str, str] = {}
        for (section, name), check in arriving.items():
            # A section whose servers are down at first would not serve after a reload either.
            if (isinstance(check, HAProxyCheck) or check in late) and section not in self.initially_down:
                untested.setdefault(section, name)
        live: Mapping[ServerKey, LiveServer] = {}
        if untested:
            live = await ask(self._connect, lambda connection: states_of(connection, untested))
        for section, name in untested.items():
            if not any(_serving(plan.targets[section], live, arriving.keys() - up)):
                return Reload(f"no other server of {section} serves until HAProxy has checked {name}")
        return Changes(plan, worker, up)


def _serving(section: Section, live: Mapping[ServerKey, LiveServer], down: set[ServerKey]) -> Iterator[ServerKey]:
    """Yield the servers of the section that get traffic: up, and not draining."""
    for name in section.servers.keys() - {HOLDING_SERVER}:
        key, server, row = (section.name, name), section.server(name), live.get((section.name, name))
        is_up = row is None or (row.up and not row.removed)
        if key not in down and is_up and (server is None or server.weight > 0):
            yield key
