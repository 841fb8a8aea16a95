"""Versions of HAProxy in which a part of the runtime API is broken, and which versions accept what.

Each row is from HAProxy's own change logs and issues. The versions are those of HAProxy's releases: a distribution may
have corrected a fault under an old number, which costs a reload more and nothing else. Branches without long-term
support (2.7, 2.9) count as never corrected where no change log of theirs names the correction.
"""

from collections.abc import Sequence
from enum import Enum, auto
from typing import NamedTuple

Version = tuple[int, ...]


class Broken(Enum):
    """The parts of the runtime API that are broken in some versions."""

    DELETION = auto()
    """`del server`. A removed server stays in maintenance until the next reload."""
    LEASTCONN = auto()
    """Additions, removals and weights in sections with `balance leastconn`."""
    MANY_MOVES = auto()
    """More than `MOST_MOVES` changes of addresses at once."""
    PROTO = auto()
    """Additions of servers with `proto`."""


class Defect(NamedTuple):
    """A fault of HAProxy. `versions` are ranges: the first version with the fault, and the first without."""

    broken: Broken
    versions: tuple[tuple[Version, Version], ...]
    symptom: str
    source: str

    def affects(self, version: Version) -> bool:
        """Report whether HAProxy of this version has the fault."""
        return any(first <= version < corrected for first, corrected in self.versions)


_ISSUES = "https://github.com/haproxy/haproxy/issues/"

DEFECTS = (
    Defect(
        Broken.DELETION,
        (((2, 6), (2, 6, 16)), ((2, 7), (2, 8)), ((2, 8), (2, 8, 4))),
        "HAProxy can crash when it connects again for a request to a deleted server",
        f"{_ISSUES}2298; change logs: BUG/MEDIUM: server/cli: don't delete a dynamic server that has streams",
    ),
    Defect(
        Broken.DELETION,
        (((2, 6), (2, 6, 17)), ((2, 7), (2, 8)), ((2, 8), (2, 8, 8)), ((2, 9), (3, 0))),
        "HAProxy can crash when it deletes a server with a connection that is in use",
        f"{_ISSUES}2378; change logs: BUG/MAJOR: server: fix stream crash due to deleted server",
    ),
    Defect(
        Broken.DELETION,
        (((2, 6), (2, 6, 18)), ((2, 7), (2, 8)), ((2, 8), (2, 8, 10)), ((2, 9), (3, 0))),
        "HAProxy can crash when it deletes a server with a connection that belongs to one client",
        "change logs: BUG/MAJOR: server: do not delete srv referenced by session",
    ),
    Defect(
        Broken.DELETION,
        (((2, 6), (2, 6, 20)), ((2, 7), (2, 8)), ((2, 8), (2, 8, 12)), ((2, 9), (3, 0)), ((3, 0), (3, 0, 6))),
        "HAProxy can crash after it has deleted several servers at once",
        f"{_ISSUES}2733; change logs: BUG/MEDIUM: server: fix race on servers_list during server deletion",
    ),
    Defect(
        Broken.DELETION,
        (((3, 2), (3, 2, 8)),),
        "HAProxy can crash when it deletes a server whose queue was just emptied",
        f"{_ISSUES}3177; change log: BUG/MEDIUM: server: close a race around ready_srv when deleting a server",
    ),
    Defect(
        Broken.LEASTCONN,
        (((3, 2), (3, 2, 1)),),
        "HAProxy can hang when the weight or the state of a server with `balance leastconn` changes",
        f"{_ISSUES}2990; change log: BUG/MAJOR: leastconn: Protect tree_elt with the lbprm lock",
    ),
    Defect(
        Broken.LEASTCONN,
        # Corrected in May 2026, after 3.2.16 and 3.3.10.
        (((3, 2, 6), (3, 2, 17)), ((3, 3), (3, 3, 11))),
        "HAProxy can hang when an added server with `balance leastconn` is disabled and enabled",
        f"{_ISSUES}3360; BUG/MEDIUM: servers: Only requeue servers if they are up",
    ),
    Defect(
        Broken.MANY_MOVES,
        (((2, 9), (3, 0)), ((3, 0), (3, 0, 5))),
        "HAProxy loses one of a hundred new addresses",
        f"{_ISSUES}2666; change log: BUG/MEDIUM: server/addr: fix tune.events.max-events-at-once event miss and leak",
    ),
    Defect(
        Broken.PROTO,
        (((2, 6), (2, 6, 16)), ((2, 7), (2, 8)), ((2, 8), (2, 8, 4))),
        "HAProxy ignores `proto` of an added server",
        'change logs: BUG/MEDIUM: server: "proto" not working for dynamic servers',
    ),
)
"""The faults, by the part that is broken and then by age."""

MOST_MOVES = 99
"""Number of new addresses at once that no version loses: the fault needs `tune.events.max-events-at-once`, 100."""
_COOKIES: tuple[tuple[Version, Version], ...] = (((2, 6, 18), (2, 7)), ((2, 8, 8), (2, 9)), ((3, 0), (100,)))
"""Versions in which `add server` accepts `cookie`. Change logs: MINOR: server: allow cookie for dynamic servers."""
_LATE_MOVES: Version = (2, 9)
"""Version from which a new address is there a moment after the answer. Change log: BUG/MAJOR: server/addr: fix a race
during server addr:svc_port updates."""
_RANDOM_BY_DEFAULT: Version = (3, 3)
"""Version from which `random` is the default of `balance`, before which `roundrobin` is."""


def defect(broken: Broken, version: Version, defects: Sequence[Defect] = DEFECTS) -> Defect | None:
    """Return a fault of this version that breaks the part; None if the part works."""
    return next((each for each in defects if each.broken is broken and each.affects(version)), None)


def takes_cookies(version: Version) -> bool:
    """Report whether `add server` accepts `cookie`."""
    return any(first <= version < last for first, last in _COOKIES)


def moves_late(version: Version) -> bool:
    """Report whether HAProxy may answer before a server is at its new address."""
    return version >= _LATE_MOVES


def default_algorithm(version: Version) -> str:
    """Return the algorithm of a section without `balance`."""
    return "random" if version >= _RANDOM_BY_DEFAULT else "roundrobin"


def dotted(version: Version) -> str:
    """Return the version for people."""
    return ".".join(map(str, version))
