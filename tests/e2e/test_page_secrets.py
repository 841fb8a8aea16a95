"""No answer of the admin endpoint, and no line of the log, has a secret of the configuration."""

import http.client
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemons import Daemon, Starter

from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually_sync, free_port, require_program, within

pytestmark = pytest.mark.warm

TOKEN = "token-s3cret-" + "t" * 32
SECRETS = {name: f"{name}-s3cret-{'x' * 20}" for name in ("registry", "users", "stats")}
PATHS = (
    "/",
    "/?panel=fleet",
    "/?panel=consumers/edge",
    "/panel/consumers/edge",
    "/panel/fleet",
    "/stream",
    "/healthz",
    "/readyz",
    "/metrics",
    "/api/status",
    "/api/snapshot",
    "/api/consumers",
    "/api/consumers/edge",
    "/api/providers",
    "/api/history",
    "/api/explain?service=web",
    "/api/wait?service=web&timeout=0",
    "/api/fleet",
    "/api/daemon",
    "/login",
    "/no/such/page",
)


@pytest.fixture
def guarded() -> Iterator[EmbeddedEtcd]:
    """An etcd that asks for a password."""
    require_program("etcd")
    require_program("etcdctl")
    with EmbeddedEtcd() as etcd:
        etcd.ctl("put", "/services/web/a", "127.0.0.1:9")
        etcd.ctl("put", "/services/web/bad", "nonsense")
        etcd.ctl("user", "add", f"root:{SECRETS['registry']}")
        etcd.ctl("user", "grant-role", "root", "root")
        etcd.ctl("auth", "enable")
        yield etcd


def answer(daemon: Daemon, path: str) -> str:
    """Everything of an answer, its headers, too; of the stream the first picture."""
    connection = http.client.HTTPConnection(daemon.admin, timeout=within(30))
    try:
        headers = {"Accept": "text/html" if "api" not in path else "*/*", "Authorization": f"Bearer {TOKEN}"}
        connection.request("GET", path, headers=headers)
        told = connection.getresponse()
        if path == "/stream":
            lines = iter(told.readline, b"")
            return next(line.decode() for line in lines if b'"full":true' in line)
        return f"{told.headers}{told.read().decode()}"
    finally:
        connection.close()


@pytest.mark.costly
def test_secrets_are_told_nowhere(tmp_path: Path, start_daemon: Starter, guarded: EmbeddedEtcd) -> None:
    require_program("haproxy")
    files = {"token": TOKEN, "users": f"alice:{SECRETS['users']}", "stats": f"bob:{SECRETS['stats']}"}
    for name, text in files.items():
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_text(f"{text}\n")
    config = tmp_path / "discovery.toml"
    config.write_text(f"""
admin_token_file = "{tmp_path / "token"}"
announce = true
[registry]
url = "etcd://root:{SECRETS["registry"]}@{guarded.endpoint}"
[consumers.edge]
plugin = "haproxy"
stats = {{ address = "127.0.0.1:{free_port()}", users_file = "{tmp_path / "stats"}" }}
services.web = {{ bind = "127.0.0.1:{free_port()}", check = false, basic_auth = "{tmp_path / "users"}" }}
""")
    config.chmod(0o600)
    daemon = start_daemon("--config", str(config))
    eventually_sync(daemon.is_ready, "the daemon to be ready", timeout=60)
    answers = {path: answer(daemon, path) for path in PATHS}
    assert "web/bad" in answers["/"]
    assert "web/bad" in answers["/stream"].replace("%2F", "/")
    assert guarded.endpoint in answers["/api/status"]
    guarded.kill()
    eventually_sync(lambda: "not connected" in answer(daemon, "/"), "the loss of the registry", timeout=60)
    answers |= {f"{path}, without the registry": answer(daemon, path) for path in PATHS}
    for path, text in {**answers, "the log": daemon.log}.items():
        assert not re.findall(r"[^\s\"'=]*s3cret[^\s\"'=]*", text), path
