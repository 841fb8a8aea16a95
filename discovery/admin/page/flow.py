"""The diagram of the flow: providers, the registry, services, consumers, and what goes where. Pure.

A `mark` of a node or an edge changes whenever something has passed it: the page shows that for a moment.
"""

from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from discovery.admin.driving import Driven
from discovery.admin.page.facts import Facts
from discovery.model import Service

MOST_SERVICES = 12
"""Services that are drawn one by one; with more, the last box stands for all others."""
MOST_INSTANCES = 12
"""Providers, and consumers, that are drawn, for the same reason: a diagram is to be read at a glance."""
_WIDTH = 960
"""Units of the drawing, as many as pixels on a wide screen."""
_BOX_HEIGHT, _STEP = 44, 58
"""Units: two lines of text, and the distance of two boxes."""
_COLUMNS = ((0, 200), (290, 140), (500, 200), (760, 200))
"""Units from the left and widths of the columns: providers, registry, services, consumers."""
_MOST_NAMES = 20
"""Services that a line of text names of a consumer."""
_LONGEST = 26
"""Characters of a line in a box of 200 units."""


class Box(NamedTuple):
    """A box of the diagram, with its place."""

    id: str
    kind: str
    name: str
    detail: str
    state: str
    mark: str
    x: int
    y: int
    width: int
    height: int

    @property
    def short(self) -> str:
        """The name as far as the box has room."""
        return _short(self.name, self.width)

    @property
    def short_detail(self) -> str:
        """The detail as far as the box has room."""
        return _short(self.detail, self.width)


class Edge(NamedTuple):
    """A line from one box to another. `untold`: the consumer follows the service, and does not tell what it drives."""

    id: str
    path: str
    mark: str
    state: str
    untold: bool = False


class Flow(NamedTuple):
    """The diagram: boxes, edges, its size, and the same in lines of text."""

    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]
    width: int
    height: int
    lines: tuple[str, ...]

    @property
    def untold(self) -> bool:
        """Whether there is a consumer that does not tell whether it drives a service."""
        return any(each.untold for each in self.edges)


class Marks:
    """Numbers the versions of objects: another value for one name has the next number."""

    def __init__(self) -> None:
        """Begin without a name."""
        self._known: dict[tuple[str, str], tuple[object, int]] = {}
        self._next: dict[tuple[str, str], tuple[object, int]] = {}

    def of(self, kind: str, name: str, version: object) -> str:
        """Return the number of this version of the object `name`."""
        before = self._known.get((kind, name)) or (version, 0)
        number = before[1] + (before[0] is not version and before[0] != version)
        self._next[kind, name] = (version, number)
        return str(number)

    def turn(self) -> None:
        """Forget the names that were not asked for since the last call."""
        self._known, self._next = self._next, {}


class _Node(NamedTuple):
    name: str
    detail: str
    state: str
    mark: str


def flow(facts: Facts, marks: Marks) -> Flow:
    """Return the diagram of the present state."""
    status = facts.status
    snapshot = status.snapshot
    services = snapshot.services if snapshot is not None else {}
    drawn = _drawn(services, facts.down_by_service)
    providers = list(_providers(facts))
    consumers = list(_consumers(facts))
    middle = [_service(services[name], facts, marks) for name in drawn]
    if len(services) > len(drawn):
        middle.append(_others(services, drawn, facts, marks))
    word = {None: "not followed", True: "connected", False: "not connected"}[status.connected]
    registry = _Node(
        "registry",
        word if snapshot is None else f"{word}, {snapshot.revision}",
        "failing" if status.connected is False else "ok",
        "" if snapshot is None else str(snapshot.revision),
    )
    columns = (providers, [registry], middle, consumers)
    kinds = ("provider", "registry", "service", "consumer")
    rows = max(1, *map(len, columns))
    height = rows * _STEP - (_STEP - _BOX_HEIGHT)
    left = 0 if providers else _COLUMNS[1][0]  # no empty column: a narrow window would show little else
    boxes = tuple(
        tuple(_boxes(kind, at, nodes, height, left))
        for at, (kind, nodes) in enumerate(zip(kinds, columns, strict=True))
    )
    edges = (*_left_edges(boxes), *_right_edges(boxes, facts, marks, drawn))
    marks.turn()
    return Flow(sum(boxes, ()), tuple(edges), _WIDTH - left, height, tuple(_lines(columns, facts)))


def _providers(facts: Facts) -> Iterator[_Node]:
    for each in islice(facts.status.providers, MOST_INSTANCES):
        state = "failing" if each.problem is not None else each.runner.state
        detail = f"{len(each.registered)} of {len(each.runner.candidates)} registered"
        yield _Node(each.runner.name, detail, state, detail)


