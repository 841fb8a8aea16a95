"""Effects of the options on real requests through real HAProxy."""

import socket
import ssl
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

import pytest
import trustme
from haproxy_web import Fetch, RunHAProxy, StartOrigin

from discovery import Backend, Snapshot, State
from discovery.testing import backend, eventually_sync, free_port, within
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.rendering.render import Rendered, Runtime, render


def rendered(config: dict[str, Any], backends: Iterable[Backend] = ()) -> Rendered:
    """The configuration for these backends."""
    return render(HAProxyConfig.model_validate(config), Snapshot.of(1, backends), Runtime(), {})


@pytest.fixture
def port() -> int:
    """Where HAProxy listens."""
    return free_port()


@pytest.fixture
def url(port: int) -> str:
    """Where HAProxy answers."""
    return f"http://127.0.0.1:{port}/"


def test_a_draining_backend_gets_no_new_clients_and_keeps_those_it_has(
    run: RunHAProxy, origin: StartOrigin, fetch: Fetch, port: int, url: str
) -> None:
    old, new = origin("old"), origin("new")
    config = {"services": {"web": {"bind": f"127.0.0.1:{port}", "cookie": "S", "check": False}}}
    draining = backend(port=old.port, state=State.DRAINING)
    # Its cookie, as a client would have got it while the backend was active.
    cookie = rendered(config, [draining]).text.split(" weight 0 cookie ")[1].split()[0]
    run(rendered(config, [draining, backend(port=new.port)]), url)
    assert {fetch(url).body for _ in range(8)} == {"new"}
    assert {fetch(url, Cookie=f"S={cookie}").body for _ in range(4)} == {"old"}


def test_new_clients_get_503_if_all_backends_drain(
    run: RunHAProxy, origin: StartOrigin, fetch: Fetch, port: int, url: str
) -> None:
    old = origin("old")
    config = {"services": {"web": {"bind": f"127.0.0.1:{port}", "check": False}}}
    run(rendered(config, [backend(port=old.port, state=State.DRAINING)]), url)
    assert fetch(url).status == 503
    assert old.seen == []


def test_a_cookie_keeps_a_client_with_its_backend(
    run: RunHAProxy, origin: StartOrigin, fetch: Fetch, port: int, url: str
) -> None:
    backends = [backend(port=origin(name).port) for name in ("one", "two")]
    config = {"services": {"web": {"bind": f"127.0.0.1:{port}", "cookie": "S", "check": False}}}
    run(rendered(config, backends), url)
    first = fetch(url)
    assert first.cookie.startswith("S=")
    assert {fetch(url, Cookie=first.cookie).body for _ in range(6)} == {first.body}
    assert {fetch(url).body for _ in range(6)} == {"one", "two"}


@pytest.mark.costly
def test_an_additional_backend_moves_few_keys_of_a_consistent_hash(
    run: RunHAProxy, origin: StartOrigin, fetch: Fetch
) -> None:
    """Issue 10, A4: without ids 197 of 200 keys moved."""
    backends = [backend(id=f"web-{number:02}", port=origin(f"web-{number:02}").port) for number in range(11)]

    def answers(*of: Backend) -> list[str]:
        port = free_port()
        config = {"services": {"web": {"bind": f"127.0.0.1:{port}", "balance": "uri", "check": False}}}
        run(rendered(config, of), f"http://127.0.0.1:{port}/")
        return [fetch(f"http://127.0.0.1:{port}/{key}").body for key in range(300)]

    additional = backends[4]
    before = answers(*backends[:4], *backends[5:])
    after = answers(*backends)
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {additional.id}  # no key moves between the others
    assert 10 <= len(moved) < 60  # 27 is ideal
    assert answers(*backends) == after


def test_balance_first_fills_the_servers_in_their_order(
    run: RunHAProxy, origin: StartOrigin, fetch: Fetch, port: int, url: str
) -> None:
    backends = [backend(id=name, port=origin(name).port) for name in ("a", "b", "c")]
    config = {"services": {"web": {"bind": f"127.0.0.1:{port}", "balance": "first", "check": False}}}
    run(rendered(config, backends), url)
    assert {fetch(url).body for _ in range(5)} == {"a"}


def test_a_frontend_and_a_backend_of_one_service_have_stick_tables_of_their_own(
    run: RunHAProxy, fetch: Fetch, port: int, url: str
) -> None:
    """Issue 10, A8: a frontend had the name of its backend, and HAProxy refuses two tables of one name."""
    table = "stick-table type ip size 1k expire 1m store http_req_cnt"
    counters = "%[sc_http_req_cnt(0)] in front, %[sc_http_req_cnt(1)] behind"
    service = {
        "bind": f"127.0.0.1:{port}",
        "check": False,
        "frontend_lines": [table, "http-request track-sc0 src"],
        "backend_lines": [
            table,
            "http-request track-sc1 src if { path /behind }",
            f'http-request return status 200 content-type text/plain lf-string "{counters}" if {{ path /behind }}',
        ],
    }
    run(rendered({"services": {"web": service}}), f"{url}behind")
    before = int(fetch(f"{url}behind").body.split()[0])
    fetch(url)
    assert fetch(f"{url}behind").body == f"{before + 2} in front, {before + 1} behind"


