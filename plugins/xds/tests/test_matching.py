"""Envoy's virtual hosts send each request where the rules of routes send it."""

from hypothesis import given
from hypothesis import strategies as st

from discovery.routing import AddressClaim, HostKind, Route, routes
from discovery_xds.resources.matching import Match, VirtualHost, virtual_hosts

HOSTS = ("a.b.c", "x.b.c", "b.c", "a.b", "a", "x.y", "c")
PATTERNS = ("a.b.c", "b.c", "a", "*.c", "*.b.c", "a.*", "a.b.*", "x.*", "*")
PATHS = ("/", "/p", "/p/q")
REQUESTS = ("/", "/p", "/px", "/p/", "/p/q", "/p/q/r", "/q")
CLAIMS = st.lists(st.tuples(st.sampled_from(PATTERNS), st.sampled_from(PATHS)), unique=True, max_size=8)


def matches_host(pattern: str, host: str) -> bool:
    if pattern == "*":
        return True
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    return host.startswith(pattern[:-1]) if pattern.endswith(".*") else host == pattern


def below(path: str, prefix: str) -> bool:
    """Whether Envoy's `path_separated_prefix` matches, or its prefix `/`."""
    return prefix == "/" or path == prefix or path.startswith(f"{prefix}/")


def expected(ordered: tuple[Route, ...], host: str, path: str) -> str | None:
    return next((each.service for each in ordered if matches_host(each.host, host) and below(path, each.path)), None)


def in_envoy(hosts: tuple[VirtualHost, ...], host: str, path: str) -> str | None:
    """As Envoy's documentation of `domains` tells: exact names, the longest suffix, the longest prefix, everything."""
    found = sorted(
        (each for each in hosts if matches_host(each.pattern, host)),
        key=lambda each: (Route(each.pattern, "/", "").kind, -len(each.pattern)),
    )
    if not found:
        return None
    return next(
        (each.service for each in found[0].matches if below(path, each.path) and host.startswith(each.host_prefix)),
        None,
    )


@given(claims=CLAIMS)
def test_each_request_goes_where_the_routes_say(claims: list[tuple[str, str]]) -> None:
    ordered = routes(
        AddressClaim(f"s{number}", "127.0.0.1:80", "http", (host,), (path,))
        for number, (host, path) in enumerate(claims)
    )
    hosts = virtual_hosts(ordered)
    assert len({each.pattern for each in hosts}) == len(hosts)
    for host in HOSTS:
        for path in REQUESTS:
            assert in_envoy(hosts, host, path) == expected(ordered, host, path), (host, path)


def test_a_host_without_a_route_for_the_path_falls_back_to_the_general_routes() -> None:
    ordered = routes(
        [
            AddressClaim("api", "127.0.0.1:80", "http", ("a.c",), ("/api",)),
            AddressClaim("rest", "127.0.0.1:80", "http"),
        ]
    )
    exact, general = virtual_hosts(ordered)
    assert exact == VirtualHost("a.c", (Match("/api", "api"), Match("/", "rest")))
    assert general == VirtualHost("*", (Match("/", "rest"),))


def test_the_order_of_kinds_is_that_of_envoy() -> None:
    assert list(HostKind) == [HostKind.EXACT, HostKind.SUFFIX, HostKind.PREFIX, HostKind.ANY]
