"""Calls to the cluster: a member that does not answer in its share of the time is left for the next."""

import asyncio
import random
from collections.abc import Iterator, Mapping
from typing import Final

import structlog

from discovery.errors import ConfigError, RegistryUnavailableError
from discovery.registry.etcd.connection import Connection, Stream
from discovery.registry.etcd.failures import MemberUnavailableError, reason
from discovery.registry.etcd.login import Tokens
from discovery.registry.etcd.messages import Message, Method
from discovery.registry.etcd.settings import EtcdSettings, TLSMaterial
from discovery.registry.etcd.targets import Targets
from discovery.system.backoff import delays
from discovery.system.certificates import read_certificate

CALL_SECONDS: Final = 8.0
ATTEMPT_SECONDS: Final = 2.5
_FIRST_DELAY: Final = 0.1
_MOST_DELAY: Final = 1.0
_MOST_CALL_DELAY: Final = 0.5  # a call is cheap, and a lease depends on it
_GRACE_SECONDS = 5.0

_log = structlog.get_logger("discovery.registry.etcd")


def rounds(most: float = _MOST_DELAY) -> Iterator[float]:
    """Seconds to wait after all members have failed once, twice and so on."""
    return delays(_FIRST_DELAY, most)


class Client:
    """A connection per member, made when first needed; the member that last answered is asked first."""

    def __init__(self, settings: EtcdSettings) -> None:
        """Keep the settings. No I/O yet."""
        self.settings = settings
        self.tokens = Tokens(settings.login)
        self._targets = Targets()
        self._connections: dict[str, Connection] = {}
        self._retired: set[asyncio.Task[None]] = set()
        self._material: TLSMaterial | None = None
        self._at = random.randrange(len(settings.endpoints))  # noqa: S311 - no secret
        self._closed = False

    async def call(
        self, method: Method, request: Message, *, timeout: float = CALL_SECONDS, attempt: float = ATTEMPT_SECONDS
    ) -> Message:
        """Ask until a member answers, `attempt` seconds each and `timeout` in all; so the call must be idempotent.

        Raises RegistryUnavailableError if none does, and whatever `failures.explain` makes of a refusal.
        """
        endpoints = self.settings.endpoints
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout
        retries = rounds(_MOST_CALL_DELAY)
        failures = 0
        reasons: dict[str, str] = {}
        while True:
            at = self._at
            connection = self._connection(endpoints[at])
            try:
                return await connection.call(method, request, min(attempt, deadline - clock()))
            except MemberUnavailableError as error:
                failures += 1
                reasons[endpoints[at]] = reason(endpoints[at], error)
                self._retire(connection)
                if self._at == at:
                    self._at = (at + 1) % len(endpoints)
                wait = 0.0 if failures % len(endpoints) else next(retries)
                if clock() + wait >= deadline:
                    raise self.none_answers(reasons) from None
                await asyncio.sleep(wait)

    async def open(self, method: Method) -> Stream:
        """Open a stream to the member that answered last. Raises as `Connection.open` does."""
        return await self._connection(self.settings.endpoints[self._at]).open(method, ATTEMPT_SECONDS)

    def connect(self, endpoint: str) -> Connection:
        """A new connection to a member, for its caller to close."""
        tls = self.settings.tls
        if tls is not None:
            before = self._material
            try:
                self._material = tls.read()
            except ConfigError:
                # They were there at the start: someone is replacing them.
                if before is None:
                    raise
            if before is not None and self._material is not None:
                texts = ((tls.ca, before.ca, self._material.ca), (tls.cert, before.cert, self._material.cert))
                for file in [file for file, old, new in texts if file is not None and new != old]:
                    _log.info(f"certificate reloaded: {read_certificate(file)}", file=str(file))
        return Connection(endpoint, self.tokens, self._material, tls.server_name if tls else None, self._targets)

    def none_answers(self, reasons: Mapping[str, str]) -> RegistryUnavailableError:
        """The message for when no member serves: the last reason of each endpoint."""
        if len(self.settings.endpoints) == 1:
            return RegistryUnavailableError(f"etcd {self.settings}: {reasons[self.settings.endpoints[0]]}")
        told = [f"{endpoint}: {reasons[endpoint]}" for endpoint in self.settings.endpoints if endpoint in reasons]
        return RegistryUnavailableError(f"etcd {self.settings}: no member can serve: {'; '.join(told)}")

    async def close(self) -> None:
        """Close every connection of this client; those of `connect` are their callers'. Idempotent."""
        self._closed = True
        for task in self._retired:
            task.cancel()
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            await connection.close()

    def _connection(self, endpoint: str) -> Connection:
        if self._closed:
            raise RegistryUnavailableError(f"etcd {self.settings}: the registry is closed")
        if endpoint not in self._connections:
            self._connections[endpoint] = self.connect(endpoint)
        return self._connections[endpoint]

    def _retire(self, connection: Connection) -> None:
        """Open a new connection for the next call, with another lookup of the name and the present certificates."""
        if self._connections.get(connection.endpoint) is connection:
            del self._connections[connection.endpoint]
            task = asyncio.ensure_future(connection.close(_GRACE_SECONDS))
            self._retired.add(task)
            task.add_done_callback(self._retired.discard)
