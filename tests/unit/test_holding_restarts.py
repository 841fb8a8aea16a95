"""Held removals across restarts of the daemon."""

from holdings import LEASES, ONE, TTL, A, B, C, World, started

from discovery.consuming.holding import MARGIN, RememberedHolds, RemovalHolds
from discovery.registry import History, Stale


def test_a_first_start_without_memory_believes_an_empty_registry() -> None:
    world = World()
    world.reset([])
    assert (world.served, world.held) == (set(), set())
    # And what comes and goes then was seen.
    world.put(A)
    world.delete(A)
    assert world.held == set()


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
    memory = RememberedHolds(50, ONE, LEASES)
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
