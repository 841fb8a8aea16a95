"""What the sections of the page show, as frozen data made from the facts and the reader's filters. Pure.

Equal data has an equal picture, so only what has changed is rendered and sent. Moments are seconds of `time.time()`.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from operator import itemgetter
from typing import Any, NamedTuple

from discovery.admin.driving import Driven
from discovery.admin.health import word
from discovery.admin.members import role_of, state_of
from discovery.admin.page.ages import Ages
from discovery.admin.page.facts import Facts
from discovery.admin.page.filters import Filters
from discovery.consuming.runner import ConsumerStatus
from discovery.model import Backend, State
from discovery.providing.provider import RunningProviderStatus
from discovery.registry import Member

MOST_ROWS = 100
"""Rows of a table that has no pages: more are named by their number, and are found by a search."""
_MOST_LABELS = 12
"""Labels of a backend that are shown: a row stays a row."""
_MOST_PROBLEMS = 20
"""Problems of an instance that are shown one by one."""

Pairs = tuple[tuple[str, str], ...]
"""Names and texts, in order."""


class Overview(NamedTuple):
    """How the daemon is: a word, whom it waits for, the problems by instance, and how many of everything there are."""

    word: str
    waiting_for: tuple[str, ...]
    problems: Pairs
    degraded: Pairs
    config_error: str | None
    counts: tuple[tuple[str, int], ...]


class BackendRow(NamedTuple):
    """A backend. `state` is a word of the registry, `health` one of what follows it; `since` is None if unknown."""

    key: str
    service: str
    id: str
    state: str
    health: str
    why: str
    weight: int
    address: str
    addresses: tuple[str, ...]
    owner: str
    labels: Pairs
    more_labels: int
    since: float | None
    at_least: bool


class ConsumerRow(NamedTuple):
    """A consumer. `behind` is the moment since which it lags, None if it does not.

    `services` and `backends` are the numbers of those for which it has a place, `untold_services` and `untold_backends`
    of those of which it does not tell; they are `whole` once it has been asked about all.
    """

    name: str
    plugin: str
    state: str
    phase: str
    phase_since: float
    revision: int | None
    behind: float | None
    applies: int
    failures: int
    error: str
    problems: Pairs
    detail: str
    down: int
    services: int
    backends: int
    untold_services: int
    untold_backends: int
    whole: bool


class CandidateRow(NamedTuple):
    """A candidate of a provider. `why` is why it is not registered, empty if it is."""

    key: str
    address: str
    origin: str
    verdict: str
    detail: str
    since: float
    registered: bool
    why: str


class ProviderRow(NamedTuple):
    """A provider, with the candidates that are wanted, those that are not registered first."""

    name: str
    plugin: str
    state: str
    phase: str
    phase_since: float
    owner: str
    ttl: float
    found: int
    registered: int
    failures: int
    error: str
    detail: str
    problems: Pairs
    skipped: Pairs
    candidates: tuple[CandidateRow, ...]
    more: int


class HeldRow(NamedTuple):
    """A held record. `until` is the moment at which it is given up, None: not by itself."""

    key: str
    cause: str
    until: float | None


class Table(NamedTuple):
    """Rows, the number of those that are wanted but not shown, and the number of all."""

    rows: tuple[Any, ...]
    more: int
    all: int


class MemberRow(NamedTuple):
    """A server of the registry. `size` is in MB, `state` a word."""

    name: str
    endpoints: tuple[str, ...]
    role: str
    state: str
    version: str
    size: str
    why: str


class RegistryView(NamedTuple):
    """The registry. `as_of` is when the snapshot was last known to be true, None while it is followed.

    `listings_again` is the number of full listings after the first.
    """

    url: str
    connection: str
    reason: str
    revision: int | None
    as_of: float | None
    from_disk: bool
    listings_again: int
    alarms: tuple[str, ...]
    services: int
    backends: int
    unresolved: Pairs
    more_unresolved: int
    members: tuple[MemberRow, ...] = ()
    members_unknown: str = ""


def overview(facts: Facts, backends: int) -> Overview:
    """Return how the daemon is. `backends` is the number of all."""
    status, snapshot = facts.status, facts.status.snapshot
    rejected = 0 if snapshot is None else len(snapshot.rejected) + snapshot.more_rejected
    counts = {
        "services": 0 if snapshot is None else len(snapshot.services),
        "backends": backends,
        "down": len(facts.down),
        "unresolved": len(status.unresolved),
        "rejected": rejected,
        "held": len(status.held),
    }
    return Overview(
        word(status),
        tuple(status.waiting_for),
        _pairs(status.problems),
        _pairs({**status.degraded, **status.broken}),
        status.config_error,
        tuple(counts.items()),
    )


def backend_row(backend: Backend, facts: Facts, ages: Ages) -> BackendRow:
    """Return the row of a backend."""
    status, key, age = facts.status, backend.key, ages.of(backend.key)
    health, why = _health(backend, key, facts)
    addresses = status.addresses.get((backend.host, backend.port), ()) if backend.is_named else ()
    return BackendRow(
        key=key,
        service=backend.service,
        id=backend.id,
        state="draining" if backend.state is State.DRAINING else "active",
        health=health,
        why=why,
        weight=backend.weight,
        address=backend.address,
        addresses=tuple(addresses),
        owner=status.owners.by_key.get(key) or "",
        labels=tuple(islice(sorted(backend.labels.items()), _MOST_LABELS)) if backend.labels else (),
        more_labels=max(0, len(backend.labels) - _MOST_LABELS),
        since=None if age.since is None else facts.moment(age.since),
        at_least=age.at_least,
    )


def consumer_rows(facts: Facts) -> tuple[ConsumerRow, ...]:
    """Return the rows of the consumers."""
    return tuple(_consumer(each, facts) for each in facts.status.consumers)


def provider_rows(facts: Facts, filters: Filters) -> tuple[ProviderRow, ...]:
    """Return the rows of the providers."""
    return tuple(_provider(each, facts, filters) for each in facts.status.providers)


def rejected_table(facts: Facts, filters: Filters) -> Table:
    """Return the rejected records and fields that are wanted."""
    snapshot = facts.status.snapshot
    if snapshot is None:
        return Table((), 0, 0)
    found = [each for each in snapshot.rejected if filters.finds_key(each.key, each.reason, each.field or "")]
    beyond = 0 if filters.selects else snapshot.more_rejected
    return Table(
        tuple(found[:MOST_ROWS]),
        max(0, len(found) - MOST_ROWS) + beyond,
        len(snapshot.rejected) + snapshot.more_rejected,
    )


def held_table(facts: Facts, filters: Filters) -> Table:
    """Return the held records that are wanted."""
    held = facts.status.held
    found = sorted(key for key in held if filters.finds_key(key))
    rows = tuple(
        HeldRow(key, each.cause.value, None if each.until is None else facts.moment(each.until))
        for key in found[:MOST_ROWS]
        for each in (held[key],)
    )
    return Table(rows, len(found) - len(rows), len(held))


def registry_view(facts: Facts, backends: int) -> RegistryView:
    """Return the state of the registry. `backends` is the number of all."""
    status, snapshot, told = facts.status, facts.status.snapshot, facts.members
    connection = {None: "not followed", True: "connected", False: "not connected"}[status.connected]
    reason = status.stale or ("no consumer asks for it" if status.connected is None else "")
    is_old = status.snapshot_time is not None and (status.stale is not None or status.snapshot_from_disk)
    unresolved = islice(status.unresolved.items(), _MOST_PROBLEMS)
    return RegistryView(
        url=status.registry,
        connection=connection,
        reason=reason,
        revision=None if snapshot is None else snapshot.revision,
        as_of=facts.moment(status.snapshot_time) if is_old and status.snapshot_time is not None else None,
        from_disk=status.snapshot_from_disk,
        listings_again=max(0, status.resets - 1),
        alarms=status.alarms,
        services=0 if snapshot is None else len(snapshot.services),
        backends=backends,
        unresolved=tuple(("/".join(key), problem) for key, problem in unresolved),
        more_unresolved=max(0, len(status.unresolved) - _MOST_PROBLEMS),
        members=() if told is None else tuple(map(_member, told.membership.members[:MOST_ROWS])),
        members_unknown="" if told is None else told.reason or told.membership.unknown or "",
    )


def _member(each: Member) -> MemberRow:
    return MemberRow(
        name=each.name,
        endpoints=tuple(each.endpoints),
        role=role_of(each.leads, votes=each.votes),
        state=state_of(each),
        version=each.version or "",
        size="" if each.size is None else f"{each.size / 1e6:.1f} MB",
        why=each.reason or "",
    )


def _health(backend: Backend, key: str, facts: Facts) -> tuple[str, str]:
    """Return the gravest condition in a word, and the reason of that one, then the other words with their reasons."""
    found = list(_conditions(backend, key, facts))
    if not found:
        return "", ""
    (gravest, why), *others = found
    return gravest, "; ".join((why, *(f"{other}: {reason}" for other, reason in others)))


def _conditions(backend: Backend, key: str, facts: Facts) -> Iterator[tuple[str, str]]:
    status = facts.status
    if (why := facts.down.get(key)) is not None:
        yield "down", why
    if (why := status.unresolved.get((backend.service, backend.id))) is not None:
        yield "unresolved", why
    if key in status.held:
        yield "held", "the registry has removed it, which is not believed"


def _consumer(each: ConsumerStatus, facts: Facts) -> ConsumerRow:
    driven = facts.driven.get(each.name, Driven(is_whole=False))
    return ConsumerRow(
        name=each.name,
        plugin=each.plugin,
        state=each.state,
        phase=each.phase.value,
        phase_since=facts.moment(each.phase_since),
        revision=each.applied_revision,
        behind=None if each.behind_since is None else facts.moment(each.behind_since),
        applies=each.applies,
        failures=each.failures,
        error=_lasting(each),
        problems=_pairs(each.health.problems),
        detail=each.health.detail if each.problem is None else "",
        down=len(each.health.down),
        services=len(driven.services),
        backends=sum(driven.services.values()),
        untold_services=len(driven.untold),
        untold_backends=sum(driven.untold.values()),
        whole=driven.is_whole,
    )


def _lasting(each: ConsumerStatus) -> str:
    """Return the problem of a consumer in words that do not change by the second."""
    if each.problem is None:
        return ""
    return each.error or each.run_dir_error or (each.problem if each.health.ok is False else _BUSY)


_BUSY = "an apply has been running for very long"


def _provider(each: RunningProviderStatus, facts: Facts, filters: Filters) -> ProviderRow:
    runner = each.runner
    rows = [_candidate(key, each, facts) for key in _first(each, filters)]
    found = sum(1 for key, one in runner.candidates.items() if filters.finds_key(key, one.backend.address, one.detail))
    return ProviderRow(
        name=runner.name,
        plugin=runner.plugin,
        state="failing" if each.problem is not None else runner.state,
        phase=runner.phase.value,
        phase_since=facts.moment(runner.phase_since),
        owner=each.owner,
        ttl=each.ttl,
        found=len(runner.candidates),
        registered=len(each.registered),
        failures=runner.failures,
        error=each.problem or "",
        detail=runner.health.detail if each.problem is None else "",
        problems=_pairs({**runner.problems, **runner.health.problems}),
        skipped=_pairs(runner.skipped),
        candidates=tuple(rows),
        more=found - len(rows),
    )


def _first(each: RunningProviderStatus, filters: Filters) -> Iterator[str]:
    """Yield the keys of the first candidates that are wanted, those that are not registered before the others."""
    wanted = [
        key for key, one in each.runner.candidates.items() if filters.finds_key(key, one.backend.address, one.detail)
    ]
    wanted.sort(key=lambda key: (key in each.registered, key))
    return islice(wanted, MOST_ROWS)


def _candidate(key: str, provider: RunningProviderStatus, facts: Facts) -> CandidateRow:
    one = provider.runner.candidates[key]
    return CandidateRow(
        key=key,
        address=one.backend.address,
        origin=one.origin,
        verdict=one.verdict.value if one.verdict is not None else "not checked yet",
        detail=one.detail,
        since=facts.moment(one.verdict_since),
        registered=key in provider.registered,
        why=provider.why_not(key) or "",
    )


def _pairs(texts: Mapping[str, str]) -> Pairs:
    pairs: Iterable[tuple[str, str]] = islice(sorted(texts.items(), key=itemgetter(0)), _MOST_PROBLEMS)
    more = len(texts) - _MOST_PROBLEMS
    return (*pairs, ("...", f"and {more} more")) if more > 0 else tuple(pairs)
