"""Options that change requests and answers: real requests through real HAProxy."""

from base64 import b64encode
from collections.abc import Callable
from email.message import Message
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from ssl import SSLContext, create_default_context
from typing import Any, NamedTuple

import pytest
import trustme
from haproxy_web import RunHAProxy, StartOrigin

from discovery import Snapshot
from discovery.testing import backend, free_port, within
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.rendering.render import Runtime, referenced_files, render


class Reply(NamedTuple):
    """An answer, without a redirect followed."""

    status: int
    headers: Message
    body: str


class Site(NamedTuple):
    """A running HAProxy with the service `web`."""

    port: int
    text: str

    def get(self, path: str = "/", context: SSLContext | None = None, port: int = 0, **headers: str) -> Reply:
        """Request a path, through TLS with a context."""
        host, at = "localhost" if context else "127.0.0.1", port or self.port
        timeout = within(10)
        connection = HTTPSConnection(host, at, context=context, timeout=timeout) if context else None
        connection = connection or HTTPConnection(host, at, timeout=timeout)
        connection.request("GET", path, headers=headers)
        with connection.getresponse() as reply:
            return Reply(reply.status, reply.headers, reply.read().decode())


StartSite = Callable[..., Site]
"""Type of the fixture `site`: takes options of the service `web`, and with `instance` further options."""


@pytest.fixture
def site(run: RunHAProxy, origin: StartOrigin) -> StartSite:
    """Start HAProxy with the service `web`, whose backend answers `web`."""

    def start(instance: dict[str, Any] | None = None, **options: Any) -> Site:
        port, ready = free_port(), free_port()  # `fetch`, which waits for HAProxy, follows redirects
        without = (instance or {}).pop("without", ())
        binds = [f"127.0.0.1:{port}", *options.pop("binds", ())]
        services = {"web": {"bind": binds, "check": False, **options}, **(instance or {}).pop("services", {})}
        services["ready"] = {"bind": f"127.0.0.1:{ready}"}
        backends = [backend(name, port=origin(name).port) for name in services if name not in without]
        config = HAProxyConfig.model_validate({**(instance or {}), "services": services})
        rendered = render(config, Snapshot.of(1, backends), Runtime(), {})
        run(rendered, f"http://127.0.0.1:{ready}/")
        return Site(port, rendered.text)

    return start


def basic(name: str, password: str, scheme: str = "Basic") -> str:
    return f"{scheme} {b64encode(f'{name}:{password}'.encode()).decode()}"


HOSTILE = (
    "alice:secret",
    "bob:a:b#c 'd' \"e\" $HOME \\x41 {}",
    "carol:pass wörd",
    "# comment:x",
    "dave: leading and trailing ",
)


@pytest.fixture
def users_file(tmp_path: Path) -> Path:
    path = tmp_path / "a file.users"
    path.touch(0o600)
    path.write_text("".join(f"{line}\n" for line in HOSTILE))
    return path


def test_the_statistics_and_metrics_need_a_login(site: StartSite, users_file: Path) -> None:
    stats = free_port()
    running = site({"stats": {"address": f"127.0.0.1:{stats}", "users_file": str(users_file)}})
    for path, content in (("/", "Statistics Report"), ("/metrics", "haproxy_process_")):
        refused = running.get(path, port=stats)
        assert refused.status == 401
        assert refused.headers["WWW-Authenticate"] == 'Basic realm="statistics"'
        assert content not in refused.body
        for wrong in (basic("alice", "wrong"), basic("alice", ""), basic("bob", "secret"), "Basic ???", "Bearer x"):
            assert running.get(path, port=stats, Authorization=wrong).status == 401, wrong
        assert content in running.get(path, port=stats, Authorization=basic("alice", "secret")).body
    assert running.get().status == 200


def test_basic_auth_lets_the_users_of_its_file_through(site: StartSite, users_file: Path) -> None:
    running = site(basic_auth={"users_file": str(users_file), "realm": "the site"})
    refused = running.get()
    assert refused.status == 401
    assert refused.headers["WWW-Authenticate"] == 'Basic realm="the site"'
    for line in HOSTILE:
        name, _, password = line.partition(":")
        status = 401 if name.startswith("#") else 200
        assert running.get(Authorization=basic(name, password)).status == status, line
        assert running.get(Authorization=basic(name, f"{password}x")).status == 401, line
        assert len(password) == 1 or password not in running.text
    assert running.get(Authorization=basic("alice", "secret", "basic")).status == 200
    assert running.get(Authorization=basic("", "")).status == 401


def test_basic_auth_of_a_service_leaves_others_on_its_address_open(site: StartSite, users_file: Path) -> None:
    port = free_port()
    other = {"bind": f"127.0.0.1:{port}", "check": False, "path_prefix": "/open"}
    running = site({"services": {"open": other}}, binds=[f"127.0.0.1:{port}"], basic_auth=str(users_file))
    assert running.get("/open", port=port).body == "open"
    assert running.get("/", port=port).status == 401


