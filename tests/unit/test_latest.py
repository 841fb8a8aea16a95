"""Latest wins, and since when the oldest change waits."""

import time

from discovery.consuming.latest import Latest


def test_the_last_offer_replaces_the_others_and_the_oldest_of_them_counts() -> None:
    """Point 27."""
    latest: Latest[str] = Latest()
    assert (latest.value, latest.take(), latest.behind_since) == (None, None, None)
    before = time.monotonic()
    latest.offer("a")
    first = latest.behind_since
    latest.offer("b")
    assert first is not None
    assert before <= first
    assert (latest.take(), latest.behind_since) == ("b", first)
    latest.offer("c")
    assert latest.behind_since == first  # b is not settled
    latest.settle()
    second = latest.behind_since
    assert second is not None
    assert second > first  # c has waited since it was offered
    assert (latest.take(), latest.behind_since) == ("c", second)
    latest.offer("d")
    assert (latest.take(), latest.behind_since) == ("d", second)  # c has failed
    latest.settle()
    assert latest.behind_since is None


def test_what_is_reopened_waits_from_then_on() -> None:
    """Point 27."""
    latest: Latest[str] = Latest()
    latest.reopen()
    assert latest.behind_since is None
    latest.offer("a")
    latest.take()
    latest.settle()
    before = time.monotonic()
    latest.reopen()
    assert (latest.behind_since or 0) >= before
    assert latest.take() == "a"
