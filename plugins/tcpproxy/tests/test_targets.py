"""From a snapshot and a configuration to what workers are told: pure."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery import LeftOut, State
from discovery.testing import backend, snapshot
from discovery_tcpproxy.config import TcpProxyConfig
from discovery_tcpproxy.targets import changed, endpoints, lines_of, preview, services, settings, share, targets


def config(**options: Any) -> TcpProxyConfig:
    return TcpProxyConfig.model_validate(
        {"listen": {"web": "127.0.0.1:1", "also": {"bind": "127.0.0.1:2", "service": "web"}}, **options}
    )


def test_targets_contain_each_service_of_a_listener_once() -> None:
    state = snapshot(backend(id="a"), backend(id="b", port=81, weight=3), backend("db", id="c"))
    found, problems = targets(config(), state, {})
    assert services(config()) == ("web",)
    assert [(each.id, each.port, each.weight, each.draining) for each in found["web"]] == [
        ("a", 8080, 1, False),
        ("b", 81, 3, False),
    ]
    assert list(found) == ["web"]
    assert problems == ()


def test_targets_contain_an_empty_service_but_no_unknown_service() -> None:
    assert targets(config(), snapshot(), {}) == ({"web": ()}, ())
    assert targets(config(), None, {}) == ({}, ())


def test_draining_backends_and_backends_of_weight_0_are_draining_targets() -> None:
    state = snapshot(backend(id="a", state=State.DRAINING), backend(id="b", weight=0))
    assert [each.draining for each in targets(config(), state, {})[0]["web"]] == [True, True]


def test_host_names_have_addresses_and_a_host_name_without_addresses_is_a_problem() -> None:
    """Point 8."""
    state = snapshot(
        backend(id="a", host="a.example"),
        backend(id="b", host="b.example"),
        backend(id="c", host="fd00::1"),
        backend("db", id="d", host="d.example"),
    )
    assert endpoints(config(), state) == {("a.example", 8080), ("b.example", 8080)}
    found, problems = targets(config(), state, {("a.example", 8080): ("10.0.0.1", "fd00::2")})
    assert [each.to_wire() for each in found["web"]] == [
        {
            "id": "a", "host": "a.example", "port": 8080, "weight": 1, "draining": False,
            "addresses": ["10.0.0.1", "fd00::2"],
        },
        {"id": "c", "host": "fd00::1", "port": 8080, "weight": 1, "draining": False},
    ]  # fmt: skip
    assert problems == ("backend b of web is left out: no address for 'b.example'",)


def test_a_backend_without_an_address_is_left_out_for_that_reason() -> None:
    parsed = TcpProxyConfig.model_validate({"listen": {"db": "127.0.0.1:1"}})
    named, elsewhere = backend("db", host="db1.example"), backend("other")
    found, _ = targets(parsed, snapshot(named, elsewhere), {})
    lines = lines_of(parsed, found, [named, elsewhere])
    assert not any(lines.values())
    why = lines[named.key]
    assert isinstance(why, LeftOut)
    assert why.reason == "no address is known for db1.example"
    assert not isinstance(lines[elsewhere.key], LeftOut), "no listener is for that service: the core says so"


def test_changed_omits_services_with_the_same_targets() -> None:
    before, _ = targets(config(), snapshot(backend(id="a")), {})
    same, _ = targets(config(), snapshot(backend(id="a", labels={"x": "y"})), {})
    other, _ = targets(config(), snapshot(backend(id="a", weight=2)), {})
    assert changed({}, before) == before
    assert changed(before, same) == {}
    assert changed(before, other) == other
    assert changed(before, {"web": ()}) == {"web": ()}


@given(total=st.integers(1, 10**7), workers=st.integers(1, 256))
def test_the_shares_of_a_limit_add_up_to_the_limit(total: int, workers: int) -> None:
    shares = [share(total, workers, worker) or 0 for worker in range(workers)]
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1


def test_settings_contain_the_share_of_a_worker() -> None:
    both = config(
        workers=2,
        access_log=True,
        listen={
            "web": {"bind": "127.0.0.1:1", "max_connections": 5, "hold_connections": 3, "accept_proxy": "10.0.0.0/8"}
        },
    )
    one, other = settings(both, 0)["web"], settings(both, 1)["web"]
    assert (one["max_connections"], other["max_connections"]) == (3, 2)
    assert (one["hold_connections"], other["hold_connections"]) == (2, 1)
    assert one["max_connections_per_client"] is None
    assert (one["accept_proxy"], one["access_log"], one["service"]) == (["10.0.0.0/8"], True, "web")


@pytest.mark.parametrize("state", [State.ACTIVE, State.DRAINING])
def test_a_preview_shows_listeners_and_backends(state: State) -> None:
    state_of = snapshot(backend(id="a", host="a.example", state=state), backend(id="b", host="::1"))
    shown = preview(config(), state_of, {("a.example", 8080): ("10.0.0.1",)})
    drains = " (draining)" if state is State.DRAINING else ""
    assert shown.splitlines() == [
        "+ web: 127.0.0.1:1",
        f"+   a a.example:8080 (10.0.0.1){drains}",
        "+   b [::1]:8080",
        "+ also: 127.0.0.1:2",
        f"+   a a.example:8080 (10.0.0.1){drains}",
        "+   b [::1]:8080",
    ]
