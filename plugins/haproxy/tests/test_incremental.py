"""Incremental rendering: after any changes the result is that of a rendering from nothing, and only changes cost."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from discovery import Backend, Snapshot, State
from discovery.testing import backend, snapshot
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.rendering.incremental import Memo
from discovery_haproxy.rendering.render import Rendered, Renderer, Runtime
from discovery_haproxy.text.configuration import parse
from discovery_haproxy.text.listeners import listeners_in

MAP = Path("/run/discovery/haproxy.routes.map")
RUNTIMES = (Runtime(state_file=Path("/run/states"), alone=True), Runtime(route_map=Path("/run/other.map")))
BY_NAME: dict[str, Any] = {}
CONFIGURED: dict[str, Any] = {
    "services": {
        "a": {"bind": "*:80", "hosts": "a.example", "response_headers": {"X-One": "1", "X-Two": "2"}},
        "b": {"bind": "*:80", "hosts": ["b.example", "*.b.example"], "cookie": {"name": "S"}, "check": {"path": "/"}},
        "c": {"mode": "tcp", "bind": ["*:81", "/run/c.sock"], "balance": "first", "check": False},
        "a-blue": {"service": "a", "labels": {"color": "blue"}, "bind": "*:82", "server_options": "slowstart 10s"},
    }
}
SERVICES = CONFIGURED["services"]
ONE_LESS = {"services": {name: SERVICES[name] for name in ("a", "b", "c")}}
REORDERED = {
    "services": {**SERVICES, "a": {**SERVICES["a"], "response_headers": {"X-Two": "2", "X-One": "1"}}},
}
CONFIGS: tuple[dict[str, Any], ...] = (
    BY_NAME,
    {"stats": "127.0.0.1:8404", "access_log": True},
    CONFIGURED,
    ONE_LESS,
    REORDERED,
    {**CONFIGURED, "timeouts": {"check": "5s"}},
    {**CONFIGURED, "resolve": "haproxy"},
    {**CONFIGURED, "global_lines": ["unix-bind prefix /chroot", "httpclient.retries 1"]},
    {"services": {**SERVICES, "c": {**SERVICES["c"], "backend_lines": f"# {MAP}"}}},
)
PARSED = [HAProxyConfig.model_validate(each) for each in CONFIGS]

names = st.sampled_from(["a", "b", "c", "-"])
ids = st.sampled_from(["x", "y", "z", "z@1", "bad id"])
backends = st.builds(
    backend,
    service=names,
    id=ids,
    host=st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1", "one.example", "two.example", "127.1"]),
    port=st.sampled_from([80, 81, 0]),
    weight=st.sampled_from([0, 1, 256]),
    state=st.sampled_from(State),
    labels=st.sampled_from([{}, {"color": "blue"}, {"color": "green"}]),
)
addresses = st.dictionaries(
    st.sampled_from(["one.example", "two.example"]), st.sampled_from([("10.1.0.1",), ("10.1.0.2", "10.1.0.1"), ()])
)
changes = st.one_of(
    st.lists(backends, min_size=1, max_size=3),  # are put
    st.tuples(names, ids),  # leaves
    addresses,
    st.integers(0, len(CONFIGS) - 1),  # the number of the configuration
    st.sampled_from(RUNTIMES),
    st.sampled_from([frozenset(), frozenset({("a", "x"), ("c", "y")})]),  # have no address now
    st.sampled_from(["", "a", "c"]),  # does not count
)


class Arguments:
    """The arguments of a rendering, as they are after some changes."""

    def __init__(self) -> None:
        self.backends: dict[tuple[str, str], Backend] = {}
        self.snapshot = snapshot()
        self.config = PARSED[0]
        self.addresses: dict[str, tuple[str, ...]] = {}
        self.runtime = RUNTIMES[0]
        self.former: frozenset[tuple[str, str]] = frozenset()
        self.replaced: dict[str, tuple[Backend, ...]] = {}

    def change(self, change: object) -> None:
        match change:
            case list():
                for each in change:
                    self.backends[each.service, each.id] = each
            case (str() as service, str() as id_):
                self.backends.pop((service, id_), None)
            case dict():
                self.addresses = change
            case int():
                self.config = PARSED[change]
            case Runtime():
                self.runtime = change
            case frozenset():
                self.former = change
            case str():
                self.replaced = {change: (backend(change, "former"),)} if change else {}
        self.snapshot = _sharing(self.snapshot, Snapshot.of(self.snapshot.revision + 1, self.backends.values()))

    def rendered_by(self, renderer: Renderer) -> Rendered:
        return renderer.render(
            self.config,
            self.snapshot,
            self.runtime,
            {},
            lambda each: self.addresses.get(each.host, ()),
            replaced=self.replaced,
            former=self.former,
        )


def _sharing(before: Snapshot, after: Snapshot) -> Snapshot:
    """Return `after` with the services of `before` that are equal, as the core's snapshots share them."""
    services = {
        name: before.services[name] if before.services.get(name) == service else service
        for name, service in after.services.items()
    }
    return replace(after, services=services)


