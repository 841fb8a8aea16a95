"""Whether a record is used, and if not, why: what the registry, the providers and the consumers know of it. Pure."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import merge
from itertools import chain, islice
from types import MappingProxyType
from typing import NamedTuple

from discovery.admin.status import DaemonStatus
from discovery.checks import Verdict
from discovery.consuming.history import Applied, Change, delay
from discovery.consuming.runner import ConsumerStatus
from discovery.consuming.selection import matches
from discovery.errors import OwnedByAnotherError
from discovery.fields import has_labels
from discovery.hosting.tables import Filter
from discovery.model import Backend, Service, Snapshot, State
from discovery.plugin import LastResort, LeftOut
from discovery.providing.provider import RunningProviderStatus

KINDS = (
    "absent",
    "rejected",
    "field-ignored",
    "key-refused",
    "check-failing",
    "unchecked",
    "not-written",
    "provider-failing",
    "consumer-failing",
    "plugin-broken",
    "draining",
    "weight-zero",
    "held",
    "unresolvable",
    "stale",
    "filtered",
    "behind",
    "apply-failing",
    "down",
)
"""The kinds of reasons."""
_LAST = "it gets new work, since every backend of the service drains or has the weight 0"
_MOST_REMOVED = 10
"""Removed records of a service that are told of: of a service whose backends change all day there are very many."""


class Reason(NamedTuple):
    """A reason why a record is not used, or what an operator has to know although it is.

    `kind` is one of KINDS, `text` a line for a person, `instance` the consumer or provider that it concerns, None for
    all. `seconds` is for how long it has been so, None if that is not known.
    """

    kind: str
    text: str
    instance: str | None = None
    seconds: float | None = None


class View(NamedTuple):
    """A consumer as it is now: its status, its filter, the part of the snapshot that it has applied, its applies.

    `rendered` has the lines that it has made of backends, by key: none at all for one that it leaves out. A key is
    missing if the consumer does not tell.
    """

    status: ConsumerStatus
    filter: Filter | None = None
    applied: Snapshot | None = None
    applies: Sequence[Applied] = ()
    rendered: Mapping[str, Sequence[str]] = MappingProxyType({})


class Live(NamedTuple):
    """A consumer's side of a record. `revision` is what the consumer has applied.

    `live` is whether it has the record in its present form, `outdated` whether in an earlier one; `down` is why what it
    drives finds the record down, None if it does not. `used` is whether nothing keeps it from giving the record work.
    `seconds` is for how long it has had the present form; None if it has not, or for longer than the history reaches.
    `rendered` has the lines that it makes of the record; None if it does not tell.
    """

    consumer: str
    live: bool
    outdated: bool
    revision: int | None
    seconds: float | None = None
    rendered: tuple[str, ...] | None = None
    down: str | None = None
    used: bool = False


class Explanation(NamedTuple):
    """What is known of a record. `used` is whether a consumer uses it, None where no consumer is known.

    `backend` is None if there is none. `owner` is None if the record names none, or if the snapshot is one from disk.
    """

    key: str
    backend: Backend | None
    owner: str | None
    used: bool | None
    reasons: tuple[Reason, ...]
    consumers: tuple[Live, ...]


class Removal(NamedTuple):
    """That a record was removed: when, as an instant of `time.monotonic()`, and the address that it had."""

    at: float
    address: str


class LastChanges(NamedTuple):
    """The last change of each record of a service, as far as a history tells.

    `named` has changes by the records' keys, `listing` the first listing, which is the last change of all others; None
    if that is not known of them. `removed` has, by key, the removals of records that have not come back, the newest
    first.
    """

    named: Mapping[str, Change]
    listing: Change | None
    removed: Mapping[str, "Removal"] = MappingProxyType({})

    def of(self, key: str) -> Change | None:
        """Return the last change of a record; None if that is not known."""
        return self.named.get(key, self.listing)


def last_changes(changes: Sequence[Change], service: str) -> LastChanges:
    """Return the last change of each record of `service`. `changes` are the last changes, the oldest first."""
    named: dict[str, Change] = {}
    removed: dict[str, Removal] = {}
    for change in reversed(changes):
        for each in change.named:
            if each.mark in "+~":
                named.setdefault(each.key, change)
            elif each.mark == "-" and each.key not in named and each.key.partition("/")[0] == service:
                removed.setdefault(each.key, Removal(change.arrived, each.text))
        if change.listing:
            return LastChanges(named, change, removed)
        if change.size > len(change.named) and change.concerns(service):
            break  # any other record may be among those that are not named
    return LastChanges(named, None, removed)


def keys_of(status: DaemonStatus, service: str, most: int, removed: Iterable[str] = ()) -> tuple[list[str], int]:
    """Return the first `most` keys of `service` that the registry has or a provider has found, ordered.

    Of the keys `removed`, the newest first, the first few are told of, too, so that what is missing is seen. The second
    value is the number of the others. Of a service with very many backends only the first are looked at.
    """
    snapshot = status.snapshot
    there = (snapshot.services.get(service) if snapshot is not None else None) or Service(service)
    found = chain(
        (each.key for each in snapshot.rejected) if snapshot is not None else (),
        *(provider.runner.candidates for provider in status.providers),
        islice(removed, _MOST_REMOVED),
    )
    split = {(key, *key.partition("/")) for key in found}
    others = sorted(key for key, name, _, id_ in split if name == service and there.get(id_) is None)
    first = islice((each.key for each in chain.from_iterable(there.runs)), most)
    keys = list(islice(merge(first, others), most))
    return keys, len(there) + len(others) - len(keys)


def explain(status: DaemonStatus, views: Iterable[View], last: LastChanges, key: str) -> Explanation:
    """Return what is known of the record `key`, `SERVICE/ID`. `last` has the last changes of its service."""
    views = tuple(views)
    backend = _backend_at(status.snapshot, key)
    lives: list[Live] = []
    reasons = [*_of_registry(status, key), *_of_providers(status.providers, key)]
    reasons += [Reason("plugin-broken", reason, name) for name, reason in status.broken.items()]
    if backend is None:
        if not any(each.kind in ("rejected", "key-refused", "check-failing", "unchecked") for each in reasons):
            reasons.insert(0, _absent(status, last.removed.get(key), key))
        lives = [_gone(view, key) for view in views if _backend_at(view.applied, key) is not None]
        return Explanation(key, None, None, False, tuple(reasons), tuple(lives))
    known = not backend.is_named or _is_known(status, backend)
    at = len(reasons)
    if (problem := status.unresolved.get((backend.service, backend.id))) is not None:
        reasons.append(Reason("unresolvable", problem))
    for view in views:
        found, live = _of_consumer(view, backend, last)
        if live is not None and live.live and view.status.problem is not None:
            reasons.append(Reason("consumer-failing", view.status.problem, view.status.name))
        reasons += found
        if live is not None:
            takes = backend.accepts_work or isinstance(view.rendered.get(key), LastResort)
            lives.append(live._replace(used=known and takes and live.live and not found))
    if not backend.accepts_work:
        reasons[at:at] = _of_idle(status, backend, lives)
    used = any(each.used for each in lives) if views else None
    owner = status.owners.by_key.get(key)
    return Explanation(key, backend, owner, used, tuple(reasons), tuple(lives))


def _of_registry(status: DaemonStatus, key: str) -> Iterator[Reason]:
    for each in status.snapshot.rejected if status.snapshot is not None else ():
        if each.key == key:
            told = each.reason if each.field is None else f"{each.field}: {each.reason}"
            yield Reason("rejected" if each.field is None else "field-ignored", told)
    if status.stale is not None:
        age = status.snapshot_age
        yield Reason(
            "stale", f"the registry cannot be followed, and the last snapshot stands: {status.stale}", None, age
        )
    if (held := status.held.get(key)) is not None:
        left = "" if held.until is None else f", for another {max(0.0, held.until - time.monotonic()):.0f} s"
        yield Reason("held", f"the registry has removed it after a {held.cause.value}, which is not believed{left}")


def _of_providers(providers: Iterable[RunningProviderStatus], key: str) -> Iterator[Reason]:
    for provider in providers:
        name = provider.runner.name
        if provider.problem is not None:
            yield Reason("provider-failing", provider.problem, name)
        candidate = provider.runner.candidates.get(key)
        if candidate is None or key in provider.registered:
            continue
        for_seconds = time.monotonic() - candidate.verdict_since
        why = provider.why_not(key) or ""
        if candidate.verdict is None:
            yield Reason("unchecked", why, name, for_seconds)
        elif candidate.verdict is Verdict.FAILING and not candidate.registered:
            yield Reason("check-failing", candidate.detail or why, name, for_seconds)
        elif isinstance(provider.failing.get(key), OwnedByAnotherError):
            yield Reason("key-refused", why, name)
        else:
            yield Reason("not-written", why, name)


def _of_idle(status: DaemonStatus, backend: Backend, lives: Sequence[Live]) -> Iterator[Reason]:
    """Yield why the backend is to get no new work: for all, or for each consumer if one gives it work all the same."""
    if backend.state is State.DRAINING:
        why = _why_draining(status.providers, backend.key)
        kind, before, after = "draining", "", f"{why and ': '}{why}"
    else:
        kind, before, after = "weight-zero", "its weight is 0: ", ""
    without = Reason(kind, f"{before}it gets no new work{after}")
    if not any(each.used for each in lives):
        yield without
        return
    for each in lives:
        text = f"{before}{_LAST}{after}" if each.used else without.text
        yield Reason(kind, text, each.consumer)


def _why_draining(providers: Iterable[RunningProviderStatus], key: str) -> str:
    """Return what the checks of this machine say, if it is they that have the backend drain."""
    for provider in providers:
        candidate = provider.runner.candidates.get(key)
        if candidate is not None and candidate.verdict not in (None, Verdict.PASSING):
            return candidate.detail
    return ""


def _of_consumer(view: View, backend: Backend, last: LastChanges) -> tuple[list[Reason], Live | None]:
    """Return what keeps a consumer from using the backend, and the consumer's side; None if filtered."""
    status = view.status
    if (filtered := _filtered(view.filter, backend)) is not None:
        return [Reason("filtered", filtered, status.name)], None
    rendered = view.rendered.get(backend.key)
    there = _backend_at(view.applied, backend.key)
    live = there == backend
    since = _live_since(last.of(backend.key), view.applies) if live else None
    reasons = []
    now = time.monotonic()
    if not live:
        behind = None if status.behind_since is None else now - status.behind_since
        form = "an earlier form serves" if there is not None else "it is not applied yet"
        if status.problem is not None:
            reasons.append(Reason("apply-failing", f"{form}: {status.problem}", status.name, behind))
        else:
            reasons.append(Reason("behind", f"{form}: the consumer is {status.phase.value}", status.name, behind))
    elif rendered is not None and not rendered:
        why = rendered.reason if isinstance(rendered, LeftOut) else "its configuration has no place for it"
        return [Reason("filtered", why, status.name)], None
    if (down := status.health.down.get(backend.key)) is not None:
        reasons.append(Reason("down", down, status.name))
    seconds = None if since is None else now - since
    lines = None if rendered is None else tuple(rendered)
    outdated = there is not None and not live
    return reasons, Live(status.name, live, outdated, status.applied_revision, seconds, lines, down)


