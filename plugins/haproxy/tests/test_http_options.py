"""Options that change requests and answers: real requests through real HAProxy."""

from base64 import b64encode
from collections.abc import Callable
from email.message import Message
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from ssl import SSLContext
from typing import Any, NamedTuple

import pytest
from haproxy_web import RunHAProxy, StartOrigin

from discovery import Snapshot
from discovery.testing import backend, free_port, within
from discovery_haproxy.config import HAProxyConfig
from discovery_haproxy.render import Runtime, referenced_files, render


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
        port = free_port()
        binds = [f"127.0.0.1:{port}", *options.pop("binds", ())]
        services = {"web": {"bind": binds, "check": False, **options}, **(instance or {}).pop("services", {})}
        backends = [backend(name, port=origin(name).port) for name in services]
        config = HAProxyConfig.model_validate({**(instance or {}), "services": services})
        text = render(config, Snapshot.of(1, backends), Runtime(), {}).text
        run(text, f"http://127.0.0.1:{port}/")
        return Site(port, text)

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
    named = {"stats": {"address": "127.0.0.1:1", "users_file": "/a"}, "services": {"web": {"basic_auth": "/b"}}}
    assert set(referenced_files(HAProxyConfig.model_validate(named))) == {Path("/a"), Path("/b")}
