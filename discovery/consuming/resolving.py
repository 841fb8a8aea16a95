"""The layer between the registry and the consumers' runners: the addresses of backends that are registered by name.

A snapshot stays a pure function of the registry; the addresses go beside it. A snapshot is passed on at once. Only one
that brings new names waits for their first lookup, for a moment; what takes longer follows when it is known.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from structlog.typing import FilteringBoundLogger

from discovery.consuming.lastnames import LastNames
from discovery.consuming.names import EVERY, Names
from discovery.model import Addresses, Backend, Changes, Endpoint, Snapshot, diff

PATIENCE = 0.25
"""Seconds that a snapshot waits for the first lookup of its new names."""
_TOGETHER = 0.05
"""Seconds in which changes of addresses are collected, to be passed on together."""
_LINES = 5
"""How many names are logged one by one at a time."""
_LOG_EVERY = 10.0
"""Seconds, at least, between two times."""

Key = tuple[str, str]
"""A backend's service and id."""


class Step(NamedTuple):
    """The changes since the snapshot before: a snapshot of a resolver has the next `number` after that snapshot."""

    number: int
    changes: Changes
    is_first: bool = False
    """True if there is no snapshot before."""


class Resolved(NamedTuple):
    """A snapshot, and the addresses of its backends that are registered by host name.

    `step` leads to the snapshot, so that the snapshots need not be compared for each consumer; None if unknown.
    """

    snapshot: Snapshot
    addresses: Addresses
    step: Step | None = None


