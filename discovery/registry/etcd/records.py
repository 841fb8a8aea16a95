"""Writes and removes records under a lease, by idempotent transactions."""

from collections.abc import AsyncIterator, Awaitable, Collection, Iterable

from discovery.errors import OwnedByAnotherError, RegistryUnavailableError
from discovery.registry.etcd.client import CALL_SECONDS, Client
from discovery.registry.etcd.listing import pages
from discovery.registry.etcd.messages import RANGE, TXN, Message, RangeRequest, TxnRequest
from discovery.registry.etcd.removals import until_removed
from discovery.registry.etcd.transactions import absent, owner_of, read, remove, unchanged, under_lease, write

_PUT_ATTEMPTS = 10
"""Transactions for a put: each fails only if another client has changed the record since the last."""
_CHUNK = 100
"""Operations in a transaction: etcd's default limit is 128."""


class Records:
    """The records of an owner under a single lease."""

    def __init__(self, client: Client, prefix: bytes, owner: str, lease: int) -> None:
        """Keep the arguments. `lease` is the lease's number."""
        self._client = client
        self._prefix = prefix
        self._owner = owner
        self._lease = lease

    async def put(self, key: str, value: bytes, *, force: bool) -> None:
        """Write `value` at `key`, unless the lease already holds an equal record.

        Raises OwnedByAnotherError (not with `force`), or as Client.call does.
        """
        name = self._prefix + key.encode()
        existing: Message | None = None
        for _ in range(_PUT_ATTEMPTS):
            if existing is not None and existing.lease == self._lease and existing.value == value:
                return
            if existing is not None and not force:
                self._refuse_another(key, existing)
            as_read = absent(name) if existing is None else unchanged(existing)
            request = TxnRequest(compare=[as_read], success=[write(name, value, self._lease)], failure=[read(name)])
            answer = await self._client.call(TXN, request)
            if answer.succeeded:
                return
            # This also finds the record of an earlier attempt whose answer was lost.
            found = answer.responses[0].response_range.kvs
            existing = found[0] if found else None
        raise RegistryUnavailableError(f"etcd: the record {key!r} changed {_PUT_ATTEMPTS} times while it was written")

    async def delete(self, key: str) -> None:
        """Remove the record at `key` if the lease still holds the record."""
        name = self._prefix + key.encode()
        await self._client.call(TXN, TxnRequest(compare=[under_lease(name, self._lease)], success=[remove(name)]))

    async def sweep(self, keep: Collection[str], among: Collection[str] | None) -> frozenset[str]:
        """Remove the owner's records that this lease does not hold, except the keys in `keep`. Return the removed keys.

        With `among`, only these keys are read; otherwise the whole prefix is listed.
        """

        def ask(request: Message, seconds: float) -> Awaitable[Message]:
            return self._client.call(RANGE, request, timeout=seconds)

        stale: dict[str, Message] = {}
        everything = pages(ask, self._prefix, 0, CALL_SECONDS)
        async for page in everything if among is None else self._pages_of(set(among).difference(keep)):
            for kv in page.kvs:
                if kv.lease == self._lease:
                    continue
                key = kv.key[len(self._prefix) :].decode(errors="backslashreplace")
                if key not in keep and owner_of(key, kv) == self._owner:
                    stale[key] = kv
        return frozenset([key for key, kv in stale.items() if await self._delete_unchanged(kv)])

    async def _pages_of(self, keys: Iterable[str]) -> AsyncIterator[Message]:
        for key in keys:
            yield await self._client.call(RANGE, RangeRequest(key=self._prefix + key.encode()))

    async def _delete_unchanged(self, existing: Message) -> bool:
        request = TxnRequest(compare=[unchanged(existing)], success=[remove(existing.key)])
        answer = await self._client.call(TXN, request)
        return bool(answer.succeeded)

    async def first_lost(self, keys: Iterable[str], timeout: float) -> str | None:
        """Return a line about the first of `keys` whose record the lease no longer holds, or None. Linearizable."""
        names = [self._prefix + key.encode() for key in keys]
        for start in range(0, len(names), _CHUNK):
            chunk = names[start : start + _CHUNK]
            answer = await self._client.call(
                TXN,
                TxnRequest(
                    compare=[under_lease(name, self._lease) for name in chunk], failure=[read(name) for name in chunk]
                ),
                timeout=timeout,
            )
            if answer.succeeded:
                continue
            for name, response in zip(chunk, answer.responses, strict=True):
                key, kvs = name[len(self._prefix) :].decode(), response.response_range.kvs
                if not kvs:
                    return f"the record {key!r} was removed"
                if kvs[0].lease != self._lease:
                    return f"the record {key!r} was taken over by {_describe(key, kvs[0])}"
        return None

    async def until_free(self, keys: Collection[str]) -> None:
        """Wait until any of `keys` is absent. Raises as Client.call does if the keys cannot be watched."""
        await until_removed(self._client, [self._prefix + key.encode() for key in keys])

    def _refuse_another(self, key: str, existing: Message) -> None:
        if existing.lease != self._lease and owner_of(key, existing) != self._owner:
            raise OwnedByAnotherError.of(key, _describe(key, existing), owner_of(key, existing))


def _describe(key: str, existing: Message) -> str:
    owner = owner_of(key, existing)
    if owner is not None:
        return f"{owner!r}"
    return "another program, which names no owner" if existing.lease else "an unnamed owner (written by hand?)"
