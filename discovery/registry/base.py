"""The registry protocol: raw records at revisions, and a watch that neither invents nor loses a change.

Keys are relative to the registry's prefix: `<service>/<id>`. Values are bytes; `discovery.codec` reads and writes them.
"""

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from discovery.model import Backend


@dataclass(frozen=True, slots=True)
class History:
    """The sequence of revisions that a listing belongs to.

    `store` identifies the store. `term` never decreases within one history.
    """

    store: str
    term: int = 0


@dataclass(frozen=True, slots=True)
class Reset:
    """Every record at `revision`: the first listing, or another listing after changes may have been missed.

    `leases` has the TTL in seconds of each record that expires unless its owner renews it. None: the registry does not
    know which records are leased; consumers then apply every removal at once. `history` identifies the history of the
    store, so that a restarted reader recognises a store that was emptied or restored. None: the history is not known.
    `created` has the revision at which each record was created. None: the registry does not tell.
    `another` is true if this listing belongs to another history than the earlier events; of a first listing, if the
    registry does not know whether records were lost.
    """

    revision: int
    records: Mapping[str, bytes]
    leases: Mapping[str, float] | None = field(default=None, compare=False)
    history: History | None = field(default=None, compare=False)
    another: bool = field(default=False, compare=False)
    created: Mapping[str, int] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Delta:
    """All changes of a single revision.

    A Delta without puts and deletes says that nothing changed up to `revision`, which may be the revision of the event
    before, and ends a Stale.

    `present` is the registry's revision when it was followed again, in a Delta that ends a Stale: later Deltas up to
    that revision tell of changes that were made before. 0: there are none.

    `leases` has the TTL in seconds of each leased record in `puts`; a record in `puts` that is missing from `leases`
    has no lease. `leases` may also have the TTL of another record, if that TTL became known after the record was put.
    None means empty. `created` has the revision at which each record in `puts` was created. None: the registry does not
    tell.
    """

    revision: int
    puts: Mapping[str, bytes]
    deletes: frozenset[str] = frozenset()
    leases: Mapping[str, float] | None = field(default=None, compare=False)
    created: Mapping[str, int] | None = field(default=None, compare=False)
    present: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Stale:
    """The registry cannot be followed now, for `reason`.

    The records of earlier events remain valid. The next Reset or Delta ends this state; another Stale replaces the
    reason.
    """

    reason: str


RegistryEvent = Reset | Delta | Stale


class Lease(Protocol):
    """Records that exist as long as their owner keeps the lease alive. An open lease renews itself.

    Concurrent calls of `put` and `delete` are allowed for different records, not for one record.
    """

    @property
    def owner(self) -> str:
        """Name of the owner, which `put` writes into every record."""

    @property
    def ttl(self) -> float:
        """Seconds after the last renewal at which the records expire."""

    async def put(self, backend: Backend, *, force: bool = False) -> None:
        """Write the record of `backend` under this lease. Writes nothing if an equal record is there already.

        `force` replaces the record of another owner. Raises OwnedByAnotherError (not with `force`), LeaseLostError,
        RegistryUnavailableError, AccessDeniedError or RecordError.
        """

    async def delete(self, backend: Backend) -> None:
        """Remove the record of `backend` if this lease holds the record. Otherwise do nothing. Raises as `put` does."""

    async def sweep(self, keep: Collection[str], among: Collection[str] | None = None) -> frozenset[str]:
        """Remove the records of this owner under other leases, which an earlier run left, except the keys in `keep`.

        With `among`, only records with these keys are read and removed. Returns the removed keys. A record that gets
        another owner or lease during the call stays. Puts and deletes of other records may run at the same time.
        Raises as `put` does.
        """

    async def lost(self) -> str:
        """Wait until the lease has ended, or a record of the lease was removed or replaced. Returns the reason.

        The reason is a line for a person.
        """

    async def close(self) -> None:
        """Remove every record of the lease, and end the lease. Idempotent. No error if the registry does not answer."""


