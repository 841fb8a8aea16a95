"""What this process can know of the addresses and files that HAProxy sees."""

import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from discovery_haproxy.program.process import find_family


class Vantage(NamedTuple):
    """How far this process sees what HAProxy sees. A failed probe of an address proves nothing beyond that."""

    pids: frozenset[int]
    """The processes whose listening sockets HAProxy takes over in a reload."""
    network: bool
    """True if HAProxy has the addresses of this process."""
    files: bool
    """True if HAProxy finds the same files at the same paths."""
    rights: bool
    """True if HAProxy may do no more than this process may."""


def managed_vantage(pids: Collection[int], program: Path) -> Vantage:
    """Return the vantage on a HAProxy that this process starts from `program`, and that runs as `pids`."""
    return Vantage(frozenset(pids), network=True, files=True, rights=not _grants_rights(program))


def external_vantage(pids: Collection[int]) -> Vantage:
    """Return the vantage on a HAProxy that another program runs as the processes `pids`; empty if none is known.

    A HAProxy in a container, in another network namespace or on another machine has other addresses. The namespaces
    of another user's processes cannot be read, and count as others.
    """
    family = find_family(pids)
    return Vantage(family, _all_share(family, "net"), _all_share(family, "mnt"), rights=False)


def _grants_rights(program: Path) -> bool:
    """Report whether the file gives capabilities or another user to a process that executes the file."""
    try:
        if program.stat().st_mode & stat.S_ISUID:
            return True
        os.getxattr(program, "security.capability")
    except OSError:
        return False
    return True


def _all_share(pids: Collection[int], kind: str) -> bool:
    """Report whether processes are known, and all of them are in this process's namespace of the kind `kind`."""
    namespaces = set()
    for pid in pids:
        try:
            namespaces.add(_namespace(str(pid), kind))
        except (FileNotFoundError, ProcessLookupError):
            continue  # the process has ended
        except OSError:
            return False
    return namespaces == {_namespace("self", kind)}


def _namespace(process: str, kind: str) -> tuple[int, int]:
    state = Path("/proc", process, "ns", kind).stat()
    return state.st_dev, state.st_ino