def assert_equal(one: Rendered, other: Rendered) -> None:
    assert one == other
    assert one.text == other.text
    assert one.configuration == other.configuration == parse(one.text)
    assert one.listeners == other.listeners == listeners_in(one.text)
    assert one.binds == other.binds


FILLED = [backend(service, id_, host) for service in "abc" for id_, host in (("x", "one.example"), ("y", "10.0.0.1"))]
EACH_KIND: list[object] = [
    FILLED,
    {"one.example": ("10.1.0.1",)},
    frozenset({("a", "x"), ("c", "y")}),
    {"one.example": ("10.1.0.2", "10.1.0.1")},
    "a",
    frozenset(),
    "c",
    "",
    *range(len(CONFIGS)),
    RUNTIMES[1],
    [backend("b", "x", labels={"color": "blue"})],
    ("a", "x"),
]


@pytest.mark.costly
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@example(EACH_KIND)
@example([*range(len(CONFIGS)), *EACH_KIND[:8]])
@given(st.lists(changes, max_size=12))
def test_a_rendering_after_changes_is_one_from_nothing(history: list[object]) -> None:
    renderer, arguments = Renderer(), Arguments()
    for change in history:
        arguments.change(change)
        assert_equal(arguments.rendered_by(renderer), arguments.rendered_by(Renderer()))


@settings(max_examples=20, deadline=None)
@given(st.lists(changes, max_size=6))
def test_the_parts_are_what_the_whole_template_prints(tmp_path_factory: Any, history: list[object]) -> None:
    template = tmp_path_factory.getbasetemp() / "whole.cfg.j2"
    template.write_text('{% include "builtin/haproxy.cfg.j2" %}')
    arguments = Arguments()
    for change in history:
        arguments.change(change)
    parts = arguments.rendered_by(Renderer())
    arguments.config = arguments.config.model_copy(update={"template": template})
    whole = arguments.rendered_by(Renderer())
    below_the_defaults = "    mode http\n"
    assert parts.text.partition(below_the_defaults)[2] == whole.text.partition(below_the_defaults)[2]


def test_a_rendering_of_a_template_after_changes_is_one_from_nothing(tmp_path: Path) -> None:
    template = tmp_path / "own.cfg.j2"
    template.write_text(
        "    # in the defaults\n    mode tcp\n{% for service in services %}\nlisten {{ service.name }}\n    bind :1\n"
        "backend {{ service.name }}\n{% for each in service.backends %}\n    server {{ each.id }} {{ each.address }}\n"
        "{% endfor %}\n{% endfor %}\n"
    )
    renderer, arguments = Renderer(), Arguments()
    arguments.config = HAProxyConfig.model_validate({"template": template})
    results = []
    for port in (80, 81):
        arguments.change([backend("a", "x", port=80), backend("b", "x", port=port)])
        results.append(arguments.rendered_by(renderer))
        assert_equal(results[-1], arguments.rendered_by(Renderer()))
    before, after = (each.configuration.backends for each in results)
    assert before["a"] is after["a"]
    assert before["b"] is not after["b"]


def test_a_change_renders_the_changed_service_alone() -> None:
    renderer, arguments = Renderer(), Arguments()
    arguments.config = PARSED[2]
    arguments.change([backend("a", "x"), backend("b", "x"), backend("c", "x")])
    before = arguments.rendered_by(renderer)
    arguments.change([backend("b", "x", weight=2)])
    after = arguments.rendered_by(renderer)
    parsed = zip(before.configuration.sections, after.configuration.sections, strict=True)
    assert [new.header for old, new in parsed if old is not new] == ["global", "backend b"]
    assert before.sections.services[0] is after.sections.services[0]


def test_values_are_computed_again_only_for_changed_inputs_and_forgotten_without_a_name() -> None:
    computed: list[int] = []

    def double(number: int) -> int:
        computed.append(number)
        return 2 * number

    memo = Memo[int]()
    assert memo.values([("a", (1,)), ("b", (2,))], double) == [2, 4]
    assert memo.values([("b", (2,)), ("a", (3,))], double) == [4, 6]
    assert memo.values([("a", (3,))], double) == [6]
    assert memo.values([("b", (2,))], double) == [4]
    assert computed == [1, 2, 3, 2]