def test_backends_learn_the_address_of_the_client(
    run: RunHAProxy, origin: StartOrigin, fetch: Fetch, port: int, url: str
) -> None:
    web = origin("web")
    config = {"services": {"web": {"bind": f"127.0.0.1:{port}", "check": False, "forward_for": True}}}
    run(rendered(config, [backend(port=web.port)]), url)
    fetch(url, **{"X-Forwarded-For": "192.0.2.1"})
    assert web.headers.get_all("X-Forwarded-For") == ["192.0.2.1", "127.0.0.1"]


def test_requests_go_by_host_and_the_longest_prefix(
    run: RunHAProxy, origin: StartOrigin, fetch: Fetch, port: int, url: str
) -> None:
    names = ("rest", "shop", "api", "apiv2", "wild")
    backends = [backend(name, port=origin(name).port) for name in names]
    shared = {"bind": f"127.0.0.1:{port}", "check": False}
    services = {
        "rest": shared,
        "shop": {**shared, "hosts": ["shop.example", "shop.*"]},
        "api": {**shared, "path_prefix": "/api"},
        "apiv2": {**shared, "path_prefix": "/api/v2"},
        "wild": {**shared, "hosts": "*.wild.example"},
    }
    run(rendered({"services": services}, backends), url)
    for host, path, name in [
        ("x", "", "rest"),
        ("x", "apis", "rest"),
        ("x", "api", "api"),
        ("x", "api/", "api"),
        ("x", "api/v1", "api"),
        ("x", "api/v2?x", "apiv2"),
        ("x", "api/v20", "api"),
        ("SHOP.example", "", "shop"),
        ("shop.example:8080", "api", "shop"),
        ("shop.internal", "", "shop"),
        ("shop", "", "rest"),
        ("a.b.wild.example", "", "wild"),
        ("a.wild.example.:80", "", "wild"),
        ("wild.example", "", "rest"),
    ]:
        assert fetch(url + path, Host=host).body == name, (host, path)


def test_without_configuration_two_services_answer_by_name(
    run: RunHAProxy, origin: StartOrigin, fetch: Fetch, port: int, url: str
) -> None:
    backends = [backend(name, port=origin(name).port) for name in ("web", "web.blue")]
    run(rendered({"bind": f"127.0.0.1:{port}"}, backends), url)
    assert fetch(url, Host="web").body == "web"
    assert fetch(url, Host="web.green.example:80").body == "web"
    assert fetch(url, Host="Web.Blue").body == "web.blue"
    assert fetch(url, Host="web.blue.example").body == "web.blue"
    assert fetch(url, Host="other").status == 503


@pytest.mark.parametrize(("status", "answers"), [("200-299", 200), ("204", 503)])
def test_an_http_check_requests_the_path_and_accepts_the_status(
    run: RunHAProxy, origin: StartOrigin, fetch: Fetch, port: int, url: str, status: str, answers: int
) -> None:
    only = origin("only")
    check = {"path": "/health?deep=1", "status": status, "interval": "50ms", "fall": 1}
    run(rendered({"services": {"web": {"bind": f"127.0.0.1:{port}", "check": check}}}, [backend(port=only.port)]), url)
    eventually_sync(lambda: only.seen.count("/health?deep=1") > 1, "health checks")
    eventually_sync(lambda: fetch(url).status == answers, f"the answer {answers}")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_proxy_protocol_goes_through_two_hops(
    run: RunHAProxy, origin: StartOrigin, fetch: Fetch, port: int, url: str, version: str
) -> None:
    inner = free_port()
    services = {
        "outer": {"bind": f"127.0.0.1:{port}", "send_proxy": version, "check": {"interval": "50ms", "fall": 1}},
        "inner": {"bind": {"address": f"127.0.0.1:{inner}", "accept_proxy": "127.0.0.1"}, "check": False},
    }
    run(rendered({"services": services}, [backend("outer", port=inner), backend("inner", port=origin("x").port)]), url)
    eventually_sync(lambda: fetch(url).body == "x", "an answer through both")


