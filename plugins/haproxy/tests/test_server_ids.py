"""Numeric ids of servers: functions of their names, distinct on HAProxy's ring."""

from typing import Any

import pytest
from haproxy_ids import ids_by_name
from hypothesis import given
from hypothesis import strategies as st

from discovery.testing import backend, snapshot
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.rendering.sections import SectionBuilder

# Two names with one hash, found by trying.
FIRST, SECOND = "web-701", "web-2589"


def test_an_id_is_a_function_of_the_name() -> None:
    # Other ids after an upgrade of the plugin would move nearly every key to another server.
    assert ids_by_name(["a", "127.0.0.1:8001"]) == {"a": 511183, "127.0.0.1:8001": 544299}


@given(names=st.sets(st.text("abc:.-019", min_size=1), max_size=50), more=st.text("xyz", min_size=1))
def test_another_name_changes_no_id(names: set[str], more: str) -> None:
    with_more = ids_by_name([more, *names])
    assert with_more.keys() == {more, *names}
    if len({*ids_by_name(names).values(), *ids_by_name([more]).values()}) > len(names):  # no two hashes are equal
        assert ids_by_name(names).items() <= with_more.items()


def test_names_with_one_hash_get_different_ids_in_any_order() -> None:
    assert list(ids_by_name([FIRST]).values()) == list(ids_by_name([SECOND]).values())
    both = ids_by_name([FIRST, SECOND])
    assert both == ids_by_name([SECOND, FIRST])
    assert len(set(both.values())) == 2


def test_ids_are_distinct_in_the_bits_that_the_ring_uses() -> None:
    ids = ids_by_name(map(str, range(20_000))).values()
    assert len({id_ % (1 << 20) for id_ in ids}) == 20_000
    assert min(ids) > 0  # HAProxy refuses 0


@pytest.mark.parametrize("options", [{"balance": "first"}, {"backend_lines": ["# balance uri", "balance first"]}])
def test_ids_follow_the_order_if_haproxy_fills_the_servers_in_the_order_of_their_ids(options: dict[str, Any]) -> None:
    config = HAProxyConfig.model_validate({"services": {"web": options}})
    (section,) = SectionBuilder().build(config, snapshot(backend(id="b"), backend(id="a"))).services
    assert [(server.id, server.numeric_id) for server in section.backends] == [("a", 1), ("b", 2)]
