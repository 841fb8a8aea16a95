"""Sums of what workers report, and what is left of one that has ended."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from discovery_tcpproxy.sums import add, counters_of

counts = st.dictionaries(st.sampled_from(["total", "open", "held"]), st.integers(0, 10**9))
figures = st.dictionaries(st.sampled_from("ab"), counts)


@given(figures, figures, figures)
def test_the_order_of_workers_does_not_matter(one: Any, two: Any, three: Any) -> None:
    assert add(add(one, two), three) == add(add(three, two), one)
    assert add(one, {}) == add({}, one) == one


def test_numbers_are_added_at_every_depth_and_text_comes_from_the_second_report() -> None:
    one = {"a": {"x": 1, "state": "usable", "more": {"y": 2.5}}}
    two = {"a": {"x": 2, "state": "set aside", "z": 1}, "b": 3}
    assert add(one, two) == {"a": {"x": 3, "state": "set aside", "z": 1, "more": {"y": 2.5}}, "b": 3}
    assert one == {"a": {"x": 1, "state": "usable", "more": {"y": 2.5}}}


def test_counters_of_keeps_only_counters_for_all_names() -> None:
    backend = {"open": 2, "connected": 5, "state": "usable"}
    listener = {
        "open": 2,
        "holding": 1,
        "total": 9,
        "service": "web",
        "rejected": {"open": 3},
        "backends": {"open": backend},
    }
    assert counters_of({"listeners": {"open": listener}, "dropped": 1}) == {
        "listeners": {"open": {"total": 9, "rejected": {"open": 3}, "backends": {"open": {"connected": 5}}}},
        "dropped": 1,
    }
    assert counters_of({}) == {"listeners": {}}
