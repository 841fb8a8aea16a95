"""The examples for web services: traffic, a change of the registry, and a fail-over."""

import re
from base64 import b64encode
from collections.abc import Callable
from http.client import HTTPConnection

import pytest
from haproxy_example import EXAMPLES, TIMEOUT, Example
from stand_ins import Servers, asking
from web_client import Certificates, Response, get

from discovery.testing import eventually_sync, within

pytestmark = pytest.mark.warm

Prepare = Callable[..., Example]


def test_elasticsearch(example: Prepare, servers: Servers) -> None:
    """Stand-ins for the nodes: servers that tell their names, and their health as Elasticsearch does."""
    edge = example("elasticsearch.toml")
    has_master = {"es1": True, "es2": True, "es3": True}

    def node(name: str) -> str:
        def answer(path: str) -> tuple[int, str]:
            return (200 if has_master[name] or not path.startswith("/_cluster/health") else 503), name

        return servers.http("127.0.0.1:0", answer).address

    first, second, third = (node(name) for name in has_master)
    edge.register("elasticsearch", "es1", first, role="data")
    edge.register("elasticsearch", "es3", third, role="master")
    edge.run()
    port = edge.ports[9200]
    wait_for_bodies(port, "es1")
    before = edge.changes()
    with asking(lambda: get(port).body) as answers:
        edge.register("elasticsearch", "es2", second, role="ingest")
        wait_for_bodies(port, "es1", "es2")
        has_master["es1"] = False
        wait_for_bodies(port, "es2")
    assert set(answers) == {"es1", "es2"}
    edge.register("elasticsearch", "es3", third, role="data")
    wait_for_bodies(port, "es2", "es3")
    edge.assert_no_reload(before)


def test_rate_limits(example: Prepare, servers: Servers) -> None:
    edge = example("rate-limits.toml", replaced={"http_req_rate(10s)": "http_req_rate(10m)"})
    first, second = servers.web("one"), servers.web("two")
    edge.register("api", "api1", first.address)
    edge.run()
    port = edge.ports[8080]
    wait_for_bodies(port, "one", source="127.0.0.2")
    before = edge.changes()
    assert statuses(port, 100) == [200] * 100
    refused = get(port)
    assert (refused.status, refused.body, refused.headers["Retry-After"]) == (429, "Too many requests", "10")
    assert get(port, source="127.0.0.3").status == 200
    edge.register("api", "api2", second.address)
    wait_for_bodies(port, "one", "two", source="127.0.0.4")
    assert get(port).status == 429
    edge.assert_no_reload(before)
    first.kill()
    assert [get(port, source="127.0.0.5")[:2] for _ in range(10)] == [(200, "two")] * 10


def statuses(port: int, count: int) -> list[int]:
    """Return the statuses of requests on one connection."""
    connection = HTTPConnection("127.0.0.1", port, timeout=within(20))
    found = []
    for _ in range(count):
        connection.request("GET", "/")
        answer = connection.getresponse()
        answer.read()
        found.append(answer.status)
    connection.close()
    return found


def test_basic_auth(example: Prepare, servers: Servers, certificates: Certificates) -> None:
    users = certificates.pem("wiki.example.com").with_name("wiki.users")
    users.write_text("alice:secret\n")
    files = {"/etc/ssl/wiki.pem": users.with_name("wiki.example.com.pem"), "/etc/discovery/wiki.users": users}
    edge = example("basic-auth.toml", replaced=files)
    first, second = servers.web("one"), servers.web("two")
    edge.register("wiki", "wiki1", first.address)
    edge.run()

    def ask(user: str = "") -> Response:
        headers = {"Authorization": f"Basic {b64encode(user.encode()).decode()}"} if user else {}
        return get(edge.ports[443], host="wiki.example.com", tls=certificates.client(), headers=headers)

    eventually_sync(lambda: ask("alice:secret").status == 200, "the page", TIMEOUT)
    assert [ask(each).status for each in ("", "alice:wrong", "bob:secret")] == [401] * 3
    assert ask().headers["WWW-Authenticate"] == 'Basic realm="wiki"'
    assert ask("alice:secret").headers["Strict-Transport-Security"] == "max-age=31536000"
    plain = get(edge.ports[80], "/page?x=1", host="wiki.example.com")
    assert (plain.status, plain.headers["Location"]) == (308, "https://wiki.example.com/page?x=1")
    before = edge.changes()
    edge.register("wiki", "wiki2", second.address)
    eventually_sync(lambda: {ask("alice:secret").body for _ in range(4)} == {"one", "two"}, "two backends", TIMEOUT)
    edge.assert_no_reload(before)
    first.kill()
    assert [ask("alice:secret")[:2] for _ in range(6)] == [(200, "two")] * 6
    renewed = users.with_suffix(".new")
    renewed.write_text("bob:secret\n")
    renewed.replace(users)
    eventually_sync(lambda: [ask(f"{name}:secret").status for name in ("alice", "bob")] == [401, 200], "bob", TIMEOUT)


