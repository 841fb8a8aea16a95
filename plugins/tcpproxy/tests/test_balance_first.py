"""The balance `first`: the first in the list that can be connected to, with the others as stand-ins."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from discovery_tcpproxy.worker.pool import UpstreamPool


def records(*names: str, draining: str = "") -> list[dict[str, Any]]:
    return [{"id": name, "host": "10.0.0.1", "port": 1, "weight": 1, "draining": name in draining} for name in names]


def connected(backends: UpstreamPool, now: float, down: str = "") -> str:
    """Who a connection made at `now` reaches, where those that are `down` refuse."""
    tried: list[Any] = []
    while (backend := backends.select("10.9.9.9", tried, now)) is not None:
        if backend.id in down:
            backends.failed(backend, now)
            tried.append(backend)
            continue
        backends.connected(backend)
        backends.closed(backend)
        return backend.id
    return ""


def test_first_selects_a_stand_in_only_while_the_first_backend_is_down() -> None:
    backends = UpstreamPool("first")
    backends.update(records("b", "a", "c"))
    assert connected(backends, 0) == "b"
    assert connected(backends, 1, down="b") == "a"
    assert connected(backends, 1, down="ba") == "c"
    assert connected(backends, 1.1) == "c"  # the others are set aside
    assert connected(backends, 100) == "b"
    assert connected(backends, 100, down="b") == "a"


def test_first_follows_the_present_order_of_the_list() -> None:
    backends = UpstreamPool("first")
    backends.update(records("a", "b"))
    assert connected(backends, 0) == "a"
    backends.update(records("c", "b", "a"))
    assert connected(backends, 0) == "c"
    backends.update(records("c", "b", "a", draining="c"))
    assert connected(backends, 0) == "b"
    backends.update(records("a"))
    assert connected(backends, 0) == "a"


@given(
    order=st.permutations("abcde"), down=st.sets(st.sampled_from("abcde")), steps=st.integers(min_value=1, max_value=5)
)
def test_first_selects_the_first_backend_that_is_not_down(order: list[str], down: set[str], steps: int) -> None:
    backends = UpstreamPool("first")
    backends.set_algorithm("roundrobin")
    backends.set_algorithm("first")
    backends.update(records(*order))
    expected = next((name for name in order if name not in down), "")
    for step in range(steps):
        assert connected(backends, step * 1000.0, "".join(down)) == expected
