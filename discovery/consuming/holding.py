"""Which removals are not believed: those after a gap in what is known of the registry. Pure: the clock is passed in.

A registry that stood still, or lost its data, drops the records of living backends; their owners put them back a moment
later. So after a gap the removal of a leased record is held for one TTL and a margin, in which a living owner returns.
After a reset, which begins another history, the removal of every known record is held: that of a leased one likewise,
counted from when the registry has a record at all; that of any other until it returns or a person releases it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from discovery.registry import Delta, History, RegistryEvent, Reset, Stale

MARGIN = 5.0
"""Seconds beyond the TTL that an owner has to put its record back."""
LONGEST = 3600.0
"""Seconds that count at most of a TTL, which anybody may state: our registrars take no longer one."""
SETTLE = 5.0
"""Seconds after a gap, and after each removal held because of it, in which removals are still doubted."""


def hold_seconds(ttl: float | None) -> float:
    """Seconds that a leased record is held."""
    return min(ttl or 0.0, LONGEST) + MARGIN


class Cause(StrEnum):
    """Why a removal is held."""

    GAP = "gap"
    RESET = "reset"


class Held(NamedTuple):
    """A record that the registry does not have any more, and that is served nevertheless.

    `ttl` is that of its lease in seconds, None without a lease. `until` is the instant at which it is given up; None:
    not before it returns or is released, or, if it is leased, not before the registry has a record again.
    """

    cause: Cause
    ttl: float | None
    until: float | None


class RememberedHolds(NamedTuple):
    """The state that has to outlive a restart, beside the snapshot.

    `doubted` means that the registry was not believed when this was written: a gap, or a hold, was under way.
    """

    revision: int = 0
    history: History | None = None
    leases: Mapping[str, float] = MappingProxyType({})
    held: Mapping[str, Held] = MappingProxyType({})
    doubted: bool = False


class LeaseChanges(NamedTuple):
    """The changes of what has to outlive a restart, if these are leases and the doubt alone.

    `leases` has the TTL of each lease that has changed, in seconds; None for a record without a lease.
    """

    leases: Mapping[str, float | None]
    doubted: bool


class EndedHolds(NamedTuple):
    """The numbers of records that are not held any more, by the reason."""

    returned: int = 0
    expired: int = 0
    released: int = 0


class Decision(NamedTuple):
    """The event as far as it is believed; of a Reset, the records to keep although it does not list them."""

    event: RegistryEvent
    keep: frozenset[str] = frozenset()


class RemovalHolds:
    """Decides which removals are held, from the events of a watch in their order. Instants are those of one clock.

    A registry that says nothing of leases is believed in everything.
    """

    def __init__(self, memory: RememberedHolds | None = None) -> None:
        """Begin, with what an earlier run left, if anything."""
        memory = memory or RememberedHolds()
        self._first = True
        self._revision = memory.revision
        self._history = memory.history
        self._leases: dict[str, float] | None = dict(memory.leases)
        self._held: dict[str, Held] = dict(memory.held)
        self._gap = memory.doubted
        self._stale = False
        self._next_end = min((each.until for each in self._held.values() if each.until is not None), default=None)
        self._awaits_a_record = any(each.ttl is not None and each.until is None for each in self._held.values())
        self._gap_ended = self._doubted_until = float("-inf")
        self._gap_revision = -1  # the registry's when the gap ended: what is told later of up to then is of the gap
        self._leased_since: set[str] = set()  # the gap, while removals are doubted: by leases that are of after it
        self._ended = EndedHolds()
        self._changed_leases: set[str] = set()
        self._only_leases = False

    @property
    def held(self) -> Mapping[str, Held]:
        """The records held, by key."""
        return self._held

    @property
    def next_end(self) -> float | None:
        """When to call `expire` next; None if nothing is given up by itself."""
        return None if self._stale else self._next_end

    def memory(self, now: float) -> RememberedHolds:
        """The state that a restart needs."""
        leases, held = dict(self._leases or {}), dict(self._held)
        return RememberedHolds(self._revision, self._history, leases, held, self._is_doubted(now))

    def lease_changes(self, now: float) -> LeaseChanges | None:
        """Return the changes of `memory` since the last call, at a cost that does not grow with the registry.

        None if more than leases and the doubt may have changed: then `memory` tells.
        """
        keys, self._changed_leases = self._changed_leases, set()
        only_leases, self._only_leases = self._only_leases and not self._held, True
        if not only_leases:
            return None
        leases = self._leases or {}
        return LeaseChanges({key: leases.get(key) for key in sorted(keys)}, self._is_doubted(now))

    def ended(self) -> EndedHolds:
        """The numbers of records that are not held any more, since the last call."""
        ended, self._ended = self._ended, EndedHolds()
        return ended

    def take(self, event: RegistryEvent, known: Iterable[str], now: float) -> Decision:
        """Take in an event. `known` are the keys of what is served; they are looked at for a Reset alone."""
        match event:
            case Stale():
                self._gap = self._stale = True
                return Decision(event)
            case Reset():
                return self._listed(event, known, now)
            case Delta():
                return Decision(self._changed(event, now))

    def expire(self, now: float) -> frozenset[str]:
        """Give up records whose time is over, and return their keys. None while the registry cannot be followed."""
        if self._stale:
            return frozenset()
        ended = frozenset(key for key, each in self._held.items() if each.until is not None and each.until <= now)
        self._drop(ended)
        self._next_end = min((each.until for each in self._held.values() if each.until is not None), default=None)
        self._ended = self._ended._replace(expired=self._ended.expired + len(ended))
        return ended

    def release(self, service: str | None) -> frozenset[str]:
        """Give up the held records of a service, or of all, and return their keys."""
        ended = frozenset(key for key in self._held if service is None or key.partition("/")[0] == service)
        self._drop(ended)
        self._ended = self._ended._replace(released=self._ended.released + len(ended))
        return ended

    def _is_doubted(self, now: float) -> bool:
        return self._gap or bool(self._held) or now < self._doubted_until

    def _listed(self, event: Reset, known: Iterable[str], now: float) -> Decision:
        first, self._first = self._first, False
        self._only_leases = False
        before, self._leases = self._leases or {}, None if event.leases is None else dict(event.leases)
        if event.leases is None:
            self._held, self._gap, self._stale = {}, False, False
            return Decision(event)
        another = self._is_another(event)
        self._revision = self._gap_revision = event.revision
        self._history = event.history
        gap = another or self._gap or not first
        self._end_gap(now)
        keep: dict[str, Held] = {}
        for key in known:
            if key in event.records:
                continue
            held, ttl = self._held.get(key), before.get(key)
            if another:
                ttl = held.ttl if held else ttl
                until = None if ttl is None or not event.records else now + hold_seconds(ttl)
                keep[key] = Held(Cause.RESET, ttl, until)
            elif held is not None:
                keep[key] = held
            elif ttl is not None and (gap or not event.records):
                # Also where the first listing of this run is empty, and an earlier run knew records.
                keep[key] = Held(Cause.GAP, ttl, now + hold_seconds(ttl))
        returned = sum(key in event.records for key in self._held)
        self._ended = self._ended._replace(returned=self._ended.returned + returned)
        self._held = keep
        self._next_end = min((each.until for each in keep.values() if each.until is not None), default=None)
        if gap and not another and (keep or self._leases):
            self._begin_gap(now)
        self._awaits_a_record = any(each.ttl is not None and each.until is None for each in keep.values())
        if event.records:
            self._note_return(now)
        return Decision(event, frozenset(keep))

    def _is_another(self, event: Reset) -> bool:
        before, now = self._history, event.history
        if event.another or before is None or now is None:
            return event.another
        return now.store != before.store or now.term < before.term or event.revision < self._revision

    def _changed(self, event: Delta, now: float) -> Delta:
        self._revision = event.revision
        if self._leases is None:
            return event
        if self._gap:
            self._end_gap(now)
            self._gap_revision = max(event.revision, event.present)
            if self._leases or event.present > event.revision:
                self._begin_gap(now)
        if event.puts:
            self._put(event, now)
            self._note_return(now)
        for key, ttl in (event.leases or {}).items():
            if (key in event.puts or key in self._leases) and self._leases.get(key) != ttl:
                self._leases[key] = ttl
                self._changed_leases.add(key)
        held = frozenset(self._hold(event, self._leases, now))
        return replace(event, deletes=event.deletes - held) if held else event

    def _hold(self, event: Delta, leases: dict[str, float], now: float) -> Iterator[str]:
        of_the_gap = event.revision <= self._gap_revision
        for key in event.deletes:
            ttl = leases.pop(key, None)
            if ttl is not None:
                self._changed_leases.add(key)
            if ttl is not None and (of_the_gap or now < self._doubted_until) and key not in self._leased_since:
                self._hold_until(key, Held(Cause.GAP, ttl, None), now)
                # A server gives up expired leases some hundreds a second: the last of many is doubted like the first.
                self._doubted_until = max(self._doubted_until, min(now + SETTLE, self._gap_ended + hold_seconds(ttl)))
                if not of_the_gap:
                    self._leased_since.add(key)  # if it returns: this lease has ended
                yield key

    def _put(self, event: Delta, now: float) -> None:
        keys, leased = event.puts, event.leases or {}
        if self._gap_revision < event.revision and now < self._doubted_until:
            # What was there all the time may have been written under the lease that it had before.
            there = self._leases or {}
            self._leased_since.update(key for key in keys if key not in there and key not in self._held)
        returned = 0
        for key in keys:
            returned += self._held.pop(key, None) is not None
            if self._leases and key not in leased and self._leases.pop(key, None) is not None:
                self._changed_leases.add(key)
        if returned:
            self._only_leases = False
            self._ended = self._ended._replace(returned=self._ended.returned + returned)

    def _note_return(self, now: float) -> None:
        """The registry has a record: what is leased and does not return from now on is gone."""
        if not self._awaits_a_record:
            return
        self._awaits_a_record = False
        for key, each in self._held.items():
            if each.ttl is not None and each.until is None:
                self._hold_until(key, each, now)

    def _end_gap(self, now: float) -> None:
        """Restart the time of held records: no record could return while the registry could not be followed."""
        if self._stale:
            for key, each in self._held.items():
                if each.until is not None:
                    self._hold_until(key, each, now)
        self._gap = self._stale = False

    def _hold_until(self, key: str, held: Held, now: float) -> None:
        """Hold a record for its TTL and the margin."""
        until = now + hold_seconds(held.ttl)
        self._held[key] = held._replace(until=until)
        self._only_leases = False
        self._next_end = until if self._next_end is None else min(self._next_end, until)

    def _begin_gap(self, now: float) -> None:
        self._gap_ended, self._doubted_until = now, now + SETTLE
        self._leased_since.clear()

    def _drop(self, keys: Iterable[str]) -> None:
        for key in keys:
            del self._held[key]
            self._only_leases = False
