"""Moves a record from a living owner to another, by requests in etcd: see `discovery.registry.requests`.

The owner that asks writes a request under its own lease, so that the request ends with its owner. The owner of the
record agrees by a change of the request. Then the asking owner replaces the record and removes the request in one
transaction. So the record always has an owner that lives, and each step is compared with what was read before.
"""

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress

from discovery.errors import CannotBeAskedError, LeaseLostError, RegistryError
from discovery.registry.etcd.client import Client, rounds
from discovery.registry.etcd.connection import Stream
from discovery.registry.etcd.failures import CompactedError, MemberUnavailableError, explain
from discovery.registry.etcd.messages import (
    RANGE,
    TXN,
    WATCH,
    Message,
    RangeRequest,
    TxnRequest,
    WatchCreateRequest,
    WatchRequest,
    range_end,
)
from discovery.registry.etcd.transactions import absent, owner_of, read, remove, unchanged, under_lease, write
from discovery.registry.requests import PLACE, Request
from discovery.system.asyncio_tools import cancel_and_wait

_LOOK_EVERY = 30.0
"""Seconds after which requests are read even if no change is reported: a member may be silent for a fault."""
_WITHDRAW_SECONDS = 2.0
"""Seconds for the withdrawal of a request. Without an answer the request ends with its lease."""
_MOST_REQUESTS = 1000
"""Requests that are read at once; the others are read when these are gone."""

Ranges = Sequence[tuple[bytes, bytes | None]]
"""Keys to watch: each is a key, and the end of a range or None."""


