"""The token of the admin endpoint: who is told what, over which addresses, and what our own commands send."""

import http.client
import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from daemons import DISCOVERY, Daemon, RecordFiles, Starter

from discovery.testing import eventually_sync, free_port, within

pytestmark = pytest.mark.warm

TOKEN = "a-token-of-a-test-0123456789abcdef"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
TIMEOUT = 60.0


def write_token(directory: Path, token: str = TOKEN) -> Path:
    path = directory / "token"
    path.touch(0o600)
    path.write_text(f"{token}\n")
    return path


@pytest.fixture
def config(tmp_path: Path, file_registry: RecordFiles) -> Path:
    url, write = file_registry
    write("web/b1", "127.0.0.1:9")
    path = tmp_path / "discovery.toml"
    path.write_text(
        f'admin_token_file = "{write_token(tmp_path)}"\n[registry]\nurl = "{url}"\n'
        f'[consumers.p]\nplugin = "tcpproxy"\nlisten.web = "127.0.0.1:{free_port()}"\n'
    )
    return path


@pytest.fixture
def daemon(config: Path, start_daemon: Starter) -> Daemon:
    """Listens for every address."""
    port = free_port()
    started: Daemon = start_daemon("--config", str(config), admin=f"0.0.0.0:{port}")
    started.admin = f"127.0.0.1:{port}"
    eventually_sync(started.is_ready, timeout=TIMEOUT)
    return started


def ask(
    address: str, path: str, headers: dict[str, str] | None = None, method: str = "GET"
) -> tuple[int, http.client.HTTPMessage, str]:
    connection = http.client.HTTPConnection(address, timeout=within(TIMEOUT))
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [*DISCOVERY, *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=within(TIMEOUT), check=False)


def test_who_says_nothing_is_told_a_word(daemon: Daemon) -> None:
    assert json.loads(ask(daemon.admin, "/healthz")[2]) == {"status": "ok"}
    assert json.loads(ask(daemon.admin, "/readyz")[2]) == {"ready": True}
    assert "registry" in json.loads(ask(daemon.admin, "/healthz", BEARER)[2])
    assert "registry" in json.loads(ask(daemon.admin, "/readyz", BEARER)[2])
    for path in ("/", "/api", "/api/status", "/api/snapshot", "/metrics", "/no/such/page"):
        status, headers, text = ask(daemon.admin, path)
        assert status == 401, path
        assert "web" not in text
        assert [each.split()[0] for each in headers.get_all("WWW-Authenticate", ())] == ["Discovery-HMAC", "Bearer"]
    assert ask(daemon.admin, "/api/status", BEARER)[0] == 200
    assert ask(daemon.admin, "/no/such/page", BEARER)[0] == 404


def test_what_a_token_is_not(daemon: Daemon) -> None:
    wrong = [
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Cookie": f"token={TOKEN}"},
    ]
    for headers in wrong:
        assert ask(daemon.admin, "/api/status", headers)[0] == 401, headers
    assert ask(daemon.admin, "/api/status", {"Authorization": f"bearer {TOKEN}"})[0] == 200
    for parameter in ("token", "access_token", "Token"):
        assert ask(daemon.admin, f"/api/status?{parameter}={TOKEN}")[0] == 400
        assert ask(daemon.admin, f"/api/status?{parameter}={TOKEN}", BEARER)[0] == 400
    assert TOKEN not in daemon.log
    assert "wrong credentials at the admin endpoint" in daemon.log


def test_wrong_attempts_of_others_lock_nobody_out(daemon: Daemon) -> None:
    wrong = {"Authorization": "Bearer nothing"}
    with ThreadPoolExecutor(24) as others:
        statuses = list(others.map(lambda _: ask(daemon.admin, "/api/status", wrong)[0], range(48)))
        assert set(statuses) <= {401, 429}
        assert ask(daemon.admin, "/api/status", BEARER)[0] == 200
    assert daemon.log.count("wrong credentials") == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_but_reading_is_served(daemon: Daemon, method: str) -> None:
    for path in ("/api/status", "/no/such/page", "/healthz"):
        status, headers, _ = ask(daemon.admin, path, BEARER, method)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert ask(daemon.admin, "/api/status", BEARER, "HEAD")[0] == 200


def test_pages_of_other_origins_have_nothing_read(daemon: Daemon) -> None:
    for site in ("cross-site", "same-site"):
        for mode, dest in (("cors", "empty"), ("no-cors", "script"), ("navigate", "iframe")):
            browser = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
            assert ask(daemon.admin, "/healthz", browser)[0] == 403
        link = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
        assert ask(daemon.admin, "/healthz", link)[0] == 200
    assert ask(daemon.admin, "/api/status", {**BEARER, "Sec-Fetch-Site": "same-origin"})[0] == 200


def test_no_answer_is_kept_framed_or_taken_for_another_kind(daemon: Daemon) -> None:
    for path in ("/", "/healthz", "/api/status", "/no/such/page", "/metrics"):
        for credentials in ({}, BEARER, {"Host": "evil.example"}):
            headers = ask(daemon.admin, path, credentials)[1]
            assert headers["Cache-Control"] == "no-store"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Referrer-Policy"] == "no-referrer"
            assert headers["X-Frame-Options"] == "DENY"
            assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
            assert "Server" not in headers
            assert "Set-Cookie" not in headers


