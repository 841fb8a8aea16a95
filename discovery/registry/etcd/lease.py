"""A lease in etcd, which a task renews."""

import asyncio
import math
import secrets
import time
from collections.abc import Collection
from contextlib import suppress

from discovery.codec import encode
from discovery.errors import LeaseLostError, OwnedByAnotherError, RegistryError
from discovery.model import Backend
from discovery.registry.etcd.client import Client
from discovery.registry.etcd.failures import LeaseExistsError
from discovery.registry.etcd.messages import (
    LEASE_GRANT,
    LEASE_KEEP_ALIVE,
    LEASE_REVOKE,
    LeaseGrantRequest,
    LeaseKeepAliveRequest,
    LeaseRevokeRequest,
)
from discovery.registry.etcd.records import Records
from discovery.registry.etcd.takeovers import Takeovers
from discovery.system.asyncio_tools import cancel_and_wait

_CLOSE_SECONDS = 3.0
"""Seconds for the revocation of a lease: a stopping daemon does not wait longer for a cluster that does not answer."""


def _now() -> float:
    """Return seconds of a clock that also runs while the machine is suspended, as the members' clocks do."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class EtcdLease:
    """A lease and the records under the lease. `EtcdLease.open` opens a lease."""

    @classmethod
    async def open(cls, client: Client, prefix: bytes, owner: str, ttl: float) -> "EtcdLease":
        """Open a lease of `ttl` seconds, rounded up to whole seconds and to the cluster's minimum.

        Raises as Client.call does.
        """
        # The client chooses the lease's number, so that the request is idempotent.
        number = secrets.randbits(62) + 1
        request = LeaseGrantRequest(TTL=max(1, math.ceil(ttl)), ID=number)
        try:
            granted = float((await client.call(LEASE_GRANT, request)).TTL)
        except LeaseExistsError:
            # An earlier attempt succeeded and its answer was lost. The first renewal returns the granted TTL.
            granted = float(request.TTL)
        return cls(client, prefix, owner, number, granted)

    def __init__(self, client: Client, prefix: bytes, owner: str, number: int, ttl: float) -> None:
        """Start to renew the lease `number`, which was granted for `ttl` seconds."""
        self._client = client
        self._owner = owner
        self._number = number
        self._ttl = ttl
        self._expires = _now() + ttl  # the latest possible time: the lease was granted at some time during the call
        self._records = Records(client, prefix, owner, number)
        self._takeovers = Takeovers(client, prefix, owner, number)
        self._keys: set[str] = set()
        self._deletions = 0
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._keeper = asyncio.create_task(self._keep_alive(), name=f"etcd lease of {owner}")

    @property
    def owner(self) -> str:
        """See `Lease.owner`."""
        return self._owner

    @property
    def ttl(self) -> float:
        """The granted TTL in seconds, which may be longer than the requested TTL."""
        return self._ttl

    async def put(self, backend: Backend, *, force: bool = False) -> None:
        """See `Lease.put`."""
        key, value = backend.key, encode(backend, self._owner, self._ttl)
        self._raise_if_lost()
        try:
            await self._records.put(key, value, force=force)
        except LeaseLostError as error:
            self._lose(str(error))
            raise
        self._add(key)

    async def delete(self, backend: Backend) -> None:
        """See `Lease.delete`."""
        key = backend.key
        self._keys.discard(key)
        self._deletions += 1
        await self._records.delete(key)

    async def sweep(self, keep: Collection[str], among: Collection[str] | None = None) -> frozenset[str]:
        """See `Lease.sweep`."""
        self._raise_if_lost()
        return await self._records.sweep(keep, among)

    async def until_free(self, keys: Collection[str]) -> None:
        """See `TellsWhenFree.until_free`. Watches these keys alone."""
        await self._records.until_free(keys)

    async def take_over(self, backend: Backend) -> None:
        """See `HandsOver.take_over`."""
        key, value = backend.key, encode(backend, self._owner, self._ttl)
        while True:
            self._raise_if_lost()
            try:
                taken = await self._takeovers.take(key, value)
            except LeaseLostError as error:
                self._lose(str(error))
                raise
            if taken:
                return self._add(key)
            with suppress(OwnedByAnotherError):  # another owner was faster
                return await self.put(backend)

    async def handed_over(self) -> tuple[str, str]:
        """See `HandsOver.handed_over`. Watches the requests under the prefix."""
        self._raise_if_lost()
        key, owner = await self._takeovers.hand_over(self._keys)
        self._keys.discard(key)
        return key, owner

    async def lost(self) -> str:
        """See `Lease.lost`."""
        return await asyncio.shield(self._lost)

    async def close(self) -> None:
        """See `Lease.close`. Revokes the lease; without an answer the records stay until the TTL is over."""
        await self.abandon()
        with suppress(RegistryError):
            request = LeaseRevokeRequest(ID=self._number)
            await self._client.call(LEASE_REVOKE, request, timeout=_CLOSE_SECONDS, attempt=_CLOSE_SECONDS / 2)

    async def abandon(self) -> None:
        """Stop renewing the lease. The records stay until the TTL is over."""
        self._lose("the lease was closed")
        await cancel_and_wait(self._keeper)

    async def _keep_alive(self) -> None:
        wait = self._ttl / 3  # two renewals may fail before the lease expires
        while True:
            await asyncio.sleep(wait)
            try:
                await self._renew()
                await self._verify()
                wait = self._ttl / 3
            except LeaseLostError as error:
                self._lose(str(error))
                return
            except RegistryError:
                # No member answers, or access is denied for now. The TTL runs on, so the next attempt comes sooner.
                wait = self._ttl / 12

    async def _renew(self) -> None:
        left = self._expires - _now()
        if left <= 0:
            raise LeaseLostError(f"the lease has expired: it could not be renewed within {self._ttl:g} s")
        request = LeaseKeepAliveRequest(ID=self._number)
        answer = await self._client.call(LEASE_KEEP_ALIVE, request, timeout=left, attempt=self._ttl / 6)
        if answer.TTL <= 0:
            raise LeaseLostError("the lease has expired or was revoked")
        self._ttl = float(answer.TTL)
        self._expires = _now() + self._ttl

    async def _verify(self) -> None:
        """Read the records of the lease: members before 3.5.23 and 3.4.38 may renew a lease that is revoked.

        Raises LeaseLostError if the lease no longer holds a record.
        """
        # The next renewal must not wait for this, even with very many records or a slow cluster.
        limit = self._ttl / 6
        with suppress(TimeoutError):
            deletions, grants = self._deletions, self._takeovers.grants
            async with asyncio.timeout(limit):
                # A record that is being handed over may have its new owner already.
                lost = await self._records.first_lost(self._keys - self._takeovers.granted.keys(), timeout=limit)
            # A record that `delete` has removed, or that was handed over, during the check is not lost.
            if lost is not None and deletions == self._deletions and grants == self._takeovers.grants:
                raise LeaseLostError(lost)

    def _add(self, key: str) -> None:
        self._keys.add(key)
        self._takeovers.add(key)

    def _raise_if_lost(self) -> None:
        if self._lost.done():
            raise LeaseLostError(f"{self._lost.result()}: open another lease and put every record again")

    def _lose(self, why: str) -> None:
        if not self._lost.done():
            self._lost.set_result(why)
