"""Removals that are held after a gap or a reset, decided by watch events and a clock alone."""

from holdings import ONE, TTL, A, B, C, World, started

from discovery.consuming.holding import LONGEST, MARGIN, SETTLE, Cause, Held
from discovery.registry import Delta, History, Stale


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


def test_changes_told_after_the_gap_that_were_made_before_its_end_are_doubted() -> None:
    """The server stands still twice in a row, and tells what happened between only after the second time."""
    world = started()
    world.take(Stale("down"))
    world.take(Delta(world.revision, {}, present=world.revision + 3))
    world.wait(SETTLE + 0.1)
    world.delete(A)
    world.put(A)
    world.put("web/new", leases={"web/new": TTL})
    for key in (A, "web/new"):  # the leases of between have expired because of the second time
        world.delete(key)
        assert (world.served, world.held) == ({A, B, C, "web/new"}, {key})
        world.put(key, leases={key: TTL})
    # Both leases are of after the gap.
    world.delete(A, "web/new")
    assert (world.served, world.held) == ({B, C}, set())


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
    # But not forever: the whole is over after a TTL and the margin.
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


def test_a_registry_that_says_nothing_of_leases_is_believed_in_everything() -> None:
    world = World()
    world.reset([A, B], leases=None, history=None)
    world.gap()
    world.delete(A)
    world.take(Stale("down"))
    world.revision = 1
    world.reset([], leases=None, history=None)
    assert (world.served, world.held) == (set(), set())


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
