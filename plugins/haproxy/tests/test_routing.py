"""Routes of requests: HAProxy, with maps and with conditions, chooses the service that `routing.py` says."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from haproxy_web import with_maps_in
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from route_model import takes_host

from discovery import Backend, Snapshot
from discovery.routing import Route, routes
from discovery.testing import backend, eventually_sync, free_port, within
from discovery_haproxy.options.config import HAProxyConfig, address_claims
from discovery_haproxy.rendering.render import Rendered, Runtime, render

BOTH = """
{% extends "builtin/haproxy.cfg.j2" %}
{% block frontend %}
{{ super() | raw }}
frontend conditions
    bind 127.0.0.1:PORT
    http-request set-var(txn.host) req.hdr(host),host_only,lower,rtrim(.)
{% for route in frontend.routes %}
    use_backend {{ route.service }} {{ route.condition }}
{% endfor %}
{% if frontend.default %}
    default_backend {{ frontend.default }}
{% endif %}

{% endblock %}
"""
"""A user's own template: beside each frontend with maps a frontend with conditions, which routes equally."""

labels = st.sampled_from(["a", "b", "ab", "a-b"])
names = st.lists(labels, min_size=1, max_size=4).map(".".join)
patterns = st.one_of(names, names.map("*.{}".format), names.map("{}.*".format), st.just("*"))
segments = st.sampled_from(["a", "b", "ab", "a.b", "%20", ""])
paths = st.lists(segments, max_size=3).map(lambda found: "/" + "/".join(found))
requested_hosts = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "", "", "a.", "b.a.", "."]),
    st.one_of(names, names, names.map(str.upper), patterns, st.just("other")),
    st.sampled_from(["", "", ".", "..", ".a", ".b.ab", "..a"]),
    st.sampled_from(["", "", "", ":80"]),
)
requested_paths = st.builds("{}{}".format, paths, st.sampled_from(["", "", "/", "//", "a", "/a", "?a/b", "/%2e"]))


def expected(ordered: Sequence[Route], host: str, target: str) -> str | None:
    """Return the service of the first route that matches; None if no route matches."""
    name, path = host.partition(":")[0].lower().rstrip("."), target.partition("?")[0]
    return next((route.service for route in ordered if takes_host(route, name) and takes_path(route, path)), None)


def takes_path(route: Route, path: str) -> bool:
    return route.path in ("/", path) or path.startswith(f"{route.path}/")


