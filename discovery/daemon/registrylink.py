"""The registry of a daemon: followed for the consumers, replaced at a reload, closed at the end."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from discovery.admin.members import MembersLook
from discovery.consuming.following import RegistryFeed
from discovery.consuming.history import Change, ChangeHistory
from discovery.consuming.lastgood import state_file
from discovery.consuming.resolving import Resolved, SnapshotResolver, Step
from discovery.daemon.alarms import Alarms
from discovery.errors import describe
from discovery.model import Snapshot
from discovery.registry import Registry, RegistryURL
from discovery.system.asyncio_tools import wait_for_tasks
from discovery.system.statedir import state_dir

CLOSE_DEADLINE = 2.0
"""Seconds in which a registry closes its connections. One that hangs is left to the end of the process."""


class RegistryLink:
    """The registry that is followed now, with its alarms and members, its snapshots, their history and addresses.

    For the core's loop.
    """

    registry: Registry
    """The registry in use; there is none before the first `use`."""

    def __init__(
        self,
        log: FilteringBoundLogger,
        publish: Callable[[Resolved, Sequence[Change]], None],
        changed: Callable[[], None],
    ) -> None:
        """Prepare; `use` begins.

        `publish` is called with each snapshot and the changes since the one before, and again, without changes, when
        an address in it changes; `changed` when following ends.
        """
        self._log = log
        self.alarms = Alarms(log)
        self.members = MembersLook()
        self.history = ChangeHistory()
        self.resolver = SnapshotResolver(log, self._offer, taken=self._note)
        self.feed = RegistryFeed(log, self.resolver.take, changed)
        self._publish = publish

    @property
    def latest(self) -> Resolved | None:
        """The latest snapshot with its addresses; None before the first."""
        return self.resolver.latest

    def use(self, registry: Registry) -> None:
        """Use `registry` from now on. The caller closes the one before, once nothing uses that any more.

        What is followed changes with the next `follow`.
        """
        self.registry = registry
        self.alarms.follow(registry)
        self.members.use(registry)

    async def follow(self, url: RegistryURL, state: Path | None) -> None:
        """Follow the registry in use. Its snapshots and addresses are kept on disk in `state` or the default place."""
        directory = state_dir(state)
        self.resolver.remember(state_file(directory, "names", url))
        await self.feed.follow(self.registry, url, directory)

    async def stop_following(self) -> None:
        """Follow no registry, and have no snapshot. Idempotent."""
        await self.feed.stop()
        await self.resolver.close()

    def _note(self, step: Step, before: Snapshot | None, snapshot: Snapshot) -> None:
        self.history.take(step, before, snapshot, self.feed.arrived)

    def _offer(self, resolved: Resolved) -> None:
        self._publish(resolved, self.history.offered())

    async def close(self, registry: Registry) -> None:
        """Close a registry, in use or not, within CLOSE_DEADLINE seconds. A failure is logged, not raised."""
        closing = asyncio.ensure_future(registry.close())
        if await wait_for_tasks({closing}, CLOSE_DEADLINE) and (error := closing.exception()) is not None:
            self._log.warning("the registry was not closed in order", reason=describe(error))