def test_sticky_sessions(example: Prepare, servers: Servers, certificates: Certificates) -> None:
    edge = example("sticky.toml", replaced={"/etc/ssl/shop.pem": certificates.pem("shop.example.com")})
    webs = {name: servers.web(name) for name in ("one", "two")}
    edge.register("shop", "one", webs["one"].address)
    edge.run()

    def ask(cookie: str = "") -> Response:
        headers = {"Cookie": cookie} if cookie else {}
        return get(edge.ports[443], host="shop.example.com", tls=certificates.client(), headers=headers)

    first = eventually_sync(lambda: (answer := ask()).status == 200 and answer, "the page", TIMEOUT)
    assert isinstance(first, Response)
    attributes = first.headers["Set-Cookie"].split("; ")
    cookie = attributes[0]
    assert re.fullmatch(r"SHOP=[0-9a-f]+", cookie)
    assert set(attributes[1:]) == {
        "path=/", "HttpOnly", "Secure", "domain=example.com", "SameSite=Lax", "Max-Age=28800",
    }  # fmt: skip
    edge.register("shop", "two", webs["two"].address)
    eventually_sync(lambda: {ask().body for _ in range(4)} == {"one", "two"}, "two backends", TIMEOUT)
    assert {ask(cookie).body for _ in range(6)} == {"one"}
    before = edge.changes()
    edge.register("shop", "one", webs["one"].address, state="draining")
    eventually_sync(lambda: {ask().body for _ in range(4)} == {"two"}, "new clients elsewhere", TIMEOUT)
    assert {ask(cookie).body for _ in range(6)} == {"one"}
    edge.assert_no_reload(before)
    webs["one"].kill()
    moved = ask(cookie)
    assert (moved.status, moved.body) == (200, "two")
    assert ask(moved.headers["Set-Cookie"].partition(";")[0]).body == "two"


def test_maintenance_page(example: Prepare, servers: Servers) -> None:
    page = EXAMPLES / "maintenance.html"
    edge = example("maintenance.toml", replaced={f"examples/haproxy/{page.name}": page})
    edge.run()
    port = edge.ports[8080]

    def shows_page() -> bool:
        answer = get(port)
        is_page = (answer.status, answer.body) == (503, page.read_text())
        return is_page and answer.headers["Content-Type"].startswith("text/html")

    eventually_sync(shows_page, "the page without a backend", TIMEOUT)
    before = edge.changes()
    site = servers.web("site")
    edge.register("site", "site1", site.address)
    wait_for_bodies(port, "site")
    edge.register("site", "site1", site.address, state="draining")
    eventually_sync(shows_page, "the page while all drain", TIMEOUT)
    edge.register("site", "site1", site.address)
    wait_for_bodies(port, "site")
    edge.assert_no_reload(before)
    site.kill()
    eventually_sync(shows_page, "the page after the death of the backend", TIMEOUT)


def wait_for_bodies(port: int, *expected: str, **options: str) -> None:
    """Wait until ten requests in a row get these bodies, each of them at least once."""
    eventually_sync(
        lambda: {get(port, **options).body for _ in range(10)} == set(expected),  # type: ignore[arg-type]
        f"{expected} at {port}",
        TIMEOUT,
    )
