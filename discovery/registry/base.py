"""The registry protocol: raw records at revisions, watched without ever inventing or losing a change.

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
    """Every record at `revision`: the first listing, or one made anew because following on was in doubt.

    `leases` holds the TTL in seconds of each record that expires unless its owner renews it; None: the registry cannot
    say which records are leased, and removals are then believed at once. `history` lets a reader recognise an emptied
    or restored store across its own restarts; None: the registry cannot say. `another` means that the registry knows
    this listing not to continue what it reported before, or (for the first listing) cannot vouch for it.
    """

    revision: int
    records: Mapping[str, bytes]
    leases: Mapping[str, float] | None = field(default=None, compare=False)
    history: History | None = field(default=None, compare=False)
    another: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Delta:
    """All that one revision changed.

    Without puts and deletes: nothing did up to `revision`, which may be the one told last, and all is well again.

    `leases` holds the TTL in seconds of each record in `puts` that is leased; a record in `puts` that is not in it has
    no lease. It may also name other records, whose TTL has become known since. None is the same as empty.
    """

    revision: int
    puts: Mapping[str, bytes]
    deletes: frozenset[str] = frozenset()
    leases: Mapping[str, float] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Stale:
    """The registry cannot be followed now. What was last told stands; a Reset or Delta ends this.

    Another Stale replaces the reason.
    """

    reason: str


RegistryEvent = Reset | Delta | Stale


class Lease(Protocol):
    """Registrations that live as long as their owner keeps them alive, which the lease itself does meanwhile.

    Several may be put and deleted at once, but each of them by one call at a time.
    """

    @property
    def owner(self) -> str:
        """Who holds it; written into every record."""

    @property
    def ttl(self) -> float:
        """Seconds after which the registrations vanish once nobody keeps them alive."""

    async def put(self, backend: Backend, *, force: bool = False) -> None:
        """Write the record under this lease, unless it already stands so.

        Raises OwnedByAnotherError (unless `force`), LeaseLostError, RegistryUnavailableError, AccessDeniedError or
        RecordError.
        """

    async def delete(self, backend: Backend) -> None:
        """Remove the record if it is still this lease's; otherwise do nothing. Raises as `put` does."""

    async def sweep(self, keep: Collection[str], among: Collection[str] | None = None) -> frozenset[str]:
        """Remove what an earlier run of this owner left: its records under other leases, but for the keys in `keep`.

        Only `among` these keys if they are given: nothing else is then looked at. Returns the keys removed. A record
        that changes hands meanwhile is left alone: others are put and deleted beside it. Raises as `put` does.
        """

    async def lost(self) -> str:
        """Wait until the lease, or a record under it, is gone or taken over, and return why."""

    async def close(self) -> None:
        """Withdraw every record of the lease and end it. Idempotent; gives up quietly if no member answers."""


@runtime_checkable
class TellsWhenFree(Protocol):
    """What a `Lease` may offer besides: to wait until a key that it was refused is free.

    Without it a registrar tries a refused key again every TTL.
    """

    async def until_free(self, keys: Collection[str]) -> None:
        """Wait until the record of at least one of `keys` is absent, or has expired, so that a put may succeed.

        Returns at once if one is free already. It may return without reason, and it need not notice everything: the
        registrar puts again after a TTL in any case. Raises as `put` does if the keys cannot be watched.
        """


@runtime_checkable
class TellsAlarms(Protocol):
    """What a `Registry` may offer besides: to tell what is wrong with it although it can be followed."""

    async def alarms(self) -> Sequence[str]:
        """A line for each, with the way out; none if all is well. Raises RegistryError if that is not known now."""


class Registry(Protocol):
    """A place where backends are recorded. Safe for one event loop; several watches and leases may be open."""

    def watch(self) -> AsyncGenerator[RegistryEvent, None]:
        """Follow every record under the prefix, for ever.

        Nothing is known before the first Reset (a Stale may come first). From then on each Delta is one revision,
        complete; revisions strictly increase, except that a Reset may go back and an empty Delta may repeat the last.
        It never raises for what the registry or the network does, and never ends by itself: it reports Stale, again
        when the reason is another, keeps trying, and goes on.
        """

    async def open_lease(self, owner: str, ttl: float) -> Lease:
        """Open a lease of `ttl` seconds for `owner`.

        Raises RegistryUnavailableError when no member grants it in time, or AccessDeniedError.
        """

    async def close(self) -> None:
        """Release connections. Idempotent; open leases are not withdrawn."""
