"""Point 3. Which removals are believed, decided by the events of a watch and a clock alone."""

from collections.abc import Iterable, Mapping

from hypothesis import given
from hypothesis import strategies as st

from discovery.consuming.holding import LONGEST, MARGIN, SETTLE, Cause, Held, Memory, RemovalHolds
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


def test_a_delete_on_a_healthy_watch_is_never_held() -> None:
    world = started()
    world.delete(A)
    world.delete(C)
    assert (world.served, world.held) == ({B}, set())


def test_after_a_gap_leased_removals_are_held_for_one_ttl_and_a_margin() -> None:
    world = started()
    world.gap()
    world.wait(0.5)
    world.delete(A, C)
    assert (world.served, world.held) == ({A, B}, {A})
    assert world.holding.held[A] == Held(Cause.GAP, TTL, world.now + TTL + MARGIN)
    world.wait(TTL + MARGIN - 0.1)
    assert world.served == {A, B}
    world.wait(0.2)
    assert (world.served, world.held) == ({B}, set())


def test_deletes_that_come_with_the_end_of_the_gap_are_held_too() -> None:
    world = started()
    world.take(Stale("down"))
    world.delete(A, B)
    assert world.held == {A, B}


def test_a_listing_after_a_gap_holds_leased_records_alone() -> None:
    world = started()
    world.take(Stale("down"))
    world.reset([])
    assert (world.served, world.held) == ({A, B}, {A, B})


def test_a_record_that_returns_is_held_no_longer_and_its_removal_is_believed() -> None:
    world = started()
    world.gap()
    world.delete(A, B)
    world.put(A)
    assert world.held == {B}
    # Its lease is of after the gap, so that its removal is believed although others are still doubted.
    world.delete(A)
    assert (world.served, world.held) == ({B, C}, {B})
    world.put(A)
    world.gap()
    world.delete(A)
    assert world.held == {A, B}


def test_a_record_that_is_written_again_may_have_the_lease_of_before_the_gap() -> None:
    """A new weight, say, whose write had to wait for the server that stood still, before the lease was given up."""
    world = started()
    world.take(Stale("down"))
    world.put(A)
    world.delete(A)
    assert (world.served, world.held) == ({A, B, C}, {A})
    # Back under another lease, which the next gap outlives no more than the first did.
    world.take(Stale("down"))
    world.put(A)
    world.delete(A)
    assert (world.served, world.held) == ({A, B, C}, {A})


def test_what_is_registered_after_the_gap_is_believed_to_be_withdrawn() -> None:
    world = started()
    world.gap()
    world.put("web/new", leases={"web/new": TTL})
    world.delete("web/new")
    assert (world.served, world.held) == ({A, B, C}, set())


def test_a_while_after_the_gap_deletes_are_believed_again() -> None:
    world = started()
    world.gap()
    world.wait(SETTLE + 0.1)
    world.delete(A)
    assert (world.served, world.held) == ({B, C}, set())


def test_the_last_of_many_expiries_is_doubted_like_the_first() -> None:
    keys = [f"web/{number}" for number in range(4)]
    leases = dict.fromkeys(keys, TTL)
    world = World()
    world.reset(keys, leases=leases)
    world.gap()
    for key in keys:
        world.wait(SETTLE - 1)
        world.delete(key)
    # But not for ever: the whole is over after a TTL and the margin.
    assert world.held == {*keys[:-1]}
    assert world.served == {*keys[:-1]}


def test_a_dead_machine_stays_at_most_one_ttl_and_a_margin() -> None:
    world = started()
    world.gap()
    world.delete(A)
    removed = world.now
    while A in world.served:
        world.wait(0.5)
    assert world.now - removed <= TTL + MARGIN + 0.5


def test_whatever_ttl_a_record_states_it_is_not_held_for_longer_than_a_registrar_may_take() -> None:
    year = {A: 365 * 86_400.0, B: LONGEST}
    for cause in (World.gap, lambda world: world.reset([C], History("two"))):
        world = World()
        world.reset([A, B, C], leases=year)
        cause(world)
        if A not in world.held:
            world.delete(A, B)
        assert world.held == {A, B}
        world.wait(LONGEST + MARGIN - 1)
        assert world.held == {A, B}
        world.wait(2)
        assert (world.served, world.held) == ({C}, set())


def test_while_the_registry_is_away_nothing_is_given_up() -> None:
    world = started()
    world.gap()
    world.delete(A)
    world.take(Stale("down again"))
    assert world.holding.next_end is None
    world.wait(100)
    assert A in world.served
    world.take(Delta(world.revision, {}))
    world.wait(TTL + MARGIN - 0.1)
    assert A in world.served
    world.wait(0.2)
    assert A not in world.served


def test_after_a_reset_every_record_is_held_and_an_empty_registry_is_not_believed() -> None:
    world = started()
    world.revision = 1
    world.take(Stale("down"))
    world.reset([], History("one", 1))
    assert world.held == world.served == {A, B, C}
    world.wait(1000)
    assert world.served == {A, B, C}
    world.put(A)
    assert world.held == {B, C}
    world.wait(TTL + MARGIN + 0.1)
    # What is leased has not returned; what is not is held until a person releases it.
    assert (world.served, world.held) == ({A, C}, {C})
    world.wait(1000)
    assert world.served == {A, C}
    assert world.holding.release("web") == frozenset()
    assert world.holding.release("db") == {C}
    assert world.held == set()


def test_another_history_is_recognised_by_each_of_its_signs() -> None:
    for history, revision, more in (
        (History("two", 2), 90, {}),
        (History("one", 1), 90, {}),
        (ONE, 1, {}),
        (ONE, 90, {"another": True}),
    ):
        world = World()
        world.revision = 50
        world.reset([A, C])
        world.revision = revision
        world.reset([A], history, **more)
        assert world.held == {C}, (history, revision, more)
    world = World()
    world.revision = 50
    world.reset([A, C])
    world.revision = 90
    world.reset([A], History("one", 3))
    assert world.held == set()