@pytest.mark.parametrize(("metrics", "without", "with_token"), [("open", 200, 200), ("off", 404, 404)])
def test_metrics_have_their_own_option(
    config: Path, daemon: Daemon, metrics: str, without: int, with_token: int
) -> None:
    assert (ask(daemon.admin, "/metrics")[0], ask(daemon.admin, "/metrics", BEARER)[0]) == (401, 200)
    config.write_text(f'admin_metrics = "{metrics}"\n{config.read_text()}')
    eventually_sync(lambda: ask(daemon.admin, "/metrics")[0] == without, "the reload", TIMEOUT)
    assert ask(daemon.admin, "/metrics", BEARER)[0] == with_token
    assert ask(daemon.admin, "/api/status")[0] == 401


def test_another_token_counts_from_the_next_reload(tmp_path: Path, daemon: Daemon) -> None:
    write_token(tmp_path, "b" * 40)
    daemon.process.send_signal(1)
    new = {"Authorization": f"Bearer {'b' * 40}"}
    eventually_sync(lambda: ask(daemon.admin, "/api/status", new)[0] == 200, "the reload", TIMEOUT)
    assert ask(daemon.admin, "/api/status", BEARER)[0] == 401
    write_token(tmp_path, "short")
    daemon.process.send_signal(1)
    eventually_sync(lambda: "it has 5 characters" in daemon.log, "the refusal", TIMEOUT)
    assert ask(daemon.admin, "/api/status", new)[0] == 200
    assert ask(daemon.admin, "/api/status")[0] == 401


def test_beyond_loopback_a_daemon_without_a_token_does_not_start(config: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.toml"
    bare.write_text("".join(line for line in config.read_text().splitlines(True) if "admin_token_file" not in line))
    places = ("--run-dir", str(tmp_path / "r"), "--state-dir", str(tmp_path / "s"), "--config", str(bare))
    refused = command("run", *places, "--admin", f"0.0.0.0:{free_port()}")
    assert refused.returncode == 2
    for way_out in ("admin_token_file", "--admin-token-file", "127.0.0.1", 'admin = "off"'):
        assert way_out in refused.stderr
    bare.write_text(f'admin = "[::]:{free_port()}"\n{bare.read_text()}')
    checked = command("config", "check", "--offline", "--json", str(bare))
    assert checked.returncode == 2
    (fault,) = json.loads(checked.stdout)["faults"]
    assert "admin: other machines can reach ::" in fault
    with_token = f'admin_token_file = "{tmp_path / "token"}"\n{bare.read_text()}'
    bare.write_text(with_token)
    checked = command("config", "check", "--offline", "--json", str(bare))
    assert checked.returncode == 0
    assert TOKEN not in checked.stdout + checked.stderr


def test_commands_have_the_token_of_the_file_and_prove_it(config: Path, daemon: Daemon, tmp_path: Path) -> None:
    where = ("--admin", daemon.admin, "--config")
    assert command("status", *where, str(config)).returncode == 0
    assert command("wait", "web", *where, str(config)).returncode == 0
    token = ("--admin-token-file", str(tmp_path / "token"))
    for asking in (("history", "--json"), ("explain", "web"), ("top", "--count", "1"), ("services", "--health")):
        registry = ("--registry", f"file://{tmp_path / 'registry'}") if asking[0] == "services" else ()
        done = command(*asking, *token, *registry, *where, "/dev/null")
        assert done.returncode == 0, done.stderr
    (tmp_path / "token").write_text("c" * 32)
    for given, words in (((), "does not know who asks"), (token, "is not the one of admin_token_file")):
        refused = command("status", *given, *where, "/dev/null")
        assert refused.returncode == 1
        assert words in refused.stderr
        assert "--admin-token-file" in refused.stderr
    assert "c" * 32 not in daemon.log


class Impostor:
    """Listens where no daemon does, and hands the challenge of a daemon on."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.requests: list[bytes] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        asked, _ = ask(self._daemon.admin, "/api/status")[1].get_all("WWW-Authenticate", ())
        challenge = f"HTTP/1.0 401 Unauthorized\r\nWWW-Authenticate: {asked}\r\n\r\n{{}}".encode()
        for answer in (challenge, b'HTTP/1.0 200 OK\r\n\r\n{"status": "ok", "problems": {}}'):
            client, _ = self._listening.accept()
            with client:
                request = b""
                while b"\r\n\r\n" not in request and (part := client.recv(65536)):
                    request += part
                self.requests.append(request)
                client.sendall(answer)

    def close(self) -> None:
        self._thread.join(within(TIMEOUT))
        self._listening.close()


@pytest.fixture
def impostor(daemon: Daemon) -> Iterator[Impostor]:
    started = Impostor(daemon)
    yield started
    started.close()


def test_what_listens_in_place_of_the_daemon_learns_no_token_and_is_not_believed(
    impostor: Impostor, daemon: Daemon, config: Path
) -> None:
    done = command("status", "--admin", impostor.address, "--config", str(config))
    assert done.returncode == 1
    assert "does not know the token; its answer is not to be believed" in done.stderr
    assert len(impostor.requests) == 2
    assert TOKEN.encode() not in b"".join(impostor.requests)
    stolen = impostor.requests[1].decode().partition("Authorization: ")[2].partition("\r\n")[0]
    assert stolen.startswith("Discovery-HMAC ")
    for host in (impostor.address, daemon.admin):
        assert ask(daemon.admin, "/api/status", {"Authorization": stolen, "Host": host})[0] == 401