def _consumers(facts: Facts) -> Iterator[_Node]:
    for each in islice(facts.status.consumers, MOST_INSTANCES):
        revision = "nothing applied" if each.applied_revision is None else f"applied {each.applied_revision}"
        detail = f"{revision}, behind" if each.behind_since is not None else revision
        yield _Node(each.name, detail, each.state, f"{each.applied_revision} {each.applies}")


def _drawn(services: Mapping[str, Service], down: Mapping[str, int]) -> list[str]:
    """Return the services that have a box, ordered. With too many, those of which something is down come first."""
    if len(services) <= MOST_SERVICES:
        return list(services)
    most = MOST_SERVICES - 1
    ill = sorted(name for name, count in down.items() if count and name in services)[:most]
    well = (name for name in services if name not in ill)
    return sorted((*ill, *islice(well, most - len(ill))))


def _service(service: Service, facts: Facts, marks: Marks) -> _Node:
    detail, state = _counted(len(service), facts.down_by_service[service.name])
    return _Node(service.name, detail, state, marks.of("service", service.name, service))


def _others(services: Mapping[str, Service], drawn: Collection[str], facts: Facts, marks: Marks) -> _Node:
    named = frozenset(drawn)
    others = tuple(each for name, each in services.items() if name not in named)
    down = facts.down_by_service.total() - sum(facts.down_by_service[name] for name in drawn)
    detail, state = _counted(sum(map(len, others)), down)
    return _Node(f"{len(others)} other services", detail, state, marks.of("others", "", others))


def _counted(backends: int, down: int) -> tuple[str, str]:
    """Return a line about some backends, and their state in a word."""
    told = f"{backends} backend{'s' if backends != 1 else ''}"
    return (f"{told}, {down} down", "degraded") if down else (told, "ok")


def _boxes(kind: str, column: int, nodes: list[_Node], height: int, left: int) -> Iterator[Box]:
    x, width = _COLUMNS[column][0] - left, _COLUMNS[column][1]
    top = (height - (len(nodes) * _STEP - (_STEP - _BOX_HEIGHT))) // 2
    for at, node in enumerate(nodes):
        y = top + at * _STEP
        yield Box(f"flow-{kind}-{at}", kind, node.name, node.detail, node.state, node.mark, x, y, width, _BOX_HEIGHT)


def _left_edges(boxes: tuple[tuple[Box, ...], ...]) -> Iterator[Edge]:
    providers, (registry,), services, _ = boxes
    for each in providers:
        yield _edge(each, registry, each.mark, each.state)
    for each in services:
        yield _edge(registry, each, each.mark, registry.state)


def _right_edges(boxes: tuple[tuple[Box, ...], ...], facts: Facts, marks: Marks, drawn: list[str]) -> Iterator[Edge]:
    _, _, services, consumers = boxes
    for consumer in consumers:
        applies = facts.applies.get(consumer.name)
        applied = applies.snapshot.services if applies is not None and applies.snapshot is not None else {}
        driven = facts.driven.get(consumer.name, Driven())
        for box in services:
            if box.name not in drawn:
                names, mark = set(applied) - set(drawn), consumer.mark
            elif box.name in applied:
                names, mark = {box.name}, marks.of(f"applied {consumer.name}", box.name, applied[box.name])
            else:
                continue
            if not names.isdisjoint(driven.services):
                yield _edge(box, consumer, mark, consumer.state)
            elif not names.isdisjoint(driven.untold):
                yield _edge(box, consumer, mark, consumer.state)._replace(untold=True)


def _edge(start: Box, end: Box, mark: str, state: str) -> Edge:
    x1, y1 = start.x + start.width, start.y + start.height // 2
    x2, y2 = end.x, end.y + end.height // 2
    middle = (x1 + x2) // 2
    return Edge(f"{start.id}-{end.id}", f"M{x1} {y1}C{middle} {y1} {middle} {y2} {x2} {y2}", mark, state)


def _lines(columns: tuple[list[_Node], ...], facts: Facts) -> Iterator[str]:
    for kind, nodes in zip(("Provider", "The", "Service", "Consumer"), columns, strict=True):
        for node in nodes:
            state = "" if node.state == "ok" else f" ({node.state})"
            to = _to(facts.driven.get(node.name, Driven())) if kind == "Consumer" else ""
            yield f"{kind} {node.name}: {node.detail}{state}{to}"


def _to(driven: Driven) -> str:
    """Return the services to which a consumer has a line, as text."""
    untold = driven.untold.keys() - driven.services.keys()
    return "".join(
        f", {how} {_names(names)}" for how, names in (("drives", driven.services), ("follows", untold)) if names
    )


def _names(names: Collection[str]) -> str:
    shown, more = ", ".join(sorted(names)[:_MOST_NAMES]), len(names) - _MOST_NAMES
    return f"{shown} and {more} more" if more > 0 else shown


def _short(text: str, width: int) -> str:
    most = _LONGEST * width // 200
    return text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