def test_a_restored_registry_with_some_records_counts_from_then_on() -> None:
    world = started()
    world.reset([A], History("two"))
    assert world.held == {B, C}
    world.wait(TTL + MARGIN + 0.1)
    assert world.held == {C}


def test_a_first_start_without_memory_believes_an_empty_registry() -> None:
    world = World()
    world.reset([])
    assert (world.served, world.held) == (set(), set())
    # And what comes and goes then was seen.
    world.put(A)
    world.delete(A)
    assert world.held == set()


def test_a_registry_that_says_nothing_of_leases_is_believed_in_everything() -> None:
    world = World()
    world.reset([A, B], leases=None, history=None)
    world.gap()
    world.delete(A)
    world.take(Stale("down"))
    world.revision = 1
    world.reset([], leases=None, history=None)
    assert (world.served, world.held) == (set(), set())


def test_a_restart_during_the_hold_keeps_it() -> None:
    world = started()
    world.gap()
    world.delete(A)
    again = World(RemovalHolds(world.holding.memory(world.now)), world.served)
    again.now, again.revision = world.now + 3, world.revision
    again.reset([B, C])
    assert (again.served, again.held) == ({A, B, C}, {A})
    again.wait(TTL + MARGIN - 3 + 0.1)
    assert again.held == set()


def test_a_restart_after_a_reset_keeps_what_is_held() -> None:
    world = started()
    world.reset([], History("two"))
    again = World(RemovalHolds(world.holding.memory(world.now)), world.served)
    again.reset([], History("two"))
    assert again.held == {A, B, C}
    again.wait(1000)
    again.put(A)
    again.wait(TTL + MARGIN + 0.1)
    assert again.held == {C}


def test_a_store_lost_while_no_daemon_ran_is_recognised() -> None:
    memory = Memory(50, ONE, LEASES)
    world = World(RemovalHolds(memory), [A, B, C])
    world.reset([], History("one", 1))
    assert world.held == {A, B, C}


def test_an_orderly_restart_believes_what_happened_meanwhile() -> None:
    world = started()
    again = World(RemovalHolds(world.holding.memory(world.now)), world.served)
    again.revision = 9
    again.reset([A])
    assert (again.served, again.held) == ({A}, set())


def test_a_restart_in_a_gap_doubts_the_first_listing() -> None:
    world = started()
    world.take(Stale("down"))
    again = World(RemovalHolds(world.holding.memory(world.now)), world.served)
    again.reset([A])
    assert (again.served, again.held) == ({A, B}, {B})


def test_a_lease_taken_away_from_a_record_is_noticed() -> None:
    world = started()
    world.put(A, leases={})
    world.put(C, leases={C: 60.0})
    world.gap()
    world.delete(A, C)
    assert world.held == {C}
    assert world.holding.held[C].ttl == 60


def test_what_ended_is_counted() -> None:
    world = started()
    world.reset([], History("two"))
    world.put(A)
    world.wait(TTL + MARGIN + 0.1)
    world.holding.release(None)
    ended = world.holding.ended()
    assert (ended.returned, ended.expired, ended.released) == (1, 1, 1)


KEYS = st.sampled_from([A, B, C])
STEPS = st.one_of(
    st.tuples(st.just("put"), KEYS),
    st.tuples(st.just("delete"), KEYS),
    st.tuples(st.just("stale"), st.none()),
    st.tuples(st.just("fresh"), st.none()),
    st.tuples(st.just("relist"), st.none()),
    st.tuples(st.just("wait"), st.sampled_from([0.1, 3.0, 20.0])),
)


@given(st.lists(STEPS, max_size=40))
def test_what_is_served_is_always_what_the_registry_has_and_what_is_held(steps: list[tuple[str, object]]) -> None:
    world = started()
    truth = {A, B, C}
    for step, argument in steps:
        if step == "put":
            world.put(str(argument))
            truth.add(str(argument))
        elif step == "delete" and argument in truth:
            world.delete(str(argument))
            truth.discard(str(argument))
        elif step == "stale":
            world.take(Stale("down"))
        elif step == "fresh":
            world.take(Delta(world.revision, {}))
        elif step == "relist":
            world.reset(truth)
        elif step == "wait":
            world.wait(float(str(argument)))
        assert world.served == truth | world.held
        assert not truth & world.held
    world.take(Delta(world.revision, {}))
    for _ in range(3):
        world.wait(TTL + MARGIN + 0.1)
    assert world.served == truth


@given(
    st.lists(
        st.tuples(st.sampled_from(["freeze", "thaw", "write", "expire", "return", "wait"]), st.sampled_from([A, B])),
        max_size=40,
    )
)
def test_no_living_record_is_lost_by_leases_that_expire_because_the_server_stood_still(
    steps: list[tuple[str, str]],
) -> None:
    """Whatever the owners write meanwhile, and however often the server stands still."""
    world = started()
    truth, doomed = {A, B}, set[str]()
    for step, key in steps:
        if step == "freeze":
            world.take(Stale("it stands still"))
            doomed |= truth
        elif step == "thaw":
            world.take(Delta(world.revision, {}))
        elif step == "write" and key in truth:
            world.put(key)
        elif step == "expire" and key in doomed & truth:
            world.delete(key)
            truth.discard(key)
            doomed.discard(key)
        elif step == "return" and key not in truth:
            world.put(key)
            truth.add(key)
        elif step == "wait":
            world.wait(0.1)  # less than SETTLE in all
        assert {A, B} <= world.served