@runtime_checkable
class TellsWhenFree(Protocol):
    """An optional method of a `Lease`: wait until a key that `put` refused is free.

    Without this method a registrar tries a refused key again after each TTL.
    """

    async def until_free(self, keys: Collection[str]) -> None:
        """Wait until the record of any of `keys` is absent or has expired, so that `put` may succeed.

        Returns at once if one of the keys is free. May return although none is free, and may miss that a key becomes
        free: the registrar tries again after each TTL in any case. Raises as `put` does if the keys cannot be watched.
        """


@runtime_checkable
class HandsOver(TellsWhenFree, Protocol):
    """Optional methods of a `Lease`: move a record from one living owner to another, without a gap.

    Without these methods no owner can be asked for a record: a key of another living owner is only taken by force.
    """

    async def take_over(self, backend: Backend) -> None:
        """Ask the living owner of the record of `backend` for the record, wait for an answer, and write the record.

        The record exists throughout. A key that is free, or becomes free, is written as by `put`. The call waits for as
        long as the owner does not answer; a call that is cancelled withdraws the request. Calls for different records
        may run at the same time. Raises CannotBeAskedError if the record has no owner, LeaseLostError,
        RegistryUnavailableError, AccessDeniedError or RecordError.
        """

    async def handed_over(self) -> tuple[str, str]:
        """Agree to the requests of other owners for records of this lease; wait until a record has a new owner.

        Returns the key and the name of the new owner. The lease goes on, and the record does not count as lost. Without
        a call nothing is handed over. Raises as `put` does if requests cannot be followed.
        """


@runtime_checkable
class TellsAlarms(Protocol):
    """An optional method of a `Registry`: report faults of a registry that can be followed nevertheless."""

    async def alarms(self) -> Sequence[str]:
        """Return a line for each fault, with the remedy; empty without faults. Raises RegistryError if unknown now."""


@dataclass(frozen=True, slots=True)
class Member:
    """A server of a registry.

    `name` is its own name, empty if unknown. `endpoints` are its addresses for clients, `HOST:PORT`. `leads` is whether
    it leads the others, None if that is unknown; `votes` is false of one that only learns. `version` is that of its
    program, `size` the bytes of its database; None of a member that has not answered. `asked` is false of a member
    of which only others tell. `reason` is why it was not asked, or has not told everything, a line for a person.
    """

    name: str
    endpoints: tuple[str, ...]
    leads: bool | None = None
    votes: bool = True
    version: str | None = None
    size: int | None = None
    asked: bool = True
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Membership:
    """The servers of a registry.

    `members` are ordered by name and endpoints. `unknown` is what is not known of them, and why, a line for a person;
    None if everything is known.
    """

    members: tuple[Member, ...] = ()
    unknown: str | None = None


@runtime_checkable
class TellsMembers(Protocol):
    """An optional method of a `Registry`: tell of which servers the registry consists. Called when somebody looks."""

    async def members(self) -> Membership:
        """Ask all servers at the same time, and return what they tell, within a few seconds.

        A server that does not answer, and what the user may not know, are part of the answer and no error. Without
        members there is nothing to show. Raises RegistryError if nothing can be told at all.
        """


class Registry(Protocol):
    """A store of records. Used on one event loop, with any number of open watches and leases."""

    def watch(self) -> AsyncGenerator[RegistryEvent, None]:
        """Yield the events of every record under the prefix, until the generator is closed.

        The first event is a Reset, or Stale events and then a Reset. Each Delta after that has all changes of one
        revision. Revisions strictly increase, with two exceptions: a Reset may go back, and an empty Delta may repeat
        the revision before. Faults of the registry and the network neither raise an exception nor end the generator: it
        yields a Stale for each new reason, and tries until it can follow again.
        """

    async def open_lease(self, owner: str, ttl: float) -> Lease:
        """Open a lease of `ttl` seconds for `owner`.

        Raises RegistryUnavailableError if no member grants the lease in time, or AccessDeniedError.
        """

    async def close(self) -> None:
        """Close the connections. Idempotent. The records of open leases stay until their TTL is over."""