def test_an_empty_file_lets_nobody_through(site: StartSite, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    running = site(basic_auth=str(empty))
    assert running.get().status == 401
    assert running.get(Authorization=basic("", "")).status == 401


def test_files_of_users_are_followed(users_file: Path) -> None:
    named: dict[str, Any] = {
        "stats": {"address": "127.0.0.1:1", "users_file": "/a"},
        "services": {"web": {"basic_auth": "/b"}},
    }
    named["services"]["web"]["sorry_page"] = "/c"
    assert set(referenced_files(HAProxyConfig.model_validate(named))) == {Path("/a"), Path("/b"), Path("/c")}


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, SSLContext]:
    """A certificate for localhost, and the context of a client that trusts the certificate."""
    authority, path = trustme.CA(), tmp_path / "site.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(path))
    context = create_default_context()
    authority.configure_trust(context)
    return path, context


def test_plain_requests_are_redirected_and_https_requests_are_served(
    site: StartSite, certificate: tuple[Path, SSLContext], users_file: Path
) -> None:
    path, context = certificate
    secure = free_port()
    bind = {"address": f"127.0.0.1:{secure}", "certificate": str(path)}
    running = site(binds=[bind], redirect_https=True, basic_auth=str(users_file))
    reply = running.get("/a/b?c=d&e", Host="example.com:8080")
    assert reply.status == 308  # without a question for the password
    assert reply.headers["Location"] == "https://example.com/a/b?c=d&e"
    login = basic("alice", "secret")
    assert running.get("/a", context, secure, Authorization=login).body == "web"


def test_plain_requests_are_redirected_to_another_port(site: StartSite) -> None:
    running = site(redirect_https=8443)
    assert running.get("/x", Host="[::1]:80").headers["Location"] == "https://[::1]:8443/x"


def test_hsts_is_told_over_tls_alone(site: StartSite, certificate: tuple[Path, SSLContext]) -> None:
    path, context = certificate
    secure = free_port()
    bind = {"address": f"127.0.0.1:{secure}", "certificate": str(path)}
    running = site(binds=[bind], hsts={"max_age": "400d", "include_subdomains": True, "preload": True})
    expected = "max-age=34560000; includeSubDomains; preload"
    assert running.get("/", context, secure).headers["Strict-Transport-Security"] == expected
    assert "Strict-Transport-Security" not in running.get().headers


@pytest.mark.parametrize(
    ("hsts", "header"), [(True, "max-age=31536000"), ("1h", "max-age=3600"), (0, "max-age=0"), (False, None)]
)
def test_hsts_has_short_forms(hsts: object, header: str | None) -> None:
    bind = {"address": "*:443", "options": "ssl crt /x"}
    service = HAProxyConfig.model_validate({"services": {"web": {"bind": bind, "hsts": hsts}}}).services["web"]
    assert (service.hsts and service.hsts.header) == header


def test_response_headers_are_set_and_removed_in_every_answer(site: StartSite) -> None:
    hostile = "50% %[env(HOME)] \"q\" 'a' #b \\x41 ${HOME} {} if { always_true }"
    headers = {"X-Frame-Options": "DENY", "Server": False, "Expires": "-1", "X-Hostile": hostile}
    running = site(response_headers=headers)
    reply = running.get()
    assert reply.body == "web"
    for name, value in headers.items():
        assert reply.headers.get_all(name) == ([value] if value else None)


def test_response_headers_are_set_in_haproxys_own_answers(site: StartSite, users_file: Path) -> None:
    refused = site(response_headers={"X-Frame-Options": "DENY"}, basic_auth=str(users_file)).get()
    assert refused.status == 401
    assert refused.headers["X-Frame-Options"] == "DENY"


def test_the_sticky_cookie_has_attributes(site: StartSite) -> None:
    cookie = {"name": "S", "secure": True, "same_site": "none", "domain": "example.com", "max_age": "1h"}
    (header,) = site(cookie=cookie).get().headers.get_all("Set-Cookie") or ()
    name, *attributes = header.split("; ")
    assert name.startswith("S=")
    assert {each.lower() for each in attributes} == {
        "path=/", "httponly", "secure", "samesite=none", "domain=example.com", "max-age=3600",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("suffix", "media_type"),
    [(".html", "text/html; charset=utf-8"), (".json", "application/json"), (".txt", "text/plain; charset=utf-8")],
)
def test_a_sorry_page_is_the_answer_while_no_backend_is_up(
    site: StartSite, tmp_path: Path, suffix: str, media_type: str
) -> None:
    page = tmp_path / f"a page{suffix}"
    page.write_text("Sorry, %[env(HOME)] é\n")
    dead = {"bind": f"127.0.0.1:{free_port()}", "sorry_page": str(page), "balance": "first"}
    running = site({"services": {"gone": dead}, "without": ["gone"]})
    reply = running.get(port=int(dead["bind"].rpartition(":")[2]))
    assert (reply.status, reply.body) == (503, "Sorry, %[env(HOME)] é\n")
    assert reply.headers["Content-Type"] == media_type
    assert reply.headers["Cache-Control"] == "no-store"
    assert running.get().body == "web"