class SnapshotResolver:
    """Passes snapshots on to `publish`, and again whenever an address of theirs has changed. On one event loop."""

    def __init__(
        self,
        log: FilteringBoundLogger,
        publish: Callable[[Resolved], None],
        every: float = EVERY,
        taken: Callable[[Step, Snapshot | None, Snapshot], None] = lambda *_: None,
    ) -> None:
        """Begin without a snapshot. `every` is how many seconds pass between two lookups of a name.

        `taken` is called with each step and the snapshots before and after, ahead of `publish`.
        """
        self._log = log
        self._publish = publish
        self._taken = taken
        self._names = Names(self._on_change, every)
        self._last = LastNames(log, lambda: self._names.found)
        self._snapshot: Snapshot | None = None
        self._step = Step(0, Changes())
        self._endpoints: dict[Key, Endpoint] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._is_waiting = False  # for the first lookup of new names
        self._told: dict[str, str] = {}
        self._telling: asyncio.TimerHandle | None = None
        self.latest: Resolved | None = None
        """The snapshot and addresses that were passed on last."""

    @property
    def problems(self) -> dict[Key, str]:
        """The fault of each backend's host name, in a line: no address, or one that cannot be confirmed."""
        return _problems(self._endpoints, self._names)

    def remember(self, file: Path) -> None:
        """Keep found addresses in this file, and serve those of an earlier run until a name is looked up."""
        remembered = self._last.open(file)
        if remembered is not None:
            self._names.remembered = remembered

    def take(self, snapshot: Snapshot) -> None:
        """Pass this snapshot on, with its addresses."""
        self._step = Step(self._step.number + 1, diff(self._snapshot, snapshot), self._snapshot is None)
        new = self._follow(self._step.changes)
        self._taken(self._step, self._snapshot, snapshot)
        self._snapshot = snapshot
        if new and not self._is_waiting:
            self._is_waiting = True
            self._publish_within(PATIENCE)
        elif not self._is_waiting:
            self._publish_now()

    async def close(self) -> None:
        """Drop the snapshot and follow no name. Idempotent. `take` begins again."""
        for timer in (self._timer, self._telling):
            if timer is not None:
                timer.cancel()
        self._timer, self._telling, self._is_waiting, self._snapshot, self.latest = None, None, False, None, None
        self._step = Step(self._step.number + 1, Changes())  # the next step leads from none of these snapshots
        self._endpoints, self._told = {}, {}
        await self._last.close()
        await self._names.close()

    def _follow(self, changes: Changes) -> bool:
        """Follow the names of changed backends; whether any is new."""
        before: list[Endpoint] = []
        new = False
        for backend in (*changes.added, *changes.updated):
            endpoint = (backend.host, backend.port) if backend.is_named else None
            known = self._endpoints.get(_key(backend))
            if endpoint == known:
                continue
            if endpoint is not None:
                new = self._names.add(endpoint) or new
                self._endpoints[_key(backend)] = endpoint
            if known is not None:
                before.append(known)
                if endpoint is None:
                    del self._endpoints[_key(backend)]
        gone = (self._endpoints.pop(_key(backend), None) for backend in changes.removed)
        before.extend(endpoint for endpoint in gone if endpoint is not None)
        for endpoint in before:  # after the additions: an address that is still wanted is not forgotten
            self._names.discard(endpoint)
        return new

    def _on_change(self) -> None:
        if self._is_waiting:
            if not self._names.pending:
                self._publish_now()
        elif self._timer is None:
            self._publish_within(_TOGETHER)

    def _publish_within(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._publish_now)

    def _publish_now(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._is_waiting = None, False
        if self._telling is None:
            self._log_problems()
        before, addresses = self.latest, self._names.addresses
        if self._snapshot is None or (
            before is not None and before.snapshot is self._snapshot and before.addresses is addresses
        ):
            return
        if addresses is not (before.addresses if before is not None else None) and addresses:
            self._last.changed()
        self.latest = Resolved(self._snapshot, addresses, self._step)
        self._publish(self.latest)

    def _log_problems(self) -> None:
        """Log which names have become a problem, or are none any more."""
        self._telling = None
        problems = self._names.problems
        if problems == self._told:
            return
        self._telling = asyncio.get_running_loop().call_later(_LOG_EVERY, self._log_problems)
        bad = {host: reason for host, reason in problems.items() if self._told.get(host) != reason}
        good = [host for host in self._told if host not in problems and host in self._names]
        self._told = dict(problems)
        if bad:
            users = self._backends_by_host(bad)
            for host, reason in list(bad.items())[:_LINES]:
                self._log.warning("host name cannot be looked up", host=host, backends=users[host], reason=reason)
            if len(bad) > _LINES:
                self._log.warning(f"and {len(bad) - _LINES} more host names cannot be looked up")
        for host in good[:_LINES]:
            self._log.info("host name is looked up again", host=host)
        if len(good) > _LINES:
            self._log.info(f"and {len(good) - _LINES} more host names are looked up again")

    def _backends_by_host(self, hosts: Mapping[str, str]) -> dict[str, str]:
        """The backends of each host, for people."""
        keys: defaultdict[str, list[Key]] = defaultdict(list)
        for key, (host, _) in self._endpoints.items():
            if host in hosts:
                keys[host].append(key)
        return {host: _first_few(["/".join(key) for key in sorted(keys[host])]) for host in hosts}


async def resolve(snapshot: Snapshot, timeout: float) -> tuple[Resolved, Mapping[Key, str]]:
    """Return the addresses of this snapshot's names, as known within `timeout` seconds, and the problems."""
    names = Names(lambda: None)
    endpoints = {_key(each): (each.host, each.port) for each in snapshot.backends() if each.is_named}
    names.follow(endpoints.values())
    try:
        await names.settled(timeout)
        return Resolved(snapshot, names.addresses), _problems(endpoints, names)
    finally:
        await names.close()


def _problems(endpoints: Mapping[Key, Endpoint], names: Names) -> dict[Key, str]:
    return {key: problem for key, each in sorted(endpoints.items()) if (problem := names.problem(each)) is not None}


def _key(backend: Backend) -> Key:
    return backend.service, backend.id


def _first_few(names: list[str]) -> str:
    more = f" and {len(names) - _LINES} more" if len(names) > _LINES else ""
    return ", ".join(names[:_LINES]) + more
