"""Numeric ids of HAProxy's servers: the `id` of a `server` line.

HAProxy places a server by its id on the ring of `balance random` and of a consistent hash, and `balance first` fills
servers in the order of their ids. By default ids are positions in the file, so that one additional server moves nearly
every key to another server.
"""

import zlib
from collections import Counter
from collections.abc import Sequence

_RING_IDS = 1 << 20
"""Ids that differ on the ring: HAProxy hashes `id * 4096 + n` in 32 bits, so that ids which are equal in their low 20
bits share their places, and two servers get the requests of one."""


def own_id(name: str) -> int:
    """Return the id of a name whose hash no other name of the section has."""
    return zlib.crc32(name.encode()) % (_RING_IDS - 1) + 1


def distinct_ids(names: Sequence[str], own: Sequence[int]) -> Sequence[int]:
    """Return the ids of different names, whose `own_id` are `own`: distinct on the ring, and functions of the names.

    If names have equal hashes, the first name in alphabetical order gets the hash as its id, and each other name gets
    the next free id.
    """
    taken = set(own)
    if 2 * len(names) >= _RING_IDS:
        return _searched_ids(names)
    if len(taken) == len(names):  # as in nearly all sections
        return own
    counts = Counter(own)
    ids = dict(zip(names, own, strict=True))
    had: set[int] = set()
    for name in sorted(name for name, id_ in ids.items() if counts[id_] > 1):
        if ids[name] not in had:
            had.add(ids[name])
            continue
        free = ids[name] % (_RING_IDS - 1) + 1
        if free in taken:
            # Two groups of equal hashes share the next ids: all names decide which gets which.
            return _searched_ids(names)
        taken.add(free)
        ids[name] = free
    return tuple(ids.values())


def _searched_ids(names: Sequence[str]) -> tuple[int, ...]:
    """Return the ids, in the order of `names`, by a search for each of the names in alphabetical order."""
    slots = max(_RING_IDS - 1, 2 * len(names))  # never full, so that the search for a free id ends
    taken: dict[int, str] = {}
    for name in sorted(names):
        slot = zlib.crc32(name.encode()) % slots
        while slot in taken:
            slot = (slot + 1) % slots
        taken[slot] = name
    ids = {name: slot + 1 for slot, name in taken.items()}
    return tuple(ids[name] for name in names)
