"""Calls to the cluster: if a member does not answer in time, the client calls the next member."""

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
"""Seconds for a call in all: three attempts, less than the registrars' TTL of 10 s."""
ATTEMPT_SECONDS: Final = 2.5
"""Seconds for a member to answer: longer than an election of a leader usually takes (1 s, etcd's default timeout)."""
_FIRST_DELAY: Final = 0.1
"""Seconds of the first pause after all members have failed: a cluster that is back should be noticed soon."""
_MOST_DELAY: Final = 1.0
"""Seconds of the longest pause after all members have failed: an outage ends within about a second of its cause."""
_MOST_CALL_DELAY: Final = 0.5
"""Seconds of the longest pause within a call: shorter, because a lease depends on the call."""
_GRACE_SECONDS = 5.0
"""Seconds for the other calls on a connection that is being replaced: twice ATTEMPT_SECONDS, so all have ended."""

_log = structlog.get_logger("discovery.registry.etcd")


def rounds(most: float = _MOST_DELAY) -> Iterator[float]:
    """Yield the seconds to wait after each round in which all members have failed; `most` is the longest wait."""
    return delays(_FIRST_DELAY, most)


class Client:
    """A client with a connection to each member, made on first use. Calls begin at the member that answered last."""

    def __init__(self, settings: EtcdSettings) -> None:
        """Keep the settings. No I/O."""
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
        """Call members in turn until a member answers. The call must be idempotent: several members may execute it.

        A member has `attempt` seconds, and the whole call has `timeout` seconds. Raises RegistryUnavailableError if no
        member answers, and the errors of `failures.explain` if a member refuses.
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
        """Return a new connection to the member at `endpoint`. The caller closes the connection."""
        tls = self.settings.tls
        if tls is not None:
            before = self._material
            try:
                self._material = tls.read()
            except ConfigError:
                # The files were valid before: a renewal is replacing the files now. Keep the last valid certificates.
                if before is None:
                    raise
            if before is not None and self._material is not None:
                texts = ((tls.ca, before.ca, self._material.ca), (tls.cert, before.cert, self._material.cert))
                for file in [file for file, old, new in texts if file is not None and new != old]:
                    _log.info(f"certificate reloaded: {read_certificate(file)}", file=str(file))
        return Connection(endpoint, self.tokens, self._material, tls.server_name if tls else None, self._targets)

    def none_answers(self, reasons: Mapping[str, str]) -> RegistryUnavailableError:
        """Return the error for a cluster of which no member serves, with the last reason of each endpoint."""
        if len(self.settings.endpoints) == 1:
            return RegistryUnavailableError(f"etcd {self.settings}: {reasons[self.settings.endpoints[0]]}")
        known = [f"{endpoint}: {reasons[endpoint]}" for endpoint in self.settings.endpoints if endpoint in reasons]
        return RegistryUnavailableError(f"etcd {self.settings}: no member can serve: {'; '.join(known)}")

    async def close(self) -> None:
        """Close every connection of this client, except those that `connect` returned. Idempotent."""
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
        """Discard `connection`, so that the next call looks the name up again and reads the present certificates.

        Other calls that use the connection have _GRACE_SECONDS to end.
        """
        if self._connections.get(connection.endpoint) is connection:
            del self._connections[connection.endpoint]
            task = asyncio.ensure_future(connection.close(_GRACE_SECONDS))
            self._retired.add(task)
            task.add_done_callback(self._retired.discard)
