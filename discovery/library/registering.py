"""`discovery.registered`: an application's own registration, kept while a process of the application lives."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from discovery.codec import encode
from discovery.documents import backend_document
from discovery.errors import ConfigError, RecordError
from discovery.fields import TTL
from discovery.library.keeper import socket_path
from discovery.library.lifetime import Lifetime
from discovery.library.member import Member
from discovery.library.settings import Place, place
from discovery.model import Backend, State
from discovery.validity import parse_address, validate

WAIT_SECONDS = 10.0
"""Seconds that entering waits by default, as `discovery register` does."""


def registered(
    url: str | None,
    service: str,
    address: str,
    *,
    id: str | None = None,  # noqa: A002 - as the field of a backend
    weight: int = 1,
    state: State | str = State.ACTIVE,
    labels: Mapping[str, str] = MappingProxyType({}),
    ttl: float | str = 10.0,
    check: Mapping[str, Any] | None = None,
    wait: float | None = None,
    owner: str | None = None,
    force: bool = False,
    takeover: bool = False,
    username: str | None = None,
    password: str | None = None,
    options: Mapping[str, str | Path] = MappingProxyType({}),
    config: str | Path | None = None,
    run_dir: str | Path | None = None,
) -> "Registration":
    """Return a registration of the backend at `address` (`HOST:PORT`) for `service`, to be used in `with`.

    `url`, `username`, `password`, `options` and `config` name the registry, as for `follow`. `id`, by default the
    address, `weight`, `state` and `labels` are those of the backend. `check` is a table as in a configuration,
    `{"type": "http", "path": "/health"}`: the backend is registered while the check passes. `ttl` is how many seconds
    the record outlives this machine. `wait` is how many seconds entering waits for the registration; 0: not at all. By
    default entering waits 10 s, and with a check not at all: a server often listens only later. `owner`, `force` and
    `takeover` are as for `discovery register`. `run_dir` has the lock of the key, and the socket of its keeper. Raises
    ConfigError.
    """
    where = place(url, username=username, password=password, options=options, config=config, run_dir=run_dir)
    if force and takeover:
        raise ConfigError("force takes the key without asking, and takeover asks for the key: give one of them")
    try:
        host, port = parse_address(address)
        backend = Backend(service, "", host, port, weight, State(state), labels)
        backend = validate(replace(backend, id=backend.address if id is None else id))
        encode(backend, owner or "owner", 10.0)
        seconds = TTL.parse(ttl)
    except (RecordError, ValueError) as error:
        raise ConfigError(str(error)) from None
    if check is not None:
        from discovery.daemon.faults import validate as validate_table
        from discovery.probes import CheckSettings

        check = validate_table(CheckSettings, dict(check), "check").model_dump(mode="json", exclude_unset=True)
    if wait is None:
        wait = WAIT_SECONDS if check is None else 0.0
    return Registration(where, backend, seconds, check, wait, owner, force, takeover)


class Registration(Lifetime):
    """A backend that is registered while a process of the application lives: this, a forked child, or another worker.

    Processes that register the same key, such as the workers of one server, share a record and the helper process that
    keeps the record. The backend of the process that came last counts; owner and TTL are those of the first. A process
    leaves at the end of `with`, by `close`, at the end of the interpreter, and when the process dies in whatever way;
    the last that leaves waits until the backend is withdrawn. If this machine dies, the record expires. Entering raises
    RegistryUnavailableError, OwnedByAnotherError or another DiscoveryError if the backend is not registered in time.
    From any thread.
    """

    def __init__(
        self,
        place: Place,
        backend: Backend,
        ttl: float,
        check: Mapping[str, Any] | None,
        wait: float,
        owner: str | None,
        force: bool,
        takeover: bool,
    ) -> None:
        """Prepare. `registered` makes registrations, and describes the arguments.

        These are `place` (the settings), `backend`, `ttl`, `check`, `wait`, `owner`, `force` and `takeover`.
        """
        super().__init__(wait)
        self._place = place
        self._backend = backend
        self._ttl = ttl
        self._check = check
        self._owner = owner
        self._force = force
        self._takeover = takeover
        self._member: Member | None = None

    @property
    def backend(self) -> Backend:
        """The backend that this process wants."""
        return self._backend

    @property
    def is_registered(self) -> bool:
        """True if the backend is in the registry now."""
        return self._member is not None and self._member.is_registered

    @property
    def problem(self) -> str | None:
        """The reason why the backend is not in the registry; None if there is no reason, or if none is known yet."""
        member = self._member
        if member is None or member.is_registered:
            return None
        return str(member.problem) if member.problem is not None else member.check or None

    def update(
        self,
        *,
        weight: int | None = None,
        state: State | str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Register another `weight`, `state` or `labels`; None leaves a value as it is. Returns at once.

        Before a server stops, `state="draining"` has clients open no new connections. Raises ConfigError.
        """
        backend = self._backend
        try:
            self._backend = validate(
                replace(
                    backend,
                    weight=backend.weight if weight is None else weight,
                    state=backend.state if state is None else State(state),
                    labels=backend.labels if labels is None else labels,
                )
            )
        except (RecordError, ValueError) as error:
            raise ConfigError(str(error)) from None
        if self._member is not None:
            self._member.change(self._request())

    def close(self) -> None:
        """Leave, and withdraw the backend unless another process wants the backend. Idempotent."""
        member, self._member = self._member, None
        if member is not None:
            member.close()

    @property
    def _is_started(self) -> bool:
        """True from the beginning to the end."""
        return self._member is not None

    def _begin(self) -> None:
        path = socket_path(self._place.registry, self._backend.key, self._place.run_dir)
        self._member = Member(self._request(), path)
        self._member.start()

    def _arrive(self, timeout: float) -> bool:
        return self._member is not None and self._member.wait(timeout)

    def _begin_on_loop(self) -> None:
        self._begin()

    async def _arrive_on_loop(self) -> None:
        member = self._member
        if member is None:
            return
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            loop.call_soon_threadsafe(changed.set)

        member.listen(tell)
        while not member.is_registered:
            changed.clear()
            member.raise_if_refused()
            if not member.is_registered:
                await changed.wait()

    async def _close_on_loop(self) -> None:
        await asyncio.to_thread(self.close)

    def _failure(self) -> tuple[str, str | None]:
        return f"{self._backend.key} could not be registered at {self._place.registry}", self.problem

    def _request(self) -> dict[str, Any]:
        return {
            "registry": self._place.registry_document(),
            "run_dir": None if self._place.run_dir is None else str(self._place.run_dir.absolute()),
            "backend": backend_document(self._backend),
            "check": None if self._check is None else dict(self._check),
            "ttl": self._ttl,
            "owner": self._owner,
            "force": self._force,
            "takeover": self._takeover,
        }
