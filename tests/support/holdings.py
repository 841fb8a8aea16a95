"""A registry history and a clock, for tests of held removals."""

from collections.abc import Iterable, Mapping

from discovery.consuming.holding import RemovalHolds
from discovery.registry import Delta, History, RegistryEvent, Reset, Stale

A, B, C = "web/a", "web/b", "db/c"

TTL = 10.0

LEASES = {A: TTL, B: TTL}

ONE = History("one", 2)


class World:
    """A watch and what it adds up to: what the registry has, and what is served."""

    def __init__(self, holding: RemovalHolds | None = None, served: Iterable[str] = ()) -> None:
        self.holding = holding or RemovalHolds()
        self.served = set(served)
        self.now = 1000.0
        self.revision = 1

    def take(self, event: RegistryEvent) -> None:
        decision = self.holding.take(event, tuple(self.served), self.now)
        match decision.event:
            case Reset(_, records):
                self.served = {*records, *decision.keep}
            case Delta(_, puts, deletes):
                self.served = (self.served - deletes) | puts.keys()

    def reset(
        self,
        keys: Iterable[str],
        history: History | None = ONE,
        leases: Mapping[str, float] | None = LEASES,
        **more: bool,
    ) -> None:
        keys = list(keys)
        known = None if leases is None else {key: ttl for key, ttl in leases.items() if key in keys}
        self.take(Reset(self.revision, dict.fromkeys(keys, b"v"), known, history, **more))

    def put(self, *keys: str, leases: Mapping[str, float] = LEASES) -> None:
        self.revision += 1
        known = {key: ttl for key, ttl in leases.items() if key in keys}
        self.take(Delta(self.revision, dict.fromkeys(keys, b"v"), leases=known))

    def delete(self, *keys: str) -> None:
        self.revision += 1
        self.take(Delta(self.revision, {}, frozenset(keys)))

    def gap(self) -> None:
        self.take(Stale("down"))
        self.take(Delta(self.revision, {}))

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.served -= self.holding.expire(self.now)

    @property
    def held(self) -> set[str]:
        return set(self.holding.held)


def started() -> World:
    world = World()
    world.reset([A, B, C])
    return world
