"""Asks the living owners of refused keys to hand the keys over. Knows no registrar."""

import asyncio
from collections.abc import Callable, Mapping

from structlog.typing import FilteringBoundLogger

from discovery.errors import CannotBeAskedError, DiscoveryError, LeaseLostError, OwnedByAnotherError, describe
from discovery.model import Backend
from discovery.registry import HandsOver
from discovery.system.asyncio_tools import cancel_and_wait

_AT_ONCE = 16
"""Keys that are asked for at the same time, so that thousands of keys do not flood the registry."""


def to_be_asked(key: str, error: DiscoveryError, takeovers: "Takeovers | None") -> DiscoveryError:
    """Return the error of `key`, whose owner is to be asked by `takeovers`; None: the registry cannot ask owners.

    `error` is the refusal of the key.
    """
    owner = error.owner if isinstance(error, OwnedByAnotherError) else None
    if owner is None:
        return CannotBeAskedError.of(key, "an unnamed owner", None)
    asked: OwnedByAnotherError
    if takeovers is None:
        asked = CannotBeAskedError(
            f"the record {key!r} belongs to {owner!r}, and this registry cannot ask an owner to hand a key over: force"
            " it, or remove it there"
        )
    else:
        asked = OwnedByAnotherError(
            f"the record {key!r} belongs to {owner!r}, who has been asked for it and has not answered: force it to"
            " take it without an answer"
        )
    asked.owner = owner
    return asked


class Takeovers:
    """The requests of a lease for keys of other owners. For one event loop; `close` ends all requests."""

    def __init__(self, lease: HandsOver, taken: Callable[[], None], log: FilteringBoundLogger) -> None:
        """Begin without requests. `taken` is called after each key that the lease has got."""
        self._lease = lease
        self._taken = taken
        self._log = log
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def ask(self, backends: Mapping[str, Backend]) -> None:
        """Ask for the keys of `backends`, and withdraw the requests for all other keys."""
        await cancel_and_wait(*(self._asking.pop(key) for key in self._asking.keys() - backends.keys()))
        for key, backend in backends.items():
            if key not in self._asking or self._asking[key].done():
                self._asking[key] = asyncio.create_task(self._ask(key, backend))

    async def close(self) -> None:
        """Withdraw every request."""
        await self.ask({})

    async def _ask(self, key: str, backend: Backend) -> None:
        async with self._slots:
            self._log.info("asking the owner to hand the key over", key=key)
            try:
                await self._lease.take_over(backend)
            except LeaseLostError:
                return  # the registrar opens another lease, and asks again
            except OwnedByAnotherError as error:
                self._log.warning("the key cannot be asked for", key=key, reason=str(error))
            except Exception as error:  # noqa: BLE001 - the registry may be a plugin's, which may raise anything
                self._log.warning("cannot ask for the key now, trying again", key=key, reason=describe(error))
            else:
                self._taken()
