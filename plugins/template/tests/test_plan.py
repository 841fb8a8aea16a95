"""Which pool a proxy with a section for each host pattern gives a request to."""

from collections.abc import Sequence
from itertools import product
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from discovery.routing import HostKind, Route, routes
from discovery_template.options.proxy import ProxyConfig, claims_of
from discovery_template.printing.views import ServiceView
from discovery_template.proxies.overlaps import overlap
from discovery_template.proxies.plan import Listener, plan_of, unrouted
from discovery_template.proxies.sections import patterns_over

HOSTS = [".".join(each) for count in (1, 2, 3) for each in product("ab", repeat=count)]
PATHS = ["/", "/p", "/p/q", "/pq"]
names = st.sampled_from(HOSTS)
patterns = st.one_of(names, names.map("*.{}".format), names.map("{}.*".format), st.just("*"))


def takes(pattern: str, host: str) -> bool:
    """Report whether a host is one of a pattern."""
    match Route(pattern, "/", "").kind:
        case HostKind.SUFFIX:
            return host.endswith(pattern[1:]) and host != pattern[2:]
        case HostKind.PREFIX:
            return host.startswith(pattern[:-1])
        case HostKind.EXACT:
            return host == pattern
    return True


def below(path: str, prefix: str) -> bool:
    """Report whether a path is a prefix or lies below the prefix."""
    return prefix in ("/", path) or path.startswith(f"{prefix}/")


def by_sections(listener: Listener, host: str, path: str) -> str | None:
    """Return the pool as nginx and httpd choose: first the section of the host, then the longest path."""
    section = next((each for each in listener.sections if any(takes(one, host) for one in each.patterns)), None)
    return next((each.pool.name for each in section.paths if below(path, each.path)), None) if section else None


def by_routes(ordered: Sequence[Route], host: str, path: str) -> str | None:
    """Return the service of the first route that matches."""
    return next((each.service for each in ordered if takes(each.host, host) and below(path, each.path)), None)


@given(st.lists(st.tuples(patterns, st.sampled_from(PATHS)), min_size=2, max_size=9, unique=True), st.integers(2, 4))
def test_sections_choose_as_the_routes_say(taken: list[tuple[str, str]], count: int) -> None:
    services: dict[str, Any] = {}
    for at, (host, path) in enumerate(taken):  # several services, some of which have several hosts
        service = services.setdefault(
            f"{path} {at % count}".replace("/", "_").replace(" ", "."), {"hosts": [], "path_prefix": path}
        )
        service["hosts"].append(host)
    config = ProxyConfig.model_validate({"services": services})
    if overlap(config):
        return
    (listener,) = plan_of(config, ()).listeners
    ordered = routes(claims_of(config))
    for host, path in product(HOSTS, PATHS):
        assert by_sections(listener, host, path) == by_routes(ordered, host, path), (host, path)


def test_hosts_of_a_service_share_a_section_unless_another_is_between() -> None:
    names = ("web", "api", "api.v1", "shop")
    (listener,) = plan_of(ProxyConfig(), [ServiceView(name) for name in names]).listeners
    assert {each.patterns for each in listener.sections} == {(name, f"{name}.*") for name in names}
    services = {"a": {"hosts": ["x.b", "b.*"]}, "b": {"hosts": "b.c"}}
    (listener,) = plan_of(ProxyConfig.model_validate({"services": services}), ()).listeners
    assert [each.patterns for each in listener.sections] == [("b.c",), ("x.b", "b.*")]
    services = {"a": {"hosts": ["a.b", "b.*"]}, "b": {"hosts": "b.c"}}
    (listener,) = plan_of(ProxyConfig.model_validate({"services": services}), ()).listeners
    assert [each.patterns for each in listener.sections] == [("a.b",), ("b.c",), ("b.*",)]


def test_services_whose_names_differ_in_case_alone_are_told() -> None:
    names = ("Web", "api", "web")
    assert unrouted(ProxyConfig(), names) == {"service web": "it has no route: its host name is that of 'Web'"}
    (listener,) = plan_of(ProxyConfig(), [ServiceView(name) for name in names]).listeners
    assert by_routes([route for route, _ in listener.routes], "web", "/") == "Web"
    assert unrouted(ProxyConfig.model_validate({"services": {"a": {}}}), names) == {}


def test_a_pattern_over_another_takes_all_its_hosts() -> None:
    everything = [*HOSTS, *(f"*.{host}" for host in HOSTS), *(f"{host}.*" for host in HOSTS), "*"]
    for pattern, other in product(everything, everything):
        if other in patterns_over(pattern):
            assert all(takes(other, host) for host in HOSTS if takes(pattern, host)), (pattern, other)