@contextmanager
def serving(haproxy: Path, config: Path, ports: Sequence[int]) -> Iterator[tuple[int, list[HTTPConnection]]]:
    """Run HAProxy, and connect to the ports. Yield its pid and the connections."""
    connections = [HTTPConnection("127.0.0.1", port, timeout=within(10)) for port in ports]
    with subprocess.Popen([haproxy, "-db", "-f", config], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:

            def connects() -> bool:
                assert process.poll() is None, process.stderr and process.stderr.read().decode()
                with suppress(ConnectionError):
                    for connection in connections:
                        connection.connect()
                    return True
                return False

            eventually_sync(connects, "HAProxy to listen")
            yield process.pid, connections
        finally:
            for connection in connections:
                connection.close()
            process.kill()


def answer(connection: HTTPConnection, host: str, target: str) -> str | None:
    """Return the body that a request is answered with; None if no service answers."""
    connection.putrequest("GET", target, skip_host=True)
    connection.putheader("Host", host)
    connection.endheaders()
    with closing(connection.getresponse()) as response:
        body = response.read().decode()
        return None if response.status == 503 else f"{body}{'' if response.status == 200 else response.status}"


def configured(taken: Sequence[tuple[str, str]], directory: Path, maps: int, conditions: int) -> HAProxyConfig:
    """Return the configuration of a service for each pair of host pattern and path, which answers with its name."""
    template = directory / "both.cfg.j2"
    template.write_text(BOTH.replace("PORT", str(conditions)))
    services: dict[str, Any] = {
        f"s{number}": {
            "hosts": host,
            "path_prefix": path,
            "backend_lines": f"http-request return status 200 content-type text/plain string s{number}",
        }
        for number, (host, path) in enumerate(taken)
    }
    return HAProxyConfig.model_validate({"services": services, "bind": f"127.0.0.1:{maps}", "template": template})


# Each example is one HAProxy and dozens of requests. Shrinking would start HAProxy hundreds of times.
@pytest.mark.costly
@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@example(
    taken=[("*", "/"), ("a.b", "/a"), ("*.b", "/"), ("*.a.b", "/b"), ("a.*", "/"), ("a.b.*", "/a/b"), ("*", "/a")],
    requests=[
        (host, path)
        for host in ("a.b", "A.B.", "b", ".b", "a", "b.a.b", "a.b.a", "a.b.b", "a.a.b:8", "x", "*", "*.b", "a.*", "")
        for path in (
            "/",
            "/a",
            "/a/",
            "/a/b",
            "/a/b/c?d",
            "/b",
            "/b/a",
            "/ab",
            "//a",
            "/a//b",
            "/a?/b",
        )
    ],
)
@given(
    taken=st.lists(st.tuples(patterns, paths.map(lambda path: path.rstrip("/") or "/")), max_size=16, unique=True),
    requests=st.lists(st.tuples(requested_hosts, requested_paths), min_size=60, max_size=90),
)
def test_haproxy_routes_every_request_as_the_precedence_says(
    haproxy: Path,
    tmp_path_factory: pytest.TempPathFactory,
    taken: list[tuple[str, str]],
    requests: list[tuple[str, str]],
) -> None:
    directory = tmp_path_factory.mktemp("routes")
    ports = free_port(), free_port()
    config = configured(taken or [("*", "/")], directory, *ports)
    ordered = routes(address_claims(config))
    result = render(config, Snapshot.of(1, []), Runtime(), {})
    path = directory / "haproxy.cfg"
    path.write_text(with_maps_in(directory, result))
    with serving(haproxy, path, ports) as (_, (by_map, by_condition)):
        for host, target in requests:
            service = expected(ordered, host, target)
            assert answer(by_map, host, target) == service, (host, target)
            assert answer(by_condition, host, target) == service, (host, target)


def rendered(config: dict[str, Any], *backends: Backend) -> Rendered:
    """Render a configuration for these backends."""
    return render(HAProxyConfig.model_validate(config), Snapshot.of(1, backends), Runtime(), {})


def routed(result: Rendered) -> list[str]:
    """The entries of the map of routes, in order."""
    (contents,) = result.maps.values()
    mark, *entries = contents.splitlines()
    assert mark.startswith("# Written by discovery")
    return entries


def test_the_most_specific_route_is_tried_first(tmp_path: Path) -> None:
    config = {
        "services": {
            "any": {},
            "suffix": {"hosts": "*.a.com"},
            "deeper": {"hosts": "*.b.a.com"},
            "exact": {"hosts": "x.a.com"},
            "path": {"hosts": "x.a.com", "path_prefix": "/p"},
            "longer": {"hosts": "x.a.com", "path_prefix": "/p/q"},
            "prefix": {"hosts": "x.*"},
            "everywhere": {"path_prefix": "/p"},
        }
    }
    result = rendered(config)
    assert "\n    default_backend any\n" in result.text
    assert routed(result) == [
        "frontend:127.0.0.1:8080/x.a.com/p/q/ longer",
        "frontend:127.0.0.1:8080/x.a.com/p/ path",
        "frontend:127.0.0.1:8080/x.a.com/ exact",
        "frontend:127.0.0.1:8080/*.b.a.com/ deeper",
        "frontend:127.0.0.1:8080/*.a.com/ suffix",
        "frontend:127.0.0.1:8080/x.*/ prefix",
        "frontend:127.0.0.1:8080/*/p/ everywhere",
    ]
    path = tmp_path / "conditions.cfg.j2"
    path.write_text("""
{% for frontend in frontends %}{% for route in frontend.routes %}
# {{ route.service }} {{ route.condition }}
{% endfor %}{% endfor %}""")
    conditions = rendered({**config, "template": str(path)}).text
    assert [line for line in conditions.splitlines() if line.startswith("# ")][1:] == [
        (
            "# longer if { var(txn.host) -m str -- x.a.com } { path -m str -- /p/q }"
            " or { var(txn.host) -m str -- x.a.com } { path -m beg -- /p/q/ }"
        ),
        (
            "# path if { var(txn.host) -m str -- x.a.com } { path -m str -- /p }"
            " or { var(txn.host) -m str -- x.a.com } { path -m beg -- /p/ }"
        ),
        "# exact if { var(txn.host) -m str -- x.a.com }",
        "# deeper if { var(txn.host) -m end -- .b.a.com }",
        "# suffix if { var(txn.host) -m end -- .a.com }",
        "# prefix if { var(txn.host) -m beg -- x. }",
        "# everywhere if { path -m str -- /p } or { path -m beg -- /p/ }",
    ]


def test_without_configuration_a_single_service_gets_all_requests_and_several_go_by_host_name() -> None:
    assert "default_backend web" in rendered({}, backend("web")).text
    result = rendered({}, backend("web"), backend("web.blue"), backend("WEB"))
    assert routed(result) == [
        "frontend:127.0.0.1:8080/web.blue/ web.blue",
        "frontend:127.0.0.1:8080/web/ WEB",
        "frontend:127.0.0.1:8080/web.blue.*/ web.blue",
        "frontend:127.0.0.1:8080/web.*/ WEB",
    ]
    assert result.problems == ("service 'web' has no route: its host name is that of 'WEB'",)


def cpu_microseconds(pid: int) -> float:
    """Return the CPU time that the threads of a process have had."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1000


@pytest.mark.costly
def test_the_cost_of_a_request_does_not_grow_with_the_number_of_services(haproxy: Path, tmp_path: Path) -> None:
    """Issue 10, A7: 3,000 conditions cost 0.3 to 1.1 ms of HAProxy's CPU. The target with a map is 50 us."""
    answer = {"backend_lines": "http-request return status 200"}
    count, batch = 3000, b"GET / HTTP/1.1\r\nHost: unknown.example.org\r\n\r\n" * 50
    costs = {}
    for number in (1, count):
        services = {f"s{n}": {**answer, "hosts": f"host{n}.example.com"} for n in range(number)} | {"rest": answer}
        port = free_port()
        result = rendered({"services": services, "bind": f"127.0.0.1:{port}", "global_lines": "nbthread 1"})
        path = tmp_path / "haproxy.cfg"
        path.write_text(with_maps_in(tmp_path, result))
        with serving(haproxy, path, [port]) as (pid, (connection,)):
            trials = []
            for _ in range(40):
                before = cpu_microseconds(pid)
                connection.sock.sendall(batch)
                received = b""
                while received.count(b"HTTP/1.1 200 OK") < 50 or not received.endswith(b"\r\n\r\n"):
                    received += connection.sock.recv(1 << 20)
                trials.append((cpu_microseconds(pid) - before) / 50)
            costs[number] = min(trials)
    print(f"CPU time of HAProxy for a request, in microseconds, by the number of services: {costs}")
    assert costs[count] < 50
    assert costs[count] < 5 * costs[1]
