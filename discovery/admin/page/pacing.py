"""When the views of the live page are painted: soon, for a bounded share of a processor, and fairly among readers.

No I/O, and no clock of its own.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple, TypeVar

T = TypeVar("T")

UPDATES = 5
"""Updates that a reader gets in that many times the pause between two pictures."""


class Pace(NamedTuple):
    """How often pictures are painted.

    `least` is how many seconds are between two pictures of a view at least: five updates in a second. `look` is after
    how many seconds one is painted unasked, for what nobody tells of, as a check's outcome. `share` is the share of a
    processor that painting may take: a picture that takes longer is painted less often. `round` is after how many
    seconds of painting what has become due meanwhile is looked at.
    """

    least: float = 0.2
    look: float = 1.0
    share: float = 0.03
    round: float = 0.05


class Painted(NamedTuple):
    """When a view was painted last, and the cost of that painting, both in seconds.

    `told` is how often somebody had told of news by then; None before the first picture, which is due at `at`.
    """

    at: float
    cost: float = 0.0
    told: int | None = None


def due(painted: Painted, pace: Pace, part: float, told: int) -> float:
    """Return the time at which a view is to be painted that may have this `part` of the share."""
    if painted.told is None:
        return painted.at
    pause = max(pace.least, painted.cost / (pace.share * part))
    return painted.at + (pause if painted.told != told else max(pause, pace.look))


def parts(readers: Collection[Collection[T]]) -> dict[T, float]:
    """Return which part of the painting each view may have, 1 in all.

    `readers` are the views of each. Readers have equal parts, and divide theirs among their views: a reader of many
    costly views has each of them seldom, and the others have theirs as before.
    """
    found: dict[T, float] = defaultdict(float)
    for views in readers:
        for each in views:
            found[each] += 1 / (len(readers) * len(views))
    return found


def in_turn(readers: Iterable[Collection[T]], times: Mapping[T, float], now: float) -> list[T]:
    """Return the views that are due: of each reader the one that has waited longest, then the second of each."""
    places: dict[T, int] = {}
    for views in readers:
        waiting = sorted((each for each in views if times[each] <= now), key=times.__getitem__)
        for place, each in enumerate(waiting):
            places[each] = min(place, places.get(each, place))
    return sorted(places, key=lambda each: (places[each], times[each]))
