"""A single backend: checked, registered while its checks pass, and withdrawn at the end."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from structlog.typing import FilteringBoundLogger

from discovery.checks import Check
from discovery.model import Backend
from discovery.system.rundir import base_run_dir, keep, lock, run_dir_path

if TYPE_CHECKING:
    from discovery.providing.registrar import RegistrarStatus
    from discovery.registry import Registry, RegistryURL

_REASON_SECONDS = 1.0
"""Seconds for the reason why a registry is silent: a person waits for the message."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A backend to register, its checks, and its owner."""

    registry: "RegistryURL"
    backend: Backend
    checks: tuple[Check, ...]
    owner: str
    ttl: float
    force: bool
    takeover: bool
    succeeds: Callable[[str], bool]

    @property
    def key(self) -> str:
        """The backend's key in the registry."""
        return self.backend.key


class Registration:
    """Checks a backend and keeps the backend registered. For a single event loop."""

    def __init__(
        self,
        wanted: Wanted,
        registry: "Registry",
        log: FilteringBoundLogger,
        changed: Callable[["RegistrarStatus"], None] = lambda status: None,
    ) -> None:
        """Prepare the registration of `wanted`. The registrar calls `changed` with each change of its status.

        The event `passing` is set when all checks pass, and `failing` when a check fails.
        """
        from discovery.plugin import Candidate
        from discovery.providing.checker import Checker
        from discovery.providing.registrar import Registrar
        from discovery.system.lookups import RememberedLookups

        self.passing = asyncio.Event()
        self.failing = asyncio.Event()
        self._key = wanted.key
        self._wants_it = False
        self._registrar = Registrar(
            registry,
            wanted.owner,
            wanted.ttl,
            log,
            force=wanted.force,
            takeover=wanted.takeover,
            among={wanted.key},
            succeeds=wanted.succeeds,
            changed=changed,
        )
        self._checker = Checker(self._publish, log, RememberedLookups())
        self._checker.set([Candidate(wanted.backend, wanted.checks)])

    def set(self, backend: Backend, checks: tuple[Check, ...]) -> None:
        """Keep `backend`, which has the same key, registered from now on, and while `checks` pass."""
        from discovery.plugin import Candidate

        self._checker.set([Candidate(backend, checks)])

    @property
    def status(self) -> "RegistrarStatus":
        """The registrar's status now."""
        return self._registrar.status

    @property
    def may_stand(self) -> bool:
        """True if the record is, or may be, in the registry: a write counts before the registry has answered."""
        return self._wants_it and self.problem is None

    @property
    def problem(self) -> str | None:
        """The reason why the record is not in the registry, or None."""
        error = self._registrar.status.failing.get(self._key)
        return None if error is None else str(error)

    @property
    def check(self) -> str:
        """The detail of the last outcome of the check."""
        status = self._checker.status.get(self._key)
        return status.detail if status is not None else ""

    async def run(self) -> None:
        """Check and register the backend until cancelled, then withdraw the backend."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._checker.run())
            both.create_task(self._registrar.run())

    def _publish(self, backends: tuple[Backend, ...]) -> None:
        self._registrar.set(backends)
        self._wants_it = bool(backends)
        (self.passing if backends else self.failing).set()


async def silence_reason(registry: "Registry") -> str:
    """Return the reason why the registry does not answer. A watch reports the reason sooner than a lease does."""
    from discovery.registry import Stale

    with suppress(TimeoutError):
        async with asyncio.timeout(_REASON_SECONDS), aclosing(registry.watch()) as events:
            async for event in events:
                if isinstance(event, Stale):
                    return event.reason
                break
    return "it did not answer"


def lock_path(registry: "RegistryURL", key: str, run_dir: Path | None) -> Path:
    """Return the path of the lock of a key: the process that keeps the key registered holds the lock."""
    name = hashlib.sha256(os.fsencode(f"{registry.identity}\0{key}")).hexdigest()[:16]
    return run_dir_path(run_dir) / f"register-{name}.lock"


@asynccontextmanager
async def exclusive_registration(
    wanted: Wanted, run_dir: Path | None, log: FilteringBoundLogger
) -> AsyncIterator[None]:
    """Hold the lock of a key and an owner for a block: two processes would take the record from each other forever.

    Raises CannotStartError if another process of this machine holds the lock.
    """
    base = base_run_dir(run_dir)
    path = lock_path(wanted.registry, wanted.key, run_dir)
    way_out = "stop it first, or register under another --id"
    with lock(path, f"discovery register {wanted.key}", way_out) as held:
        keeping = asyncio.create_task(keep(held, base, log))
        try:
            yield
        finally:
            keeping.cancel()
