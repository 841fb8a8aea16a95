"""Every key under a prefix at a revision, read page by page and linearizable."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from discovery.registry.etcd.connection import Connection
from discovery.registry.etcd.failures import CompactedError
from discovery.registry.etcd.messages import RANGE, Message, RangeRequest, range_end

_PAGE_KEYS = 5_000
_PAGE_BYTES = 8 * 1024 * 1024
_FIRST_PAGE_KEYS = 500
_ATTEMPTS = 10
_PAGE_SECONDS = 15.0


@dataclass(slots=True)
class PrefixListing:
    """A listing: its revision, the header of the answer, and the value, mark and lease of each key."""

    revision: int
    header: Message
    values: dict[bytes, bytes] = field(default_factory=dict)
    marks: dict[bytes, int] = field(default_factory=dict)
    leases: dict[bytes, int] = field(default_factory=dict)


def mark(revision: int, value: bytes) -> int:
    """Return a short value that identifies a write of a key.

    The value is part of it: a script that rebuilds a cluster may write the same keys at the same revisions.
    """
    return hash((revision, value))


async def list_prefix(connection: Connection, prefix: bytes, *, revision: int = 0, timeout: float) -> PrefixListing:
    """List at `revision`, or (0) at the present revision; then begin again when a compaction overtakes the listing.

    Raises CompactedError or FutureRevisionError for a given revision that is not to be had, MemberUnavailableError and
    AccessDeniedError. The first page has `timeout` seconds: a member that hangs is noticed there.
    """
    for _ in range(_ATTEMPTS):
        try:
            return await _list(connection, prefix, revision, timeout)
        except CompactedError:
            if revision:
                raise
    raise CompactedError(f"etcd {connection.endpoint}: compactions overtook the listing {_ATTEMPTS} times")


async def _list(connection: Connection, prefix: bytes, revision: int, timeout: float) -> PrefixListing:
    listing = PrefixListing(revision, None)

    def ask(request: Message, seconds: float) -> Awaitable[Message]:
        return connection.call(RANGE, request, seconds)

    async for page in pages(ask, prefix, revision, timeout):
        listing.header = listing.header or page.header
        listing.revision = listing.revision or page.header.revision
        for kv in page.kvs:
            key, value = kv.key, kv.value
            listing.values[key] = value
            listing.marks[key] = mark(kv.mod_revision, value)
            if lease := kv.lease:
                listing.leases[key] = lease
    return listing


async def pages(
    ask: Callable[[Message, float], Awaitable[Message]], prefix: bytes, revision: int, timeout: float
) -> AsyncIterator[Message]:
    """The answers to `ask` for range after range, all at one revision; `timeout` is the first one's, in seconds."""
    key, end = prefix, range_end(prefix)
    limit = _FIRST_PAGE_KEYS
    while True:
        request = RangeRequest(key=key, range_end=end, limit=limit, revision=revision)
        page = await ask(request, timeout)
        yield page
        if not page.more:
            return
        revision = revision or page.header.revision
        key = page.kvs[-1].key + b"\0"
        # Large values in pages of many keys would need much memory at once, here and there.
        limit = max(1, min(_PAGE_KEYS, limit * _PAGE_BYTES // max(1, page.ByteSize())))
        timeout = _PAGE_SECONDS
