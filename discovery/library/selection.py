"""The services that an application asks for. Pure."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from types import MappingProxyType

from discovery.model import Rejected, Snapshot


class Selection:
    """Services by name or pattern (`web-*`); None stands for every service."""

    def __init__(self, services: str | Iterable[str] | None) -> None:
        """Take a name, a pattern, several of them, or None."""
        self.patterns = None if services is None else (services,) if isinstance(services, str) else tuple(services)
        self._last: tuple[Snapshot, Snapshot] | None = None

    def of(self, snapshot: Snapshot) -> Snapshot:
        """Return the selected part of `snapshot`: the last returned part if the two have equal contents."""
        if self._last is not None and self._last[0] is snapshot:
            return self._last[1]
        part = snapshot
        if self.patterns is not None:
            chosen = {name: service for name, service in snapshot.services.items() if self._is_selected(name)}
            rejected = tuple(each for each in snapshot.rejected if self._rejects(each))
            part = Snapshot(snapshot.revision, MappingProxyType(chosen), rejected)
        if self._last is not None and _says_the_same(self._last[1], part):
            part = self._last[1]
        self._last = snapshot, part
        return part

    def _is_selected(self, service: str) -> bool:
        return self.patterns is None or any(fnmatchcase(service, pattern) for pattern in self.patterns)

    def _rejects(self, rejected: Rejected) -> bool:
        return self._is_selected(rejected.key.partition("/")[0])


def _says_the_same(one: Snapshot, other: Snapshot) -> bool:
    return (
        one.services == other.services and one.rejected == other.rejected and one.more_rejected == other.more_rejected
    )