@pytest.mark.parametrize("mode", ["http", "tcp"])
@pytest.mark.parametrize(
    ("trusted", "client"), [("127.0.0.0/8", "192.0.2.7"), (["10.0.0.0/8", "::1"], "127.0.0.1")], ids=["sent", "forged"]
)
def test_a_proxy_header_counts_only_from_the_configured_networks(
    run: RunHAProxy, port: int, url: str, mode: str, trusted: str | list[str], client: str
) -> None:
    """Point 23. What HAProxy tells the backend shows whom it takes for the client."""
    plain, proxied = free_port(), free_port()
    bind = [f"127.0.0.1:{plain}", {"address": f"127.0.0.1:{proxied}", "accept_proxy": trusted}]
    services = {
        "web": {"mode": mode, "bind": bind, "check": False, "send_proxy": "v1"},
        "other": {"bind": f"127.0.0.1:{port}"},
    }
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(within(20))
        run(rendered({"services": services}, [backend(port=server.getsockname()[1])]), url)
        request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        header = b"PROXY TCP4 192.0.2.7 192.0.2.8 1234 80\r\n"
        with socket.create_connection(("127.0.0.1", proxied), timeout=within(20)) as sock:
            sock.sendall(header + request)
            if mode == "http" and client == "127.0.0.1":
                assert sock.recv(100).startswith(b"HTTP/1.1 400 ")
                return
            accepted, _ = server.accept()
            with accepted, accepted.makefile("rb") as lines:
                accepted.settimeout(within(20))
                assert lines.readline().startswith(f"PROXY TCP4 {client} ".encode())
                assert lines.readline() == (header if client == "127.0.0.1" else request.splitlines(True)[0])
                accepted.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")  # or HAProxy would ask again
                assert sock.recv(100)
        # The other address of the same frontend expects none.
        with socket.create_connection(("127.0.0.1", plain), timeout=within(20)) as sock:
            sock.sendall(request)
            accepted, _ = server.accept()
            with accepted, accepted.makefile("rb") as lines:
                accepted.settimeout(within(20))
                assert lines.readline().startswith(b"PROXY TCP4 127.0.0.1 ")
                assert lines.readline() == request.splitlines(True)[0]


def test_a_tcp_service_passes_bytes_and_without_backends_closes(
    run: RunHAProxy, origin: StartOrigin, fetch: Fetch, port: int, url: str
) -> None:
    full, empty = free_port(), free_port()
    services = {
        "full": {"mode": "tcp", "bind": f"127.0.0.1:{full}", "check": False},
        "empty": {"mode": "tcp", "bind": f"127.0.0.1:{empty}"},
        "web": {"bind": f"127.0.0.1:{port}"},
    }
    run(rendered({"services": services}, [backend("full", port=origin("bytes").port)]), url)
    assert fetch(url).status == 503
    assert fetch(f"http://127.0.0.1:{full}/").body == "bytes"
    with socket.create_connection(("127.0.0.1", empty), timeout=within(5)) as client, suppress(ConnectionResetError):
        assert client.recv(1) == b""  # a reset would be a close as well


def test_a_certificate_makes_the_bind_tls(
    run: RunHAProxy, origin: StartOrigin, tmp_path: Path, port: int, url: str
) -> None:
    authority = trustme.CA()
    pem = tmp_path / "site.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(pem))
    secure = free_port()
    bind = [f"127.0.0.1:{port}", {"address": f"127.0.0.1:{secure}", "certificate": str(pem)}]
    config = {"services": {"web": {"bind": bind, "check": False}}}
    run(rendered(config, [backend(port=origin("secret").port)]), url)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with build_opener(ProxyHandler({}), HTTPSHandler(context=context)).open(f"https://localhost:{secure}/") as reply:
        assert reply.read() == b"secret"


def test_a_label_printed_by_a_users_template_reaches_the_client_unchanged(
    run: RunHAProxy, fetch: Fetch, tmp_path: Path, port: int, url: str
) -> None:
    labels = [
        "a b",
        '"q"',
        "it's",
        "100%",
        "%[env(HOME)]",
        "${HOME}",
        "$HOME",
        "#c",
        "back\\slash",
        "\\x41",
        "{}",
        "é€",
    ]
    template = tmp_path / "echo.cfg.j2"
    template.write_text("""
defaults
    mode http
    timeout client 5s
frontend echo
    bind {{ config.bind[0].address }}
{% for backend in services[0].backends %}
{% set port, answer = backend.port, "http-request return status 200 content-type text/plain" | raw %}
    {{ answer }} lf-string {{ backend.labels.x }} if { path /{{ port }} }
    {{ answer }} lf-string "<{{ backend.labels.x }}>" if { path /q/{{ port }} }
    {{ answer }} string {{ backend.labels.x | arg }} if { path /s/{{ port }} }
{% endfor %}
    http-request return status 200
""")
    backends = [backend(port=number, labels={"x": label}) for number, label in enumerate(labels, start=1)]
    run(rendered({"template": str(template), "bind": f"127.0.0.1:{port}"}, backends), url)
    assert [fetch(f"{url}{number}").body for number, _ in enumerate(labels, start=1)] == labels
    assert [fetch(f"{url}q/{number}").body for number, _ in enumerate(labels, start=1)] == [f"<{x}>" for x in labels]
    assert [fetch(f"{url}s/{number}").body for number, _ in enumerate(labels, start=1)] == labels


def test_the_statistics_page_and_metrics_are_served(run: RunHAProxy, fetch: Fetch, port: int, url: str) -> None:
    run(rendered({"stats": f"127.0.0.1:{port}", "bind": f"127.0.0.1:{free_port()}"}), url)
    assert "Statistics Report for HAProxy" in fetch(url).body
    assert "haproxy_process_" in fetch(f"{url}metrics").body
