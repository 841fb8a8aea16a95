"""The records of services: which backends answer, their addresses, and their SRV records.

The backends of a service come in runs of about 64, which a changed service shares with its version before
(`discovery.Service`). The records of a run are built once: a change of one backend among thousands builds those of one
run.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import NamedTuple

from discovery import Addresses, Backend, Endpoint, Service
from discovery_dns.config import BackupConfig
from discovery_dns.wire import RecordBuilder, Srv

PRIMARY, BACKUP = 0, 10
"""Priorities of SRV records. Clients use a priority only if no target of a smaller number can be reached."""


class Targets(NamedTuple):
    """The SRV records of a service, those of primary backends first, and the address that each target has here.

    The first `rotating` records have the same priority. A host name is its own target, and has no address here.
    """

    records: tuple[bytes, ...]
    addresses: tuple[str | None, ...]
    rotating: int


class Own(NamedTuple):
    """The records of one backend: its A and AAAA records, and its SRV record."""

    addresses: tuple[bytes, ...]
    srv: bytes


class Group:
    """Backends of a run that are used alike, with their records. From one thread."""

    def __init__(self, backends: Sequence[Backend], priority: int, records: RecordBuilder) -> None:
        """Create the group. Its SRV records have the `priority`."""
        self._priority, self._records = priority, records
        self._by_address = tuple(each for each in backends if not each.is_named)
        self._by_name = tuple(each for each in backends if each.is_named)

    @cached_property
    def ipv4(self) -> tuple[bytes, ...]:
        """The A records of the backends that are registered by address."""
        return tuple(self._records.address(each.host) for each in self._by_address if ":" not in each.host)

    @cached_property
    def ipv6(self) -> tuple[bytes, ...]:
        """The AAAA records of these backends."""
        return tuple(self._records.address(each.host) for each in self._by_address if ":" in each.host)

    @cached_property
    def targets(self) -> dict[bytes, str | None]:
        """The SRV records of these backends, with the addresses of the targets."""
        return {self._srv(each): each.host for each in self._by_address}

    @cached_property
    def named_targets(self) -> dict[bytes, Endpoint]:
        """The SRV records of the backends that are registered by host name."""
        return {self._srv(each): (each.host, each.port) for each in self._by_name}

    @property
    def endpoints(self) -> Iterator[Endpoint]:
        """The host names and ports of these backends."""
        return ((each.host, each.port) for each in self._by_name)

    def _srv(self, backend: Backend) -> bytes:
        return _srv(self._records, backend, self._priority)


class _Run:
    """A run of a service's backends.

    A key of `groups` has two flags: its backends take new connections, and its backends are backups.
    """

    def __init__(self, backends: tuple[Backend, ...], backup: BackupConfig | None, records: RecordBuilder) -> None:
        self.backends = backends  # which keeps the identity of the run from being used again
        self._backup, self._records = backup, records

    @cached_property
    def groups(self) -> Mapping[tuple[bool, bool], Group]:
        groups: defaultdict[tuple[bool, bool], list[Backend]] = defaultdict(list)
        for each in self.backends:
            groups[each.accepts_work, is_backup(each, self._backup)].append(each)
        return {
            (takes_work, is_last): Group(backends, BACKUP if is_last else PRIMARY, self._records)
            for (takes_work, is_last), backends in groups.items()
        }


class ServiceRecords:
    """The records of a service for clients: of the backends that take new connections, or of all if none does.

    A backend that drains still serves, which is better than no address at all. From one thread.
    """

    def __init__(
        self,
        service: Service,
        backup: BackupConfig | None,
        records: RecordBuilder,
        before: "ServiceRecords | None" = None,
    ) -> None:
        """Create, with the runs that the version `before` of the service has as well. Builds no record yet."""
        self.service, self._records, self._backup = service, records, backup
        runs: Mapping[int, _Run] = before.runs if before is not None else {}
        self.runs: Mapping[int, _Run] = {
            id(each): runs.get(id(each)) or _Run(each, backup, records) for each in service.runs
        }
        """The runs of the service by their identity."""

    def build(self) -> Iterator[None]:
        """Build the records, and yield after some dozens; without this, the first question builds all."""
        for run in self.runs.values():
            for group in run.groups.values():
                _ = group.ipv4, group.ipv6
                yield
                _ = group.targets, group.named_targets
                yield

    def addresses(self, known: Addresses, *, ipv6: bool) -> tuple[bytes, ...]:
        """Return the A or AAAA records of the primary backends, each once; of the backups if these have none at all.

        The backups count only if no primary backend has an address of either family: the two questions of one client
        are answered about the same backends. `known` has the addresses of host names.
        """
        for groups in self._used:
            named = tuple(chain.from_iterable(known.get(each, ()) for group in groups for each in group.endpoints))
            if named or any(group.ipv4 or group.ipv6 for group in groups):
                own = chain.from_iterable(group.ipv6 if ipv6 else group.ipv4 for group in groups)
                others = (self._records.address(each) for each in named if (":" in each) == ipv6)
                return tuple(dict.fromkeys(chain(own, others)))
        return ()

    def targets(self, known: Addresses) -> Targets:
        """Return the SRV records, each once.

        A backend by a host name without any `known` address is left out, unless no backend has an address.
        """
        found: dict[bytes, str | None] = {}
        lost: dict[bytes, str | None] = {}
        sizes = []
        for groups in self._used:
            for group in groups:
                found.update(group.targets)
                for record, endpoint in group.named_targets.items():
                    (found if known.get(endpoint) else lost)[record] = None
            sizes.append((len(found), len(lost)))
        (primary_found, primary_lost), _ = sizes
        if not found:
            return Targets(tuple(lost), tuple(lost.values()), primary_lost)
        return Targets(tuple(found), tuple(found.values()), primary_found or len(found))

    def of(self, backend: Backend, known: Addresses) -> Own:
        """Return the records of `backend`, a backend of the service, whether or not answers have them."""
        hosts = known.get((backend.host, backend.port), ()) if backend.is_named else (backend.host,)
        priority = BACKUP if is_backup(backend, self._backup) else PRIMARY
        return Own(tuple(map(self._records.address, hosts)), _srv(self._records, backend, priority))

    @cached_property
    def takes_work(self) -> bool:
        """Whether a backend of the service takes new connections; if none does, clients are told of all."""
        return any(takes_work for run in self.runs.values() for takes_work, _ in run.groups)

    @cached_property
    def _used(self) -> tuple[tuple[Group, ...], tuple[Group, ...]]:
        """The primary backends, and the backups. The first are empty only with both."""
        runs = tuple(run.groups for run in self.runs.values())
        takes_work = self.takes_work
        primary = tuple(groups[takes_work, False] for groups in runs if (takes_work, False) in groups)
        backups = tuple(groups[takes_work, True] for groups in runs if (takes_work, True) in groups)
        return (primary, backups) if primary else (backups, ())


def _srv(records: RecordBuilder, backend: Backend, priority: int) -> bytes:
    return records.srv(Srv(priority, backend.weight, backend.port, backend.host, backend.is_named))


def is_backup(backend: Backend, config: BackupConfig | None) -> bool:
    """Report whether the backend is a backup. A missing label is the empty value."""
    if config is None:
        return False
    value = backend.labels.get(config.label, "")
    return value in config.is_ if config.is_ is not None else value not in (config.not_ or ())
