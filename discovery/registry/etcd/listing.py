"""Lists every key under a prefix at the same revision, page by page. The reads are linearizable."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from discovery.registry.etcd.connection import Connection
from discovery.registry.etcd.failures import CompactedError
from discovery.registry.etcd.messages import RANGE, Message, RangeRequest, range_end
from discovery.registry.requests import PLACE

_PAGE_KEYS = 5_000
"""Keys of the largest page: the event loop parses a page in a single step."""
_PAGE_BYTES = 8 * 1024 * 1024
"""Bytes of a page, approximately: the memory for a page, both in this process and in the member."""
_FIRST_PAGE_KEYS = 500
"""Keys of the first page, when the size of the values is not known: 32 MiB even with the largest records."""
_ATTEMPTS = 10
"""Listings that a compaction may interrupt: a compaction is rare, so more interruptions have another cause."""
_PAGE_SECONDS = 15.0
"""Seconds for each page after the first: the member has answered, and a slow network may need the time."""


@dataclass(slots=True)
class PrefixListing:
    """A listing: its revision, the header of the answer, and of each key the value, mark, lease and creation.

    Requests for records are left out.
    """

    revision: int
    header: Message
    values: dict[bytes, bytes] = field(default_factory=dict)
    marks: dict[bytes, int] = field(default_factory=dict)
    leases: dict[bytes, int] = field(default_factory=dict)
    created: dict[bytes, int] = field(default_factory=dict)
    """The revision at which each key was created."""


def mark(revision: int, value: bytes) -> int:
    """Return a short value that identifies a write of a key: a hash of the revision and the written value.

    The revision alone is not enough: a script that rebuilds a cluster may write the same keys at the same revisions.
    """
    return hash((revision, value))


async def list_prefix(connection: Connection, prefix: bytes, *, revision: int = 0, timeout: float) -> PrefixListing:
    """Return the listing of `prefix` at `revision`; 0 means the present revision.

    If the present revision is compacted during the listing, the listing starts again. Raises CompactedError or
    FutureRevisionError if a given `revision` is not available, MemberUnavailableError or AccessDeniedError. The first
    page has `timeout` seconds, so that a member that hangs is detected soon.
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
    hidden = prefix + PLACE.encode()

    def ask(request: Message, seconds: float) -> Awaitable[Message]:
        return connection.call(RANGE, request, seconds)

    async for page in pages(ask, prefix, revision, timeout):
        listing.header = listing.header or page.header
        listing.revision = listing.revision or page.header.revision
        for kv in page.kvs:
            key, value = kv.key, kv.value
            if key.startswith(hidden):
                continue
            listing.values[key] = value
            listing.marks[key] = mark(kv.mod_revision, value)
            listing.created[key] = kv.create_revision
            if lease := kv.lease:
                listing.leases[key] = lease
    return listing


async def pages(
    ask: Callable[[Message, float], Awaitable[Message]], prefix: bytes, revision: int, timeout: float
) -> AsyncIterator[Message]:
    """Yield the pages of `prefix`, all at the same revision: the answers of `ask` to a request and a timeout.

    `revision` 0 means the present revision. `timeout` is the timeout of the first page in seconds.
    """
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
        # Pages of many keys with large values would need much memory, both in this process and in the member.
        limit = max(1, min(_PAGE_KEYS, limit * _PAGE_BYTES // max(1, page.ByteSize())))
        timeout = _PAGE_SECONDS