class Takeovers:
    """The requests of an owner, and the answers to the requests of other owners. For one lease."""

    def __init__(self, client: Client, prefix: bytes, owner: str, lease: int) -> None:
        """Keep the arguments. `lease` is the lease's number."""
        self._client = client
        self._prefix = prefix
        self._requests = prefix + PLACE.encode()
        self._owner = owner
        self._lease = lease
        self.granted: dict[str, str] = {}
        """By key: the owner that is about to take the record of this lease."""
        self._moved: dict[str, str] = {}
        """By key: the new owner of a record, until `hand_over` has returned both."""
        self._others: set[str] = set()
        """The keys that are asked for and were no records of this lease at the last look."""
        self._has_other = asyncio.Event()
        self.grants = 0
        """Number of requests that were granted."""

    async def take(self, key: str, value: bytes) -> bool:
        """Ask the owner of the record at `key`, wait, and write `value`. Returns False if the key may be put instead.

        That is so if the key is free, or belongs to this owner. Raises CannotBeAskedError, or as Client.call does.
        """
        name, asked = self._prefix + key.encode(), self._requests + key.encode()
        may_stand = False
        try:
            while True:
                record, request, revision = await self._read(key)
                owner = None if record is None else owner_of(key, record)
                if record is None or owner == self._owner or record.lease == self._lease:
                    return False
                if owner is None:
                    raise CannotBeAskedError.of(key, "an unnamed owner (written by hand?)", None)
                found = None if request is None else Request.decode(request.value)
                if request is None:
                    may_stand = True
                    await self._write(asked, Request(self._owner, owner), absent(asked), unchanged(record))
                elif request.lease == self._lease and (found is None or found.of != owner):
                    await self._withdraw(asked)  # the record has another owner than before
                elif request.lease == self._lease and found is not None and found.granted:
                    if await self._replace(name, value, record, request):
                        may_stand = False
                        return True
                else:
                    await self._until_changed(((name, None), (asked, None)), revision)
        finally:
            if may_stand:
                with suppress(RegistryError):
                    await self._withdraw(asked)

    def add(self, key: str) -> None:
        """Note that the lease has got the record at `key`: the record may have been asked for before."""
        if key in self._others:
            self._has_other.set()

    async def hand_over(self, keys: Collection[str]) -> tuple[str, str]:
        """Agree to requests for the records `keys` of this lease; return a record that has a new owner, and the owner.

        `keys` may change during the call. Raises as Client.call does.
        """
        everything = ((self._requests, range_end(self._requests)),)
        while not self._moved:
            self._has_other.clear()
            answer = await self._client.call(
                RANGE, RangeRequest(key=everything[0][0], range_end=everything[0][1], limit=_MOST_REQUESTS)
            )
            asked = {kv.key[len(self._requests) :].decode(errors="backslashreplace"): kv for kv in answer.kvs}
            self._others = asked.keys() - keys
            for key in asked.keys() - self._others:
                await self._grant(key, asked[key])
            for key in self.granted.keys() - asked.keys():
                await self._end(key, keys)
            if not self._moved:
                await self._until_changed(everything, answer.header.revision, self._has_other)
        key, owner = self._moved.popitem()
        self.granted.pop(key, None)
        return key, owner

    async def _grant(self, key: str, kv: Message) -> None:
        request = Request.decode(kv.value)
        if request is None or request.of != self._owner or kv.lease == self._lease:
            return
        if self.granted.get(key) != request.owner:
            self.grants += 1
            self.granted[key] = request.owner  # first: the record may be gone before the answer is here
        if request.granted:
            return  # also by an earlier run of this owner
        agreed = Request(request.owner, request.of, granted=True)
        with suppress(LeaseLostError):  # the other lease is lost: its request is gone
            held = under_lease(self._prefix + key.encode(), self._lease)
            await self._write(kv.key, agreed, unchanged(kv), held, lease=kv.lease)

    async def _end(self, key: str, keys: Collection[str]) -> None:
        """Note the new owner of a record whose request has ended, unless this lease has kept or withdrawn it."""
        record, request, _ = await self._read(key)
        if request is not None:
            return  # another request has come meanwhile, and is read next
        if key in keys and (record is None or record.lease != self._lease):
            # The owner that has asked may have removed the record since, or handed the record over.
            self._moved[key] = (None if record is None else owner_of(key, record)) or self.granted[key]
        else:
            del self.granted[key]

    async def _read(self, key: str) -> tuple[Message | None, Message | None, int]:
        """Return the record at `key`, the request for it, and the revision of both."""
        names = (self._prefix + key.encode(), self._requests + key.encode())
        answer = await self._client.call(TXN, TxnRequest(success=[read(name) for name in names]))
        record, request = (next(iter(each.response_range.kvs), None) for each in answer.responses)
        return record, request, answer.header.revision

    async def _write(self, name: bytes, request: Request, *compare: Message, lease: int = 0) -> None:
        put = write(name, request.encoded, lease or self._lease)
        await self._client.call(TXN, TxnRequest(compare=compare, success=[put]))

    async def _replace(self, name: bytes, value: bytes, record: Message, request: Message) -> bool:
        moved = [write(name, value, self._lease), remove(request.key)]
        as_read = [unchanged(record), unchanged(request)]
        answer = await self._client.call(TXN, TxnRequest(compare=as_read, success=moved))
        return bool(answer.succeeded)

    async def _withdraw(self, asked: bytes) -> None:
        await self._client.call(
            TXN,
            TxnRequest(compare=[under_lease(asked, self._lease)], success=[remove(asked)]),
            timeout=_WITHDRAW_SECONDS,
            attempt=_WITHDRAW_SECONDS / 2,
        )

    async def _until_changed(self, ranges: Ranges, revision: int, also: asyncio.Event | None = None) -> None:
        """Wait until a key in `ranges` changes after `revision` or `also` is set. If a member fails, use another."""
        changing = asyncio.ensure_future(self._follow(ranges, revision))
        reasons = {changing} if also is None else {changing, asyncio.ensure_future(also.wait())}
        try:
            await asyncio.wait(reasons, timeout=_LOOK_EVERY, return_when=asyncio.FIRST_COMPLETED)
            if changing.done():
                changing.result()
        finally:
            await cancel_and_wait(*reasons)

    async def _follow(self, ranges: Ranges, revision: int) -> None:
        retries = rounds()
        while True:
            try:
                return await _watch(self._client, ranges, revision)
            except CompactedError:
                return None
            except MemberUnavailableError:
                await asyncio.sleep(next(retries))


async def _watch(client: Client, ranges: Ranges, revision: int) -> None:
    stream = await client.open(WATCH)
    asking = asyncio.ensure_future(_ask(stream, ranges, revision))
    try:
        while True:
            response = await stream.receive()
            if response.compact_revision:
                return
            if response.canceled:
                raise explain(stream.endpoint, None, response.cancel_reason or "the watch was canceled")
            if response.events:
                return
    finally:
        stream.close()
        asking.cancel()


async def _ask(stream: Stream, ranges: Ranges, revision: int) -> None:
    for key, end in ranges:
        create = WatchCreateRequest(key=key, start_revision=revision + 1)
        if end is not None:
            create.range_end = end
        await stream.send(WatchRequest(create_request=create))
