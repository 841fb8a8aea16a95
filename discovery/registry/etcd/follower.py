"""The known state of the keys under a prefix, and the changes in each response of a watch. No I/O.

The comments state the rules that keep the known state correct when responses come in fragments, a watch catches up,
revisions are compacted, members fail, or the cluster is rebuilt.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from discovery.registry.base import Delta, History, Reset
from discovery.registry.etcd.listing import PrefixListing, mark
from discovery.registry.etcd.messages import DELETE, Message
from discovery.registry.etcd.ttls import TTLs
from discovery.registry.requests import PLACE

_REVISION = attrgetter("kv.mod_revision")
_REQUESTED_PROGRESS = -1
"""The id of the watch in an answer to a request for progress: etcd answers for all watches of the stream."""


@dataclass(frozen=True, slots=True)
class ResyncNeeded:
    """The known state may be wrong, or the watch cannot continue from the known state. A new listing is needed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Canceled:
    """The member has ended the watch. `reason` is the member's text."""

    reason: str


class WatchHistory:
    """Converts listings and watch responses to events: a Reset for a listing, a Delta for each revision.

    `present` is the member's revision when it created the watch: events up to that revision are of before.

    `revision` is the latest revision up to which every change is known; None before the first listing and after
    `forget`.
    """

    def __init__(self, prefix: bytes) -> None:
        """Create the history of `prefix`, without a known state."""
        self.prefix = prefix
        self._hidden = prefix + PLACE.encode()
        self.ttls = TTLs()
        self.revision: int | None = None
        self.created = False
        self.present = 0
        self._marks: dict[bytes, int] = {}
        self._cluster = 0
        self._term = 0
        self._fragments: list[Message] = []

    def reset(self, listing: PrefixListing, *, another: bool = False) -> Reset:
        """Replace the known state by `listing`, and return the Reset.

        `another` is true if the listing belongs to another history than the known state.
        """
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
            {self.relative(key): revision for key, revision in listing.created.items()},
        )

    def forget(self) -> None:
        """Discard the known revision, so that the watch must list again."""
        self.revision = None

    def opened(self) -> None:
        """Prepare for a new stream. Fragments of the last stream are discarded."""
        self.created = False
        self._fragments = []

    def agrees_with(self, listing: PrefixListing) -> bool:
        """Return True if `listing`, linearizable and at the known revision, has the known history and the known keys.

        A cluster that was emptied can come back with the same id. Then its revision or its term has decreased, or a key
        has another mark.
        """
        return (
            listing.header.cluster_id == self._cluster
            and listing.header.raft_term >= self._term
            and listing.header.revision >= (self.revision or 0)
            and listing.marks == self._marks
        )

    def receive(self, response: Message) -> tuple[Delta, ...] | ResyncNeeded | Canceled:
        """Return the deltas of a response, or the reason why the watch cannot continue."""
        if response.compact_revision:
            # At creation or later. Continuing after the compacted revision would miss the compacted changes.
            return ResyncNeeded(f"revision {response.compact_revision} is compacted")
        if response.canceled:
            # `canceled` takes precedence over `created`: for an expired token etcd sets both.
            return Canceled(response.cancel_reason or "the watch was canceled")
        if response.header.cluster_id != self._cluster:
            return ResyncNeeded("another cluster answers")
        if response.created:
            # The header has the present revision, while events before it are still to come: the known revision stays.
            self.created = True
            self.present = response.header.revision
            return ()
        if response.watch_id == _REQUESTED_PROGRESS:
            # An answer to a progress request may overtake events, so it only shows that the member is alive.
            return ()
        if not response.events:
            self._progress(response.header.revision)
            return ()
        if response.fragment:
            # A fragment may end within a revision, so events count only when the last fragment is complete.
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
        # A transaction may span responses, and a response may have several transactions: the revision separates them.
        for revision, changed in groupby(events, _REVISION):
            if revision < first:
                continue  # a repeated event
            puts: dict[str, bytes] = {}
            leases: dict[str, float] = {}
            created: dict[str, int] = {}
            deletes: set[str] = set()
            for event in changed:
                kv = event.kv
                if kv.key.startswith(self._hidden):
                    continue  # a request for a record: the Delta may be empty, and tells the revision
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
                    created[key] = kv.create_revision
                    if lease := kv.lease:
                        leases[key] = self.ttls.of(lease, key, value)
            yield Delta(revision, puts, frozenset(deletes), leases, created)

    def relative(self, key: bytes) -> str:
        """Return a key without the prefix, as text. Bytes that are not UTF-8 become escapes that no valid key has."""
        return key[len(self.prefix) :].decode(errors="backslashreplace")
