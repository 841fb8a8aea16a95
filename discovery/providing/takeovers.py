"""Asks the living owners of refused keys to hand the keys over. Knows no registrar."""

import asyncio
from collections.abc import Callable, Collection, Mapping

from structlog.typing import FilteringBoundLogger

from discovery.errors import CannotBeAskedError, DiscoveryError, LeaseLostError, OwnedByAnotherError, describe
from discovery.model import Backend
from discovery.registry import HandsOver
from discovery.system.asyncio_tools import cancel_and_wait, wait_for_tasks

_AT_ONCE = 16
"""Keys that are asked for at the same time, so that thousands of keys do not flood the registry."""
TURN_SECONDS = 5.0
"""Seconds for an answer while other keys wait for their turn: an owner that answers does so within a second."""


def to_be_asked(key: str, error: DiscoveryError, takeovers: "Takeovers | None") -> DiscoveryError:
    """Return the error of `key`, whose owner is to be asked by `takeovers`; None: the registry cannot ask owners.

    `error` is the refusal of the key.
    """
    owner = error.owner if isinstance(error, OwnedByAnotherError) else None
    if owner is None:
        return CannotBeAskedError.of(key, "an unnamed owner", None)
    if takeovers is None:
        return _belongs(
            CannotBeAskedError,
            key,
            owner,
            "and this registry cannot ask an owner to hand a key over: force it, or remove it there",
        )
    if (reason := takeovers.problems.get(key)) is not None:
        return _belongs(OwnedByAnotherError, key, owner, f"who cannot be asked for it now: {reason}")
    why = "who is asked for it and has not answered yet: force it to take it without an answer"
    return _belongs(OwnedByAnotherError, key, owner, why)


def _belongs(kind: type[OwnedByAnotherError], key: str, owner: str, rest: str) -> OwnedByAnotherError:
    error = kind(f"the record {key!r} belongs to {owner!r}, {rest}")
    error.owner = owner
    return error


class Takeovers:
    """The requests of a lease for keys of other owners. For one event loop; `close` ends all requests."""

    def __init__(
        self,
        lease: HandsOver,
        taken: Callable[[], None],
        refused: Callable[[str], None],
        log: FilteringBoundLogger,
        turn_seconds: float,
    ) -> None:
        """Begin without requests.

        `taken` is called after each key that the lease has got, and `refused` with a key whose owner cannot be asked.
        An owner has `turn_seconds` to answer while other keys wait for their turn.
        """
        self.problems: dict[str, str] = {}
        """The reason, a line, by key whose owner could not be asked the last time."""
        self._lease = lease
        self._taken = taken
        self._refused = refused
        self._log = log
        self._turn_seconds = turn_seconds
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def ask(self, backends: Mapping[str, Backend]) -> None:
        """Ask for the keys of `backends`, and withdraw the requests for all other keys."""
        await self.withdraw_except(backends)
        for key, backend in backends.items():
            if key not in self._asking or self._asking[key].done():
                self._asking[key] = asyncio.create_task(self._ask(key, backend))

    async def withdraw_except(self, keys: Collection[str]) -> None:
        """Withdraw the requests for all other keys than `keys`. The lease may have got some of the other keys."""
        await cancel_and_wait(*(self._asking.pop(key) for key in self._asking.keys() - keys))
        for key in self.problems.keys() - keys:
            del self.problems[key]

    async def close(self) -> None:
        """Withdraw every request."""
        await self.withdraw_except(())

    async def _ask(self, key: str, backend: Backend) -> None:
        self._log.info("asking the owner to hand the key over", key=key)
        try:
            while not await self._take_over_in_turn(backend):
                pass  # behind the keys that wait for their turn
        except LeaseLostError:
            return  # the registrar opens another lease, and asks again
        except Exception as error:  # noqa: BLE001 - the registry may be a plugin's, which may raise anything
            self.problems[key] = describe(error)
            self._refused(key)
        else:
            self._taken()

    async def _take_over_in_turn(self, backend: Backend) -> bool:
        """Ask until the key is there. Returns False if there is no answer, and another key waits for its turn."""
        async with self._slots:
            asking = asyncio.ensure_future(self._lease.take_over(backend))
            try:
                while not asking.done():
                    await wait_for_tasks({asking}, self._turn_seconds)
                    if len(self._asking) > _AT_ONCE:
                        break
                return asking.done() and asking.result() is None
            finally:
                await cancel_and_wait(asking)
