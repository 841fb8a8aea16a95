"""Every key under a prefix at one revision, read page by page and linearizable."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from discovery.registry.etcd.connection import Connection
from discovery.registry.etcd.failures import CompactedError
from discovery.registry.etcd.messages import RANGE, Message, RangeRequest, range_end

PAGE_KEYS = 5_000
_PAGE_BYTES = 8 * 1024 * 1024
_FIRST_PAGE_KEYS = 500
_ATTEMPTS = 10
_PAGE_SECONDS = 15.0


@dataclass(slots=True)
class Listing:
    """What a listing found: the revision it is pinned to, the answer's header, and each key's modification revision.

    `values` is empty if only the keys were asked for.
    """

    revision: int
    header: Message
    revisions: dict[bytes, int] = field(default_factory=dict)
    values: dict[bytes, bytes] = field(default_factory=dict)


async def list_prefix(
    connection: Connection, prefix: bytes, *, revision: int = 0, keys_only: bool = False, timeout: float
) -> Listing:
    """List at `revision`, or (0) at the present one; then begin again when a compaction overtakes it.

    Raises CompactedError or FutureRevisionError for a given revision that is not to be had, MemberUnavailableError and
    AccessDeniedError. The first page has `timeout` seconds: a member that hangs is noticed there.
    """
    for _ in range(_ATTEMPTS):
        try:
            return await _list(connection, prefix, revision, keys_only, timeout)
        except CompactedError:
            if revision:
                raise
    raise CompactedError(f"etcd {connection.endpoint}: compactions overtook the listing {_ATTEMPTS} times")


async def _list(connection: Connection, prefix: bytes, revision: int, keys_only: bool, timeout: float) -> Listing:
    listing = Listing(revision, None)
    async for page in _pages(connection, prefix, revision, keys_only, timeout):
        listing.header = listing.header or page.header
        listing.revision = listing.revision or page.header.revision
        for kv in page.kvs:
            key = kv.key
            listing.revisions[key] = kv.mod_revision
            if not keys_only:
                listing.values[key] = kv.value
    return listing


async def _pages(
    connection: Connection, prefix: bytes, revision: int, keys_only: bool, timeout: float
) -> AsyncIterator[Message]:
    key, end = prefix, range_end(prefix)
    limit = PAGE_KEYS if keys_only else _FIRST_PAGE_KEYS
    while True:
        request = RangeRequest(key=key, range_end=end, limit=limit, revision=revision, keys_only=keys_only)
        page = await connection.call(RANGE, request, timeout)
        yield page
        if not page.more:
            return
        revision = revision or page.header.revision
        key = page.kvs[-1].key + b"\0"
        # Large values in pages of many keys would need much memory at once, here and there.
        limit = max(1, min(PAGE_KEYS, limit * _PAGE_BYTES // max(1, page.ByteSize())))
        timeout = _PAGE_SECONDS
