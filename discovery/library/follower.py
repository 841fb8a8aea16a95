"""`discovery.follow`: the snapshots of a registry, for `async for` and for `for`."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from discovery.library.following import FollowedRegistry, FollowerState
from discovery.library.lifetime import Lifetime
from discovery.library.logs import library_log
from discovery.library.reading import HelperReader
from discovery.library.selection import Selection
from discovery.library.settings import Place, place
from discovery.model import Snapshot
from discovery.system.asyncio_tools import cancel_and_wait

WAIT_SECONDS = 10.0
"""Seconds that entering waits by default, as the commands do: a registry answers within one."""


def follow(
    url: str | None = None,
    services: str | Iterable[str] | None = None,
    *,
    wait: float = WAIT_SECONDS,
    username: str | None = None,
    password: str | None = None,
    options: Mapping[str, str | Path] = MappingProxyType({}),
    config: str | Path | None = None,
    state_dir: str | Path | None = None,
) -> "Follower":
    """Return a follower of the registry at `url`, to be used in `with` and `for`, or in `async with` and `async for`.

    `url` is a registry's URL, as `--registry` takes it, of the core or of a plugin. None: DISCOVERY_REGISTRY, else the
    configuration file `config`, else the file in use, else etcd on this machine. `username`, `password` and `options`
    (`ca`, `cert`, `key`, `server_name`, `password_file`, or a plugin's own) are laid over the URL; a password may also
    be in DISCOVERY_REGISTRY_PASSWORD. `services` are names or patterns (`"web-*"`); None: all. `wait` is how many
    seconds entering waits for the first snapshot; 0: not at all. The last good snapshot is kept in `state_dir`, by
    default where the daemon keeps it. Raises ConfigError.
    """
    where = place(url, username=username, password=password, options=options, config=config, state_dir=state_dir)
    return Follower(where, services, wait)


class Follower(Lifetime):
    """Follows a registry. Each iteration begins with the present snapshot, and goes on with the newest of the later.

    Snapshots keep the promises of the daemon: an unreachable registry is not an empty registry, removals after a gap
    are held, and a start without the registry has the last good snapshot. `stale` tells whether the registry can be
    followed now. `async with` follows on the running event loop. `with` follows in a helper process; it may be used
    from any thread, and also in forked children, each of which starts a helper of its own when it asks. Entering raises
    RegistryUnavailableError if there is no snapshot in time; iterating raises a DiscoveryError if the registry can
    never be followed. An iteration outside of `with` and `async with` follows as long as it lasts.
    """

    def __init__(self, place: Place, services: str | Iterable[str] | None, wait: float) -> None:
        """Prepare. `follow` makes followers, and describes `place` (the settings), `services` and `wait`."""
        super().__init__(wait)
        self._place = place
        self._selection = Selection(services)
        self._reader: HelperReader | None = None
        self._task: asyncio.Task[None] | None = None
        self._last = FollowerState()
        self._changed = asyncio.Event()

    @property
    def snapshot(self) -> Snapshot | None:
        """The newest snapshot of the services asked for. None: nothing is known yet, which is not the same as empty."""
        return self._state.snapshot

    @property
    def stale(self) -> str | None:
        """The reason why the registry cannot be followed now, or None. The snapshot stands meanwhile."""
        return self._state.stale

    @property
    def from_disk(self) -> bool:
        """True while the snapshot is what an earlier run has kept: the registry has not answered yet."""
        return self._state.from_disk

    @property
    def held(self) -> frozenset[str]:
        """The keys of backends that the registry has removed, and that are in the snapshot as that is doubted."""
        return self._state.held

    @property
    def age(self) -> float:
        """Seconds since the snapshot was last known to be true: 0 while the registry is followed."""
        true_at = self._state.true_at
        return 0.0 if true_at is None else max(0.0, time.time() - true_at)

    def close(self) -> None:
        """Follow no longer. Idempotent."""
        reader = self._reader
        if reader is not None:
            reader.close()
            self._last, self._reader = reader.state, None

    def __iter__(self) -> Iterator[Snapshot]:
        """Yield the present snapshot, and then each newer snapshot; at the end of `with`, end."""
        is_own = self._reader is None
        if is_own:
            self.start()
        try:
            reader, seen = self._reader, None
            while reader is not None:
                state = reader.wait_until(_is_newer_than(seen), None)
                if state is None:
                    return
                seen = state.snapshot
                if seen is not None:
                    yield seen
        finally:
            if is_own:
                self.close()

    async def __aiter__(self) -> AsyncIterator[Snapshot]:
        """Yield the present snapshot, and then each newer snapshot; at the end of `async with`, end."""
        is_own = self._task is None
        if is_own:
            await self.__aenter__()
        try:
            seen = None
            while await self._until(_is_newer_than(seen)):
                seen = self._last.snapshot
                if seen is not None:
                    yield seen
        finally:
            if is_own:
                await self._close_on_loop()

    @property
    def _state(self) -> FollowerState:
        """The state now, of whichever form is in use."""
        return self._last if self._reader is None else self._reader.state

    @property
    def _is_started(self) -> bool:
        """True from the beginning to the end."""
        return self._reader is not None or self._task is not None

    def _begin(self) -> None:
        request = {
            "registry": self._place.registry_document(),
            "state_dir": str(self._place.state()),
            "services": self._selection.patterns,
        }
        self._reader = HelperReader(request)
        self._reader.start()

    def _arrive(self, timeout: float) -> bool:
        return self._reader is not None and self._reader.wait_until(_is_synced, timeout) is not None

    def _begin_on_loop(self) -> None:
        self._last = FollowerState()
        following = FollowedRegistry(self._place, self._selection, library_log(), self._take)
        self._task = asyncio.create_task(following.run())
        self._task.add_done_callback(lambda _: self._wake())

    async def _arrive_on_loop(self) -> None:
        await self._until(_is_synced)

    def _failure(self) -> tuple[str, str | None]:
        return f"the registry {self._place.registry} could not be followed", self._state.stale

    def _take(self, state: FollowerState) -> None:
        self._last = state
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _until(self, holds: Callable[[FollowerState], bool]) -> bool:
        """Wait until `holds` is true of the state; False once following has been stopped. Raises what has ended it."""
        while not holds(self._last):
            task, changed = self._task, self._changed
            if task is None:
                return False
            if task.done():
                task.result()
            await changed.wait()
        return True

    async def _close_on_loop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            await cancel_and_wait(task)
            if not task.cancelled():
                task.exception()  # raised where it was waited for
        self._wake()


def _is_synced(state: FollowerState) -> bool:
    return state.snapshot is not None


def _is_newer_than(seen: Snapshot | None) -> Callable[[FollowerState], bool]:
    return lambda state: state.snapshot is not None and state.snapshot is not seen