def _gone(view: View, key: str) -> Live:
    return Live(view.status.name, False, True, view.status.applied_revision)


def _filtered(wanted: Filter | None, backend: Backend) -> str | None:
    if wanted is None:
        return None
    if not matches(backend.service, wanted.services):
        return f"its filter selects the services {', '.join(wanted.services)}"
    if not has_labels(backend.labels, wanted.labels):
        asked = ", ".join(f"{name}={'|'.join(values)}" for name, values in wanted.labels.items())
        return f"its filter selects backends with the labels {asked}"
    return None


def _live_since(change: Change | None, applies: Sequence[Applied]) -> float | None:
    """Return when the last change of a record was applied; None if no entry of the history tells."""
    took = None if change is None else delay(change, applies)
    return None if took is None else took.by.ended


def _backend_at(snapshot: Snapshot | None, key: str) -> Backend | None:
    name, _, id_ = key.partition("/")
    service = snapshot.services.get(name) if snapshot is not None else None
    return service.get(id_) if service is not None else None


def _is_known(status: DaemonStatus, backend: Backend) -> bool:
    return bool(status.addresses.get((backend.host, backend.port)))


def _absent(status: DaemonStatus, removal: Removal | None, key: str) -> Reason:
    if status.snapshot is None:
        why = "the registry is not known yet" if status.followed else "this daemon follows no registry"
        return Reason("absent", why)
    why = f"the registry has no record {key} at revision {status.snapshot.revision}"
    more = status.snapshot.more_rejected
    unknown = f"; of {more} rejected records the reasons are not kept" if more else ""
    if removal is None:
        return Reason("absent", f"{why}{unknown}")
    told = f"{why}: it was removed, and had the address {removal.address}{unknown}"
    return Reason("absent", told, None, time.monotonic() - removal.at)
