"""Verification: the live servers of a HAProxy are compared with the wanted servers again and again, and put right.

Every second the worker is asked for its pid, so that a reload by another program is noticed. Once per interval, and at
once after a reload, the servers of all sections are read back, page by page, while changes go on.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from structlog.typing import FilteringBoundLogger

from discovery.toolkit import cancel_and_wait
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.runtime_api.commands import settings, undo
from discovery_haproxy.runtime_api.connection import RuntimeApiError, Worker
from discovery_haproxy.runtime_api.drift import NO_CHANGE, Comparison, Drift, OperatorChange, by_section, compare
from discovery_haproxy.runtime_api.live_servers import LiveServers
from discovery_haproxy.runtime_api.planner import ServerKey
from discovery_haproxy.runtime_api.read_back import digest, parse_states
from discovery_haproxy.text.configuration import Configuration, Section
from discovery_haproxy.text.generation import reload_part

_PAGE_SERVERS = 500
"""Servers of a page: this process needs about a millisecond for a page, in which no change can begin."""
_PAGE_SECTIONS = 50
"""Sections of a page, if the sections have few servers."""


KeepStates = Callable[[str, Mapping[ServerKey, int | None], Collection[ServerKey]], None]
"""Keep the states of servers for a new worker.

The arguments are answers to `show servers state`, the servers, with their wanted weights as far as known, and servers
whose states are to be forgotten.
"""


class _Seen(NamedTuple):
    """A section without drift, the digest of the answer in which the section was seen, and an operator's changes."""

    section: Section
    digest: int
    operator: Mapping[ServerKey, OperatorChange]
    drifts: tuple[Drift, ...] = ()


