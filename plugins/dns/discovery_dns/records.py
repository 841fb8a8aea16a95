"""What the records of a service say: which backends answer, their addresses, and the SRV records. Pure."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from discovery import Backend
from discovery_dns.config import BackupConfig
from discovery_dns.names import ADDRESSES, address_label

PRIMARY, BACKUP = 0, 10
"""Priorities of SRV records. Clients use a priority only if no target of a smaller number can be reached."""

AddressesOf = Callable[[Backend], Sequence[str]]
"""Returns the IP addresses of a backend."""


class Usable(NamedTuple):
    """The backends of a service to which clients are sent: `primary` first, and `backup` if these cannot be reached."""

    primary: tuple[Backend, ...]
    backup: tuple[Backend, ...]


class Srv(NamedTuple):
    """An SRV record. `target` is relative to the domain if `address`, the address of the target, is not None."""

    priority: int
    weight: int
    port: int
    target: str
    address: str | None


def usable(backends: Iterable[Backend], backup: BackupConfig | None) -> Usable:
    """Return the backends that take new connections, or all backends if none does. `primary` is empty only with both.

    A backend that drains still serves, which is better than no address at all.
    """
    backends = tuple(backends)
    taking = [each for each in backends if each.accepts_work] or backends
    primary = tuple(each for each in taking if not is_backup(each, backup))
    others = tuple(each for each in taking if is_backup(each, backup))
    return Usable(primary, others) if primary else Usable(others, ())


def is_backup(backend: Backend, config: BackupConfig | None) -> bool:
    """Report whether the backend is a backup. A missing label is the empty value."""
    if config is None:
        return False
    value = backend.labels.get(config.label, "")
    return value in config.is_ if config.is_ is not None else value not in (config.not_ or ())


def addresses(backends: Usable, addresses_of: AddressesOf, *, ipv6: bool) -> tuple[str, ...]:
    """Return the IPv4 or IPv6 addresses of the primary backends, each once; of the backups if these have none at all.

    The backups count only if no primary backend has an address of either family: the two questions of one client
    are answered about the same backends.
    """
    for group in backends:
        found = dict.fromkeys(address for backend in group for address in addresses_of(backend))
        if found:
            return tuple(address for address in found if (":" in address) == ipv6)
    return ()


def srv_records(backends: Usable, backup: BackupConfig | None) -> tuple[Srv, ...]:
    """Return the SRV records of the backends, each once, those of the primary backends first."""
    return tuple(
        dict.fromkeys(
            Srv(
                BACKUP if is_backup(each, backup) else PRIMARY,
                each.weight,
                each.port,
                each.host if each.is_named else f"{address_label(each.host)}.{ADDRESSES}",
                None if each.is_named else each.host,
            )
            for group in backends
            for each in group
        )
    )
