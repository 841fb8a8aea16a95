"""Versions of the protocol between a daemon and a process that asks it (`handover`), and on which two agree; pure.

| version | since | difference |
|---|---|---|
| 1 | 0.1 | messages state no version; a daemon of 0.1 answers successors alone |
| 2 | 0.2 | a request states the versions that its sender speaks; the first answer to a successor states the one used |

A message of a later version may have more keys, which an earlier version ignores. The oldest version changes only when
a side cannot do without what an earlier version lacks: then that version is refused, with the way out.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

KEY = "protocol"
"""The key of a message: `[OLDEST, NEWEST]` in a request, the version in the first answer to a successor.

The answering side alone chooses the version, from those of the request, or refuses: the asking side reads no version.
"""


class Versions(NamedTuple):
    """The oldest and the newest version that a process speaks."""

    oldest: int
    newest: int

    def __str__(self) -> str:
        """Return the versions for a message."""
        return f"version {self.newest}" if self.oldest == self.newest else f"versions {self.oldest} to {self.newest}"


SPOKEN = Versions(1, 2)
"""What this process speaks."""


def spoken_by(request: Mapping[str, Any]) -> Versions:
    """Return the versions that the sender of `request` speaks: version 1 if it states none. Raises ValueError."""
    match request.get(KEY, [1, 1]):
        case [int(oldest), int(newest)] if 1 <= oldest <= newest:
            return Versions(oldest, newest)
    raise ValueError(f"the message has no versions of the protocol: {request[KEY]!r}")


def agreed(one: Versions, other: Versions) -> int | None:
    """Return the newest version that both speak, or None."""
    newest = min(one.newest, other.newest)
    return newest if newest >= max(one.oldest, other.oldest) else None
