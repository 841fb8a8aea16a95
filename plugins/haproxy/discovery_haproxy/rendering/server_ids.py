"""Numeric ids of HAProxy's servers: the `id` of a `server` line.

HAProxy places a server by its id on the ring of `balance random` and of a consistent hash, and `balance first` fills
servers in the order of their ids. By default ids are positions in the file, so that one additional server moves nearly
every key to another server.
"""

import zlib
from collections.abc import Iterable, Sequence

_RING_IDS = 1 << 20
"""Ids that differ on the ring: HAProxy hashes `id * 4096 + n` in 32 bits, so that ids which are equal in their low 20
bits share their places, and two servers get the requests of one."""


def ids_by_name(names: Iterable[str]) -> dict[str, int]:
    """Return an id for each of the different names of a section: distinct on the ring, and a function of the name.

    Of names whose hashes are equal, the first in alphabetical order has the id of its hash, and the others have the
    next ids that are free.
    """
    ordered = sorted(names)
    slots = max(_RING_IDS - 1, 2 * len(ordered))  # never full, so that the search for a free id ends
    taken: dict[int, str] = {}
    for name in ordered:
        slot = zlib.crc32(name.encode()) % slots
        while slot in taken:
            slot = (slot + 1) % slots
        taken[slot] = name
    return {name: slot + 1 for slot, name in taken.items()}


def ids_by_position(names: Sequence[str]) -> dict[str, int]:
    """Return ids in the order of the names, for `balance first`."""
    return {name: position for position, name in enumerate(names, start=1)}
