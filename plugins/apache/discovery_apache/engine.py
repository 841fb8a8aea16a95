"""Follows a Docker engine: which containers run, and which are being stopped."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from discovery.errors import DiscoveryError
from discovery_apache.container import Container


class EngineError(DiscoveryError):
    """The Docker engine cannot be reached or asked: why, and the way out, in a line."""


@dataclass(frozen=True, slots=True)
class View:
    """Every container that runs (paused ones among them), by name, and the ids of those that are being stopped."""

    containers: tuple[Container, ...] = ()
    stopping: frozenset[str] = frozenset()


class Engine:
    """One Docker engine."""

    def __init__(
        self,
        url: str | None,
        log: FilteringBoundLogger,
        *,
        match: Callable[[Container], bool] = lambda container: True,
        reconcile: float = 30.0,
    ) -> None:
        """Prepare; no I/O. Without `url`, DOCKER_HOST, else the local socket. `match` says which containers count."""
        self._url = url
        self._log = log
        self._match = match
        self._reconcile = reconcile

    async def follow(self) -> AsyncGenerator[View, None]:
        """Yield what runs: at once, and whenever it changes. Raises EngineError while that cannot be known."""
        raise NotImplementedError
        yield View()
