"""What became of the requests and of the record in the registry: frozen data, and pure functions of these."""

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

HELD_SECONDS = 1.0
"""A request that takes longer was held: it waited for a backend. An answer takes milliseconds."""


class Request(NamedTuple):
    """A finished request. Times are seconds of CLOCK_MONOTONIC; `failure` is empty if the request was answered."""

    begun: float
    ended: float
    by: str
    failure: str

    @property
    def seconds(self) -> float:
        """How long the request took."""
        return self.ended - self.begun


class Cut(NamedTuple):
    """The moment in which a machine loses power: between `begun` and `ended`, of CLOCK_MONOTONIC."""

    begun: float
    ended: float


class Leader(NamedTuple):
    """The machine of the leader that members of etcd agree on from `at` on, a time of CLOCK_MONOTONIC."""

    at: float
    machine: str


class Backend(NamedTuple):
    """A backend of the service, as the registry has it."""

    id: str
    address: str


class Change(NamedTuple):
    """The backends of the service from `at` on, a time of CLOCK_MONOTONIC."""

    at: float
    backends: frozenset[Backend]


class Summary(NamedTuple):
    """The requests of a run, counted. Times are in seconds.

    `failed` and `in_flight_failed` have the reasons. A request is in flight if it was sent before the machine lost
    power, and not answered by then; none of these is counted elsewhere.
    """

    total: int
    served: dict[str, int]
    held: int
    longest_hold: float
    failed: tuple[str, ...]
    in_flight: int
    in_flight_failed: tuple[str, ...]
    in_flight_longest: float
    longest_gap: float


class History(NamedTuple):
    """The record of the service in the registry, through the run.

    `ended` is how long the record of the machine that lost power stood, in seconds from the loss of power, None if it
    stands. `absent` is how long the service had no backend, in seconds; `flaps` the number of changes after the new
    backend was registered; `duplicates` the most backends that the registry had at a time beyond the one that there is
    to be.
    """

    ended: float | None
    absent: float
    flaps: int
    duplicates: int


def read_requests(lines: Iterable[str]) -> list[Request]:
    """Return the requests of the lines that `traffic` writes, in the order in which they began."""
    return sorted(Request(*json.loads(line)) for line in lines if line.endswith("\n"))


def summarize(requests: Sequence[Request], cut: Cut) -> Summary:
    """Count the requests of a run in which a machine lost power."""
    in_flight = [each for each in requests if is_in_flight(each, cut)]
    others = [each for each in requests if not is_in_flight(each, cut)]
    served: dict[str, int] = {}
    for each in requests:
        if not each.failure:
            served[each.by] = served.get(each.by, 0) + 1
    holds = [each.seconds for each in others if not each.failure]
    answers = sorted(each.ended for each in requests if not each.failure)
    return Summary(
        total=len(requests),
        served=served,
        held=sum(seconds > HELD_SECONDS for seconds in holds),
        longest_hold=max(holds, default=0.0),
        failed=tuple(each.failure for each in others if each.failure),
        in_flight=len(in_flight),
        in_flight_failed=tuple(each.failure for each in in_flight if each.failure),
        in_flight_longest=max((each.ended - cut.begun for each in in_flight), default=0.0),
        longest_gap=max((after - before for before, after in pairwise(answers)), default=0.0),
    )


def is_in_flight(request: Request, cut: Cut) -> bool:
    """Return True if the request had been sent when the machine lost power, and not been answered."""
    return request.begun <= cut.ended and request.ended >= cut.begun


def read_changes(lines: Iterable[tuple[float, str]], service: str) -> list[Change]:
    """Return the changes of a service, from lines of `discovery watch --json` and the times at which each came."""
    changes, backends = list[Change](), dict[str, Backend]()
    for at, line in lines:
        told = json.loads(line)
        if told["reset"]:
            backends.clear()
        for record in told["removed"]:
            if record["service"] == service:
                backends.pop(record["id"], None)
        for record in (*told["added"], *told["updated"]):
            if record["service"] == service:
                backends[record["id"]] = Backend(record["id"], f"{record['host']}:{record['port']}")
        now = frozenset(backends.values())
        if not changes or changes[-1].backends != now:
            changes.append(Change(at, now))
    return changes


def elected(lines: Iterable[str], machines: Iterable[str], before: int) -> Leader | None:
    """Return the first leader other than `before` that the members of these machines agree on.

    `lines` are those that `leaders` writes. Returns None as long as the members do not agree.
    """
    leaders, ids = dict.fromkeys(machines, 0), dict[int, str]()
    for line in lines:
        at, machine, own, leader = json.loads(line)
        leaders[machine] = leader
        ids[own] = machine
        if len(agreed := set(leaders.values())) == 1 and not agreed & {0, before} and leader in ids:
            return Leader(at, ids[leader])
    return None


def judge(changes: Sequence[Change], cut: Cut) -> History:
    """Judge the changes of the service's backends after a machine has lost power."""
    after = [each for each in changes if each.at >= cut.begun]
    stood = next((each.backends for each in reversed(changes) if each.at < cut.begun), frozenset())
    gone = next((each.at for each in after if not each.backends), None)
    returned = next((at for at, each in enumerate(after) if each.backends and (gone is None or each.at > gone)), None)
    absent = after[returned].at - gone if gone is not None and returned is not None else 0.0
    return History(
        ended=next((each.at - cut.begun for each in after if not stood <= each.backends), None),
        absent=absent,
        flaps=len(after) - returned - 1 if returned is not None else 0,
        duplicates=max(0, *(len(each.backends) - 1 for each in changes)) if changes else 0,
    )
