"""The known state of the keys under a prefix, and its changes by each response of a watch. No I/O.

The rules keep a client of etcd correct through fragments, catch-up, compaction, failover and a rebuilt cluster. Each
rule is named where the code obeys it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from discovery.registry.base import Delta, History, Reset
from discovery.registry.etcd.listing import PrefixListing, mark
from discovery.registry.etcd.messages import DELETE, Message
from discovery.registry.etcd.ttls import TTLs

_REVISION = attrgetter("kv.mod_revision")
_REQUESTED_PROGRESS = -1


@dataclass(frozen=True, slots=True)
class ResyncNeeded:
    """The known state may be wrong, or the watch cannot continue from it: list again."""

    reason: str


@dataclass(frozen=True, slots=True)
class Canceled:
    """The member has ended the watch, in its own words."""

    reason: str


class WatchHistory:
    """Folds listings and watch responses into a delta for each revision.

    `revision` is the last one up to which everything is known; None before the first listing and in doubt.
    """

    def __init__(self, prefix: bytes) -> None:
        """Know nothing."""
        self.prefix = prefix
        self.ttls = TTLs()
        self.revision: int | None = None
        self.created = False
        self._marks: dict[bytes, int] = {}
        self._cluster = 0
        self._term = 0
        self._fragments: list[Message] = []

    def reset(self, listing: PrefixListing, *, another: bool = False) -> Reset:
        """Begin from a listing, whatever was known before; `another` means that it does not continue that."""
        self.revision = listing.revision
        self._marks = listing.marks
        self._cluster = listing.header.cluster_id
        self._term = listing.header.raft_term
        leases: dict[str, float] = {}
        for name, lease in listing.leases.items():
            key = self.relative(name)
            leases[key] = self.ttls.of(lease, key, listing.values[name])
        return Reset(
            listing.revision,
            {self.relative(key): value for key, value in listing.values.items()},
            leases,
            History(f"{self._cluster:x}", self._term),
            another,
        )

    def forget(self) -> None:
        """ResyncNeeded the known state until the next listing."""
        self.revision = None

    def opened(self) -> None:
        """A new stream begins. What the last one left half said is dropped."""
        self.created = False
        self._fragments = []

    def agrees_with(self, listing: PrefixListing) -> bool:
        """Return True if a linearizable listing at the known revision has the same history and records.

        A cluster that was emptied can come back under the same id: then its revision or its term went back, or a key
        has another mark.
        """
        return (
            listing.header.cluster_id == self._cluster
            and listing.header.raft_term >= self._term
            and listing.header.revision >= (self.revision or 0)
            and listing.marks == self._marks
        )

    def receive(self, response: Message) -> tuple[Delta, ...] | ResyncNeeded | Canceled:
        """Take in a response."""
        if response.compact_revision:
            # At creation or later. Never skip ahead: what was compacted is unknown.
            return ResyncNeeded(f"revision {response.compact_revision} is compacted")
        if response.canceled:
            # Even when `created` is set, as it is for a token that has expired.
            return Canceled(response.cancel_reason or "the watch was canceled")
        if response.header.cluster_id != self._cluster:
            return ResyncNeeded("another cluster answers")
        if response.created:
            # Its header shows the present revision while what happened before is still to come: never advance by it.
            self.created = True
            return ()
        if response.watch_id == _REQUESTED_PROGRESS:
            # It may overtake events that are not delivered yet: a sign of life, nothing more.
            return ()
        if not response.events:
            self._progress(response.header.revision)
            return ()
        if response.fragment:
            # It can split a revision; what has come so far is of no use alone.
            self._fragments.extend(response.events)
            return ()
        events, self._fragments = [*self._fragments, *response.events], []
        return self._advance(events)

    def _progress(self, revision: int) -> None:
        if self.revision is not None and revision > self.revision and not self._fragments:
            self.revision = revision

    def _advance(self, events: list[Message]) -> tuple[Delta, ...] | ResyncNeeded:
        deltas = tuple(self._deltas(events))
        known = self.revision or 0
        for delta in deltas:
            if delta.revision <= known:
                return ResyncNeeded(f"revision {delta.revision} came after {known}")
            known = delta.revision
        if deltas:
            self.revision = known
        return deltas

    def _deltas(self, events: list[Message]) -> Iterator[Delta]:
        first = (self.revision or 0) + 1
        # One response is not one transaction, nor one transaction one response: a revision is.
        for revision, changed in groupby(events, _REVISION):
            if revision < first:
                continue  # delivered before
            puts: dict[str, bytes] = {}
            leases: dict[str, float] = {}
            deletes: set[str] = set()
            for event in changed:
                kv = event.kv
                key = self.relative(kv.key)
                if event.type == DELETE:
                    self._marks.pop(kv.key, None)
                    puts.pop(key, None)
                    leases.pop(key, None)
                    deletes.add(key)
                else:
                    puts[key] = value = kv.value
                    self._marks[kv.key] = mark(revision, value)
                    deletes.discard(key)
                    if lease := kv.lease:
                        leases[key] = self.ttls.of(lease, key, value)
            yield Delta(revision, puts, frozenset(deletes), leases)

    def relative(self, key: bytes) -> str:
        """A key without the prefix, as text; what is no UTF-8 becomes text that no record may have as its key."""
        return key[len(self.prefix) :].decode(errors="backslashreplace")
