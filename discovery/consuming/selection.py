"""The part of snapshots that a consumer's `filter` selects. Versions share what did not change. Pure."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from types import MappingProxyType

from discovery.fields import has_labels, is_service_name
from discovery.hosting.tables import Filter
from discovery.model import Addresses, Backend, Service, Snapshot, diff
from discovery.plugin import Update

_NOTHING: Mapping[str, Service] = MappingProxyType({})


class Selection:
    """Selects services by name and backends by labels from a sequence of snapshots."""

    def __init__(self, wanted: Filter | None = None) -> None:
        """Select what `wanted` describes; None selects everything."""
        self._wanted = wanted
        self._before: Mapping[str, Service] = _NOTHING
        self._selected: Mapping[str, Service] = _NOTHING
        self._matches: dict[str, bool] = {}

    def of(self, snapshot: Snapshot) -> Snapshot:
        """Return the selected part of `snapshot`. A service that did not change is the same object as before."""
        if self._wanted is None:
            return snapshot
        if snapshot.services is not self._before:
            known, names = self._matches, snapshot.services
            self._matches = {name: known[name] if name in known else self._is_wanted(name) for name in names}
            selected = {
                name: version
                for name, service in snapshot.services.items()
                if self._matches[name] and len(version := self._version(service))
            }
            self._before, self._selected = snapshot.services, MappingProxyType(selected)
        rejected = tuple(each for each in snapshot.rejected if self._is_wanted(each.key.partition("/")[0]))
        return Snapshot(snapshot.revision, self._selected, rejected, snapshot.more_rejected)

    def addresses_in(self, selected: Snapshot, addresses: Addresses | None) -> Addresses | None:
        """Return those of `addresses` that backends of `selected` have."""
        if self._wanted is None or not addresses:
            return addresses
        named = {(each.host, each.port) for each in selected.backends() if each.is_named}
        return {endpoint: known for endpoint, known in addresses.items() if endpoint in named}

    def _is_wanted(self, name: str) -> bool:
        return self._wanted is None or matches(name, self._wanted.services)

    def _version(self, service: Service) -> Service:
        """Return the selected part of `service`, made from that of the version before by what has changed."""
        if self._wanted is None or not self._wanted.labels:
            return service
        before = self._before.get(service.name, Service(service.name))
        selected = self._selected.get(service.name, Service(service.name))
        if before is service:
            return selected
        changes = diff(_alone(before), _alone(service))
        changed: dict[str, Backend | None] = {each.id: None for each in changes.removed}
        for each in (*changes.added, *changes.updated):
            changed[each.id] = each if has_labels(each.labels, self._wanted.labels) else None
        return selected.with_changes(changed) if changed else selected


def narrowed(update: Update, wanted: Filter | None) -> Update:
    """Return the part of `update`, the first of a consumer, that `wanted` selects. None selects everything."""
    if wanted is None:
        return update
    selection = Selection(wanted)
    snapshot = selection.of(update.snapshot)
    addresses = selection.addresses_in(snapshot, update.addresses)
    return replace(update, snapshot=snapshot, changes=diff(None, snapshot), addresses=addresses)


def missing_services(wanted: Filter | None, snapshot: Snapshot) -> tuple[str, ...]:
    """Return the names in `wanted`, without wildcards, that no service of `snapshot` has.

    A registry without any service says nothing about names: then there is none.
    """
    if wanted is None or not snapshot.services:
        return ()
    return tuple(each for each in wanted.services if is_service_name(each) and each not in snapshot.services)


def unmatched(wanted: Filter | None, snapshot: Snapshot) -> tuple[str, ...]:
    """Return the parts of `wanted` that select nothing of `snapshot`, each in a line with the likely reason.

    Nothing is said about a registry without any service.
    """
    if wanted is None or not snapshot.services:
        return ()
    names = [name for name in snapshot.services if matches(name, wanted.services)]
    missing = (each for each in wanted.services if not any(fnmatchcase(name, each) for name in names))
    lines = [f"the registry has no service {each!r}{_hint(each, snapshot.services)}" for each in missing]
    backends = [each.labels for name in names or snapshot.services for each in snapshot.services[name].backends]
    for label, values in wanted.labels.items() if backends else ():
        if not any(has_labels(each, {label: values}) for each in backends):
            known = {name for each in backends for name in each}
            lines.append(
                f"no backend has the label {label!r}{_hint(label, known)}"
                if label not in known
                else f"no backend has the label {label!r} with {' or '.join(map(repr, values))}"
            )
    if not lines and backends and not any(has_labels(each, wanted.labels) for each in backends):
        lines.append("no backend has all of the labels")
    return tuple(lines)


def matches(name: str, patterns: Collection[str]) -> bool:
    """Return True if any of `patterns` matches `name`, and if there is none."""
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


def _hint(wanted: str, known: Iterable[str]) -> str:
    near = get_close_matches(wanted, known, 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _alone(service: Service) -> Snapshot:
    return Snapshot(0, {service.name: service})