class Verifier:
    """Verifies the servers of a HAProxy. Belongs to one event loop."""

    def __init__(
        self,
        servers: LiveServers,
        lock: asyncio.Lock,
        live_generation: Callable[[], str | None],
        request_reload: Callable[[str], None],
        keep_states: KeepStates | None,
        log: FilteringBoundLogger,
        look: float,
    ) -> None:
        """Store the arguments. `look` is the time in seconds between two questions for the worker's pid.

        `lock` is held during a deployment, and during each repair. `live_generation` returns the generation that
        HAProxy serves, if that is known. `request_reload` asks for a reload, for a reason. `keep_states` keeps
        the states of the servers that an operator has changed; None if a new worker does not load these states.
        """
        self._servers = servers
        self._lock = lock
        self._live_generation = live_generation
        self._request_reload = request_reload
        self._keep_states = keep_states
        self._kept = -1
        """Epoch in which states were last kept."""
        self._kept_servers: frozenset[ServerKey] = frozenset()
        self._log = log
        self._look_seconds = look
        self._interval = 0.0
        """Seconds between two comparisons."""
        self._keeps = True
        """False if changes of an operator are undone."""
        self._worker: Worker | None = None
        self._foreign = False
        """True until the servers of a worker that another program has started are verified."""
        self._restores = False
        """True until the changes that an operator made in the worker before are made in the present worker."""
        self._seen: dict[str, _Seen] = {}
        self._parsed: tuple[Configuration | None, Mapping[str, Section]] = None, {}
        self._weights: dict[ServerKey, int | None] = {}
        """Wanted weights of the servers that an operator has changed: another wanted weight ends a manual weight."""
        self._reloaded_for: frozenset[str] = frozenset()
        """Drift for which the last repair was a reload."""
        self._due = 0.0
        self._task: asyncio.Task[None] | None = None

    def follow(self, config: HAProxyConfig) -> None:
        """Verify as the options say from now on."""
        self._interval, self._keeps = config.verify_interval, config.operator_changes == "keep"
        self._due = min(self._due, time.monotonic() + self._interval)

    def start(self) -> None:
        """Begin the verification on the running event loop."""
        self._due = time.monotonic() + self._interval
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End the verification."""
        if self._task is not None:
            await cancel_and_wait(self._task)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._look_seconds)
            try:
                await self._look()
            except RuntimeApiError as error:
                # As during a reload or a restart. The health reports a HAProxy that does not answer.
                self._log.debug("the servers cannot be verified now", reason=str(error))

    async def _look(self) -> None:
        """Verify all servers if the worker is another than before or the interval is over. Raises RuntimeApiError."""
        servers = self._servers
        if self._lock.locked() or servers.configuration is None:
            return
        epoch = servers.epoch
        worker = await servers.worker()
        if self._lock.locked() or servers.epoch != epoch:
            return  # a deployment replaces the worker
        foreign = servers.known_worker is not None and servers.known_worker != worker
        if foreign:
            self._log.warning("HAProxy was reloaded or restarted by another program", worker=worker.pid)
        self._check_file(worker)
        if worker != self._worker:
            if self._worker is not None:  # a first start needs no verification at once
                self._due = 0.0
            self._foreign, self._restores = foreign, self._keep_states is None and bool(servers.reports.operator)
        self._worker = servers.known_worker = worker
        if self._foreign or self._restores or time.monotonic() >= self._due:
            self._due = time.monotonic() + self._interval
            await self._verify()
            self._foreign = self._restores = False
        elif self._kept != servers.epoch:  # a change forgets the states of its servers
            await self._keep(self._kept_servers)

    def _check_file(self, worker: Worker) -> None:
        """Request a reload, and raise RuntimeApiError, if the worker has started with another configuration."""
        live = self._live_generation()
        if live is not None and reload_part(worker.generation) != reload_part(live):
            self._servers.forget()
            reason = "another program has reloaded HAProxy with another configuration"
            self._log.warning(reason, worker=worker.pid)
            self._request_reload(reason)
            raise RuntimeApiError(reason)

    async def _verify(self) -> None:
        operator: dict[ServerKey, OperatorChange] = {}
        suspects: set[str] = set()
        for names in _pages(self._backends):
            started = time.monotonic()
            for name, found in (await self._read(names)).items():
                operator |= found.operator
                if found.drifts or (found.operator and not self._keeps):
                    suspects.add(name)
            if not self._foreign:  # otherwise wrong servers may be serving
                await asyncio.sleep(time.monotonic() - started)  # HAProxy has half of the time for requests alone
        lost = self._lost(operator) if self._restores and self._keeps else {}
        suspects |= {section for section, _ in lost}
        if suspects:
            async with self._lock:
                await self._put_right(sorted(suspects), operator, lost)
        else:
            self._reloaded_for = frozenset()
            self._servers.reports.remains(frozenset())
        await self._note(operator)

    async def _read(self, names: Sequence[str]) -> dict[str, Comparison | _Seen]:
        """Read sections back and compare them, between two changes."""
        while True:
            async with self._lock:
                epoch = self._servers.epoch
            answers = await self._servers.read(names)
            if self._servers.epoch == epoch and not self._lock.locked():
                return self._compare(names, answers)

    def _compare(self, names: Sequence[str], answers: Sequence[str]) -> dict[str, Comparison | _Seen]:
        """Compare sections with answers. What was seen before in the same form is not compared again."""
        backends = self._backends
        found: dict[str, Comparison | _Seen] = {}
        for name, answer in zip(names, answers, strict=True):
            section, seen, now = backends.get(name), self._seen.get(name), digest(answer)
            if section is None:
                continue
            if seen is not None and seen.digest == now and seen.section == section and not self._foreign:
                found[name] = seen
                continue
            try:
                live = by_section(parse_states(answer)).get(name, {})
            except ValueError as error:
                raise RuntimeApiError(str(error)) from None
            comparison = compare(section, live, self._servers.waiting, new_worker=self._foreign)
            if not comparison.drifts:
                self._seen[name] = _Seen(section, now, comparison.operator)
            found[name] = comparison
        return found

    async def _put_right(
        self,
        names: Sequence[str],
        operator: dict[ServerKey, OperatorChange],
        lost: Mapping[ServerKey, OperatorChange],
    ) -> None:
        """Put sections right, and note in `operator` what remains of an operator. The lock is held."""
        compared = self._compare(names, await self._servers.read(names))
        comparisons = [each for each in compared.values() if isinstance(each, Comparison)]
        drifts = frozenset(str(drift) for each in comparisons for drift in each.drifts)
        if drifts and drifts == self._reloaded_for:
            self._servers.reports.remains(drifts)
            return
        try:
            await self._servers.put_right(comparisons)
        except RuntimeApiError as error:
            if self._servers.configuration is None:
                self._reloaded_for = drifts
                self._request_reload(f"{min(drifts)}: {error}")
            raise
        self._reloaded_for = frozenset()
        if self._keeps:
            await self._servers.send([settings(key, change) for key, change in lost.items()])
            for key, change in lost.items():
                operator[key] = change.joined(operator.get(key, NO_CHANGE))
        else:
            await self._undo({key: change for each in compared.values() for key, change in each.operator.items()})
            operator.clear()

    async def _undo(self, changes: Mapping[ServerKey, OperatorChange]) -> None:
        wanted = {key: self._wanted_weight(key) for key in changes}
        known = {key: change for key, change in changes.items() if wanted[key] is not None}
        await self._servers.send([undo(key, change, wanted[key] or 0) for key, change in known.items()])
        self._servers.reports.undone(known)

    def _lost(self, operator: Mapping[ServerKey, OperatorChange]) -> dict[ServerKey, OperatorChange]:
        """Return the changes that an operator made in the worker before, and that this worker does not have."""
        lost: dict[ServerKey, OperatorChange] = {}
        for key, before in self._servers.reports.operator.items():
            section = self._backends.get(key[0])
            if section is None or key[1] not in section.servers:
                continue
            if before.weight is not None and self._weights.get(key) != self._wanted_weight(key):
                before = before._replace(weight=None)  # noqa: PLW2901
            if (change := before.without(operator.get(key, NO_CHANGE))) != NO_CHANGE:
                lost[key] = change
        return lost

    async def _note(self, operator: Mapping[ServerKey, OperatorChange]) -> None:
        before = self._servers.reports.operator
        self._weights = {key: self._wanted_weight(key) for key in operator}
        self._servers.reports.operated(operator)
        if operator != before or self._kept != self._servers.epoch:
            await self._keep(frozenset(operator))

    async def _keep(self, servers: frozenset[ServerKey]) -> None:
        """Keep the states of these servers, which an operator has changed, and forget those that were kept before."""
        before = self._kept_servers
        if self._keep_states is None or not (servers or before):
            return
        async with self._lock:  # a change could come between the question and the file
            backends = self._backends
            servers = frozenset(key for key in servers if key[0] in backends and key[1] in backends[key[0]].servers)
            states = await self._servers.read(sorted({section for section, _ in servers}))
            weights = {key: self._wanted_weight(key) for key in servers}
            self._keep_states("".join(states), weights, before - servers)
            self._kept, self._kept_servers = self._servers.epoch, servers

    def _wanted_weight(self, key: ServerKey) -> int | None:
        """Return the weight of a server in the configuration; None if the line of the server is not understood."""
        section = self._backends.get(key[0])
        server = section.server(key[1]) if section is not None and key[1] in section.servers else None
        return server.weight if server is not None else None

    @property
    def _backends(self) -> Mapping[str, Section]:
        """Sections that are verified. Raises RuntimeApiError if the servers of the worker are unknown."""
        configuration = self._servers.configuration
        if configuration is None:
            raise RuntimeApiError("the servers are unknown")
        if self._parsed[0] is not configuration:
            self._parsed = configuration, {name: each for name, each in configuration.backends.items() if each.split}
        return self._parsed[1]


def _pages(sections: Mapping[str, Section]) -> Iterator[list[str]]:
    """Yield the names of the sections in pages of a limited size."""
    page: list[str] = []
    servers = 0
    for name, section in sections.items():
        if page and (servers + len(section.servers) > _PAGE_SERVERS or len(page) == _PAGE_SECTIONS):
            yield page
            page, servers = [], 0
        page.append(name)
        servers += len(section.servers)
    if page:
        yield page
