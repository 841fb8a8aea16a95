"""Many servers of one section: after any changes all is as from nothing, and only the changed servers cost."""

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from haproxy_ids import ids_by_name
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from discovery import Backend, Service, Snapshot, State
from discovery.testing import backend
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.rendering.render import Rendered, Renderer, Runtime
from discovery_haproxy.runtime_api.planner import make_plan
from discovery_haproxy.text.configuration import parse
from discovery_haproxy.text.server_runs import LineRun, ServerLine, ServersInRuns

RUNTIME = Runtime(state_file=Path("/run/states"), alone=True)
CLASHING = ("web-701", "web-2589")
"""Names with one hash. The second has the id of the hash."""
NAMES = (*(f"b{number:03}" for number in range(150)), *CLASHING, "not a name", "one@1")
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"balance": "first"},
    {"backup": {"label": "role", "is": "standby"}, "weight_factor": {"label": "factor"}},
    {"check": {"port": {"label": "check"}}, "cookie": {"name": "S"}},
    {"labels": {"role": ["standby", ""]}},
    {"balance": "static-rr"},
    {"backend_lines": ["server own 10.9.9.9:1", "default-server maxconn 9"]},
    {"backend_lines": ["server b001 10.9.9.9:1"]},
    {"backend_lines": [".if defined(X)", "option abortonclose", ".endif"]},
)
CONFIGS = tuple(
    HAProxyConfig.model_validate({"services": {"web": {"bind": "*:80", **options}}, **common})
    for options in OPTIONS
    for common in ({}, {"resolve": "haproxy"})
)

servers = st.builds(
    backend,
    service=st.just("web"),
    id=st.sampled_from(NAMES),
    host=st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1", "one.example", "127.1"]),
    port=st.sampled_from([80, 81]),
    weight=st.sampled_from([0, 1, 256]),
    state=st.sampled_from(State),
    labels=st.sampled_from(
        [{}, {"role": "standby"}, {"role": "other"}, {"factor": "2"}, {"factor": "x", "check": "0"}]
    ),
)
changes = st.dictionaries(st.sampled_from(NAMES), st.none() | servers, min_size=1, max_size=4)


def changed(before: Service, change: dict[str, Backend | None]) -> Service:
    return before.with_changes({id_: each and replace(each, id=id_) for id_, each in change.items()})


def rendered(renderer: Renderer, config: HAProxyConfig, service: Service, address: str = "") -> Rendered:
    services = MappingProxyType({"web": service} if service.runs else {})
    known = (address,) if address else ()
    return renderer.render(config, Snapshot(1, services), RUNTIME, {}, lambda _: known)


def filled(count: int) -> Service:
    return Service.of(
        "web", (backend("web", name, f"10.0.0.{number % 250}") for number, name in enumerate(NAMES[:count]))
    )


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@example(CONFIGS[0], 152, [{"b001": None}, {CLASHING[1]: None}, {"b001": backend("web", "b001", "10.0.0.9")}])
@example(CONFIGS[2], 152, [{"b060": None}])
@example(CONFIGS[-4], 152, [{"b060": None}])
@example(CONFIGS[4], 152, [{"b070": backend("web", "b070", labels={"role": "other"})}, {"b000": None, "b149": None}])
@given(st.sampled_from(CONFIGS), st.sampled_from([0, 3, len(NAMES)]), st.lists(changes, max_size=4))
def test_a_rendering_after_changes_is_one_from_nothing(
    config: HAProxyConfig, count: int, history: list[dict[str, Backend | None]]
) -> None:
    renderer, service = Renderer(), filled(count)
    before = rendered(renderer, config, service)
    for number, change in enumerate(history):
        service = changed(service, change)
        address = "10.1.0.1" if number % 2 else ""
        after, fresh = rendered(renderer, config, service, address), rendered(Renderer(), config, service, address)
        assert after == fresh
        assert after.text == fresh.text
        assert b"".join(after.data) == fresh.text.encode()
        assert after.configuration == fresh.configuration == parse(fresh.text)
        for version in ((2, 6, 12), (2, 8, 25)):
            plan = make_plan(before.configuration, after.configuration, version, {})
            assert plan == make_plan(parse(before.text), parse(after.text), version, {})
        before = after


@pytest.mark.parametrize("config", CONFIGS[:4:2])
def test_a_change_renders_the_line_of_the_changed_server_alone(config: HAProxyConfig) -> None:
    renderer, service = Renderer(), filled(len(NAMES))
    before = rendered(renderer, config, service)
    after = rendered(renderer, config, changed(service, {"b070": backend("web", "b070", "10.2.2.2")}))
    (old,), (new,) = before.sections.services, after.sections.services
    assert sum(one is not other for one, other in zip(old.line_runs, new.line_runs, strict=True)) == 1
    lines = [[line for run in each.line_runs for line in run.lines] for each in (old, new)]
    assert [other for one, other in zip(*lines, strict=True) if one is not other] == [
        line for line in lines[1] if "server b070 " in line
    ]


def test_the_default_server_lines_above_the_servers_apply_to_their_lines() -> None:
    run = LineRun(("a",), ("    server a 10.0.0.1:80\n",))
    for defaults in (("check",), ("backup",), ()):
        assert dict(ServersInRuns({}, [run], defaults)) == {"a": ServerLine("server a 10.0.0.1:80", defaults)}


def searched_ids(names: set[str]) -> dict[str, int]:
    """Return the ids as their rule says, without a short cut."""
    found: dict[int, str] = {}
    for name in sorted(names):
        [slot] = ids_by_name([name]).values()
        while slot in found:
            slot = slot % ((1 << 20) - 1) + 1
        found[slot] = name
    return {name: slot for slot, name in found.items()}


def crowded_names() -> list[str]:
    """Return names whose hashes are equal to the hash of another, or follow it."""
    names = {f"web-{number}" for number in range(20_000)}
    by_id: dict[int, list[str]] = {}
    for name in names:
        [id_] = ids_by_name([name]).values()
        by_id.setdefault(id_, []).append(name)
    crowds = [id_ for id_, found in by_id.items() if len(found) > 1]
    return sorted({name for id_ in crowds for near in range(3) for name in by_id.get(id_ + near, ())})


CROWDED = crowded_names()


@given(st.sets(st.sampled_from(CROWDED), max_size=len(CROWDED)))
@example(set(CROWDED))
def test_names_with_equal_hashes_have_the_next_ids_in_alphabetical_order(names: set[str]) -> None:
    assert ids_by_name(names) == searched_ids(names)
