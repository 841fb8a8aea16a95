"""When removed servers are deleted, and how many may wait."""

from discovery_haproxy.runtime_api.deletion import DueTimes, too_many

A, B = ("web", "a"), ("web", "b")


def test_a_removed_server_is_due_when_it_is_old_enough_and_then_ever_later() -> None:
    times = DueTimes()
    due = [now for now in range(0, 200, 2) if times.due([A], float(now))]
    assert due == [2, 6, 14, 30, 62, 122, 182]


def test_servers_have_times_of_their_own() -> None:
    times = DueTimes()
    assert times.due([A], 0.0) == []
    assert times.due([A, B], 2.0) == [A]
    assert times.due([A, B], 4.0) == [B]
    times.forget(B)
    assert times.due([B], 6.0) == []
    assert times.due([B], 8.0) == [B]


def test_a_server_that_came_back_begins_anew() -> None:
    times = DueTimes()
    times.due([A], 0.0)
    times.due([], 1.0)
    assert times.due([A], 2.0) == []


def test_a_thousand_removed_servers_are_enough() -> None:
    assert too_many(1000, (2, 6, 12)) == too_many(1000, (2, 8, 25)) == ""
    assert too_many(1001, (2, 8, 25)) == "more than 1000 removed servers have connections"
    assert "HAProxy can crash" in too_many(1001, (2, 6, 12))
