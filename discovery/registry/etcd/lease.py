"""A lease in etcd, kept alive by a task of its own."""

import asyncio
import math
import secrets
import time
from collections.abc import Collection
from contextlib import suppress

from discovery.codec import encode
from discovery.errors import LeaseLostError, RegistryError
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
from discovery.system.asyncio_tools import cancel_and_wait

_CLOSE_SECONDS = 3.0


def _now() -> float:
    """Return seconds that also pass while the machine sleeps, as seconds pass for the members."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class EtcdLease:
    """Registrations under a lease. Open with `EtcdLease.open`."""

    @classmethod
    async def open(cls, client: Client, prefix: bytes, owner: str, ttl: float) -> "EtcdLease":
        """Ask for a lease, of whole seconds and at least the cluster's minimum. Raises as Client.call does."""
        # A number of our own makes the request one that may be repeated.
        number = secrets.randbits(62) + 1
        request = LeaseGrantRequest(TTL=max(1, math.ceil(ttl)), ID=number)
        try:
            granted = float((await client.call(LEASE_GRANT, request)).TTL)
        except LeaseExistsError:
            # An attempt was carried out, but its answer lost; the first keep-alive tells how long it is.
            granted = float(request.TTL)
        return cls(client, prefix, owner, number, granted)

    def __init__(self, client: Client, prefix: bytes, owner: str, number: int, ttl: float) -> None:
        """Begin to keep the lease alive."""
        self._client = client
        self._owner = owner
        self._number = number
        self._ttl = ttl
        self._expires = _now() + ttl  # at the latest; when within the call it was granted is not known
        self._records = Records(client, prefix, owner, number)
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
        """Seconds granted, which may be more than were asked for."""
        return self._ttl

    async def put(self, backend: Backend, *, force: bool = False) -> None:
        """Write the record under this lease, unless an equal record stands."""
        key, value = backend.key, encode(backend, self._owner, self._ttl)
        self._raise_if_lost()
        try:
            await self._records.put(key, value, force=force)
        except LeaseLostError as error:
            self._lose(str(error))
            raise
        self._keys.add(key)

    async def delete(self, backend: Backend) -> None:
        """Remove the record if the record is under this lease; otherwise do nothing."""
        key = backend.key
        self._keys.discard(key)
        self._deletions += 1
        await self._records.delete(key)

    async def sweep(self, keep: Collection[str], among: Collection[str] | None = None) -> frozenset[str]:
        """Remove what an earlier run of this owner left, but for the keys in `keep`."""
        self._raise_if_lost()
        return await self._records.sweep(keep, among)

    async def until_free(self, keys: Collection[str]) -> None:
        """Wait until a key of `keys`, which was refused, is absent: one watch on these keys alone."""
        await self._records.until_free(keys)

    async def lost(self) -> str:
        """Wait until the lease, or a record under it, is gone or taken over, and return why."""
        return await asyncio.shield(self._lost)

    async def close(self) -> None:
        """Withdraw every record by ending the lease. Idempotent; gives up quietly if no member answers in time."""
        await self.abandon()
        with suppress(RegistryError):
            request = LeaseRevokeRequest(ID=self._number)
            await self._client.call(LEASE_REVOKE, request, timeout=_CLOSE_SECONDS, attempt=_CLOSE_SECONDS / 2)

    async def abandon(self) -> None:
        """Stop keeping the lease alive, so that its records stand until the TTL is over."""
        self._lose("the lease was closed")
        await cancel_and_wait(self._keeper)

    async def _keep_alive(self) -> None:
        wait = self._ttl / 3
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
                # Unreachable, or not allowed at the moment. The members count down, and so do we.
                wait = self._ttl / 12

    async def _renew(self) -> None:
        left = self._expires - _now()
        if left <= 0:
            raise LeaseLostError(f"the lease has expired: no way was found to renew it within {self._ttl:g} s")
        request = LeaseKeepAliveRequest(ID=self._number)
        answer = await self._client.call(LEASE_KEEP_ALIVE, request, timeout=left, attempt=self._ttl / 6)
        if answer.TTL <= 0:
            raise LeaseLostError("the lease has expired or was revoked")
        self._ttl = float(answer.TTL)
        self._expires = _now() + self._ttl

    async def _verify(self) -> None:
        """Look at our records as well: members before 3.5.23 and 3.4.38 may renew a lease that is revoked."""
        limit = self._ttl / 6
        # However many there are, however slow the cluster: the next keep-alive must not wait for it.
        with suppress(TimeoutError):
            deletions = self._deletions
            async with asyncio.timeout(limit):
                lost = await self._records.first_lost(self._keys, timeout=limit)
            # Not if it may be one that we ourselves have deleted meanwhile.
            if lost is not None and deletions == self._deletions:
                raise LeaseLostError(lost)

    def _raise_if_lost(self) -> None:
        if self._lost.done():
            raise LeaseLostError(f"{self._lost.result()}: open another and put everything again")

    def _lose(self, why: str) -> None:
        if not self._lost.done():
            self._lost.set_result(why)
