"""The use of a follower or a registration: `with`, `async with`, or `start` and `close`."""

import asyncio
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from discovery.errors import RegistryUnavailableError


class Lifetime(ABC):
    """An activity that begins with `with`, `async with` or `start`, and ends with the block or with `close`.

    The beginning waits for up to `wait` seconds until `_arrive` reports success. Without success the activity is closed
    again.
    """

    def __init__(self, wait: float) -> None:
        """Keep `wait`, in seconds; 0: beginning does not wait."""
        self._wait = wait

    def start(self) -> Self:
        """Begin, as `with` does, and stay until `close`, or until the process ends."""
        self._check_not_started()
        try:
            self._begin()
            if self._wait and not self._arrive(self._wait):
                raise self._late()
        except BaseException:  # also a KeyboardInterrupt: nothing stays begun
            self.close()
            raise
        return self

    @abstractmethod
    def close(self) -> None:
        """End. Idempotent."""

    def __enter__(self) -> Self:
        """See `start`."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See `close`."""
        self.close()

    async def __aenter__(self) -> Self:
        """As `start`, on this event loop, which is not blocked."""
        self._check_not_started()
        try:
            self._begin_on_loop()
            if self._wait:
                await self._arrive_in_time()
        except BaseException:  # also a cancellation: nothing stays begun
            await self._close_on_loop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """As `close`, on this event loop, which is not blocked."""
        await self._close_on_loop()

    @property
    @abstractmethod
    def _is_started(self) -> bool:
        """True from the beginning to the end."""

    @abstractmethod
    def _begin(self) -> None:
        """Begin, without waiting."""

    @abstractmethod
    def _arrive(self, timeout: float) -> bool:
        """Wait until the beginning was successful, for at most `timeout` seconds. Return True if so."""

    @abstractmethod
    def _begin_on_loop(self) -> None:
        """Begin on the running event loop, without waiting."""

    @abstractmethod
    async def _arrive_on_loop(self) -> None:
        """Wait until the beginning was successful."""

    @abstractmethod
    async def _close_on_loop(self) -> None:
        """End what `_begin_on_loop` has begun. Idempotent."""

    @abstractmethod
    def _failure(self) -> tuple[str, str | None]:
        """Return what could not be done until now, and the reason, or None if none is known."""

    def _check_not_started(self) -> None:
        if self._is_started:
            raise RuntimeError(f"the {type(self).__name__.lower()} has been started already")

    async def _arrive_in_time(self) -> None:
        try:
            async with asyncio.timeout(self._wait):
                await self._arrive_on_loop()
        except TimeoutError:
            raise self._late() from None

    def _late(self) -> RegistryUnavailableError:
        what, reason = self._failure()
        return RegistryUnavailableError(f"{what} within {self._wait:g} s: {reason or 'it did not answer'}")
