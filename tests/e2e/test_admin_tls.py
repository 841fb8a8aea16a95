"""The admin endpoint over TLS, and clients that say who they are by a certificate."""

import http.client
import json
import os
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
import trustme
import warm
from daemons import Daemon, RecordFiles, Starter

from discovery.testing import eventually_sync, free_port, within

pytestmark = pytest.mark.warm

TIMEOUT = 60.0
NO_SETTINGS = {name: value for name, value in os.environ.items() if not name.startswith("DISCOVERY_")}


def issue(ca: trustme.CA, directory: Path, name: str, *identities: str) -> None:
    leaf = ca.issue_cert(*identities)
    key = directory / f"{name}-key.pem"
    key.touch(0o600)
    leaf.private_key_pem.write_to_path(key)
    leaf.cert_chain_pems[0].write_to_path(directory / f"{name}.pem")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Authorities of servers and of clients, and others; `server` is for another name than clients ask by."""
    directory = tmp_path_factory.mktemp("pki")
    servers, clients, others = trustme.CA(), trustme.CA(), trustme.CA()
    for name, ca in (("servers", servers), ("clients", clients), ("others", others)):
        ca.cert_pem.write_to_path(directory / f"{name}.pem")
    issue(servers, directory, "server", "127.0.0.1", "discovery.example.org")
    issue(servers, directory, "renewed", "discovery.example.org")
    issue(clients, directory, "client", "operator@example.org")
    issue(others, directory, "stranger", "operator@example.org")
    return directory


@pytest.fixture
def config(tmp_path: Path, pki: Path, file_registry: RecordFiles) -> Path:
    url, write = file_registry
    write("web/b1", "127.0.0.1:9")
    for name in ("server.pem", "server-key.pem"):
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_bytes((pki / name).read_bytes())
    path = tmp_path / "discovery.toml"
    path.write_text(
        f'admin_cert = "{tmp_path}/server.pem"\nadmin_key = "{tmp_path}/server-key.pem"\n'
        f'admin_client_ca = "{pki}/clients.pem"\n[registry]\nurl = "{url}"\n'
        f'[consumers.p]\nplugin = "tcpproxy"\nlisten.web = "127.0.0.1:{free_port()}"\n'
    )
    return path


@pytest.fixture
def daemon(config: Path, pki: Path, start_daemon: Starter) -> Daemon:
    port = free_port()
    started: Daemon = start_daemon("--config", str(config), admin=f"0.0.0.0:{port}")
    started.admin = f"127.0.0.1:{port}"
    eventually_sync(lambda: ask(started, "/readyz", trusting(pki))[0] == 200, timeout=TIMEOUT)
    return started


def trusting(pki: Path, authorities: str = "servers", client: str = "") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=pki / f"{authorities}.pem")
    if client:
        context.load_cert_chain(pki / f"{client}.pem", pki / f"{client}-key.pem")
    return context


def ask(daemon: Daemon, path: str, context: ssl.SSLContext) -> tuple[int, http.client.HTTPMessage, str]:
    connection = http.client.HTTPSConnection(daemon.admin, timeout=within(TIMEOUT), context=context)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return warm.run(*arguments, env=NO_SETTINGS | variables, timeout=within(TIMEOUT))


def test_a_certificate_of_the_authorities_says_who_asks(daemon: Daemon, pki: Path) -> None:
    assert json.loads(ask(daemon, "/healthz", trusting(pki))[2]) == {"status": "ok"}
    status, headers, text = ask(daemon, "/api/status", trusting(pki))
    assert (status, headers["WWW-Authenticate"]) == (401, None)
    assert "admin_client_ca" in text
    assert ask(daemon, "/api/status", trusting(pki, client="client"))[0] == 200
    assert "registry" in ask(daemon, "/healthz", trusting(pki, client="client"))[2]
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
        ask(daemon, "/healthz", trusting(pki, client="stranger"))
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(daemon, "/healthz", trusting(pki, "others"))
    assert "without TLS" not in daemon.log


def test_plain_http_is_not_answered_and_fills_no_log(daemon: Daemon, pki: Path) -> None:
    host, _, port = daemon.admin.rpartition(":")
    before = len(daemon.log)
    for sent in (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01\xff\xff", b"\x00" * 1000):
        for _ in range(20):
            with socket.create_connection((host, int(port)), timeout=within(TIMEOUT)) as client:
                client.sendall(sent)
                client.shutdown(socket.SHUT_WR)
                answer = b""
                try:
                    while some := client.recv(65536):
                        answer += some
                except ConnectionResetError:
                    pass
            assert b"HTTP/" not in answer
    assert len(daemon.log) - before < 1000
    assert ask(daemon, "/healthz", trusting(pki))[0] == 200


def test_handshakes_that_do_not_end_make_room_for_others(daemon: Daemon, pki: Path) -> None:
    host, _, port = daemon.admin.rpartition(":")
    crowd = [socket.create_connection((host, int(port)), timeout=within(TIMEOUT)) for _ in range(100)]
    try:
        assert ask(daemon, "/healthz", trusting(pki))[0] == 200

        def sockets() -> int:
            links = Path(f"/proc/{daemon.process.pid}/fd").iterdir()
            return sum(1 for link in links if link.is_socket())

        eventually_sync(lambda: sockets() < 70, "the descriptors of those that made room", TIMEOUT)
    finally:
        for client in crowd:
            client.close()


def test_a_certificate_is_renewed_by_a_reload(daemon: Daemon, config: Path, pki: Path, tmp_path: Path) -> None:
    for name in ("", "-key"):
        (tmp_path / f"server{name}.pem").write_bytes((pki / f"renewed{name}.pem").read_bytes())
    daemon.process.send_signal(1)

    def is_renewed() -> bool:
        try:
            return ask(daemon, "/healthz", trusting(pki))[0] == 0
        except ssl.SSLCertVerificationError as error:
            return "IP address mismatch" in str(error)

    eventually_sync(is_renewed, "the new certificate", TIMEOUT)
    (tmp_path / "server.pem").write_text("nothing")
    daemon.process.send_signal(1)
    eventually_sync(lambda: "are no certificate in PEM and its key" in daemon.log, "the refusal", TIMEOUT)
    assert is_renewed()


def test_commands_ask_over_tls(daemon: Daemon, config: Path, pki: Path) -> None:
    client = ("--admin-cert", str(pki / "client.pem"), "--admin-key", str(pki / "client-key.pem"))
    where = ("--admin", daemon.admin, "--config")
    done = command("status", *client, "--admin-ca", str(pki / "servers.pem"), *where, "/dev/null")
    assert done.returncode == 0, done.stderr
    of_file = command("status", *client, *where, str(config))  # the very certificate of the file is trusted
    assert of_file.returncode == 0, of_file.stderr
    variables = {
        "DISCOVERY_ADMIN_CA": str(pki / "servers.pem"),
        "DISCOVERY_ADMIN_CERT": str(pki / "client.pem"),
        "DISCOVERY_ADMIN_KEY": str(pki / "client-key.pem"),
    }
    assert command("wait", "web", *where, "/dev/null", **variables).returncode == 0
    stranger = ("--admin-cert", str(pki / "stranger.pem"), "--admin-key", str(pki / "stranger-key.pem"))
    ca = ("--admin-ca", str(pki / "servers.pem"))
    for arguments, words in (
        (ca, ("does not know who asks", "--admin-cert")),
        ((*client, "--admin-ca", str(pki / "others.pem")), ("no certificate that we trust", "--admin-ca")),
        ((*stranger, *ca), ("--admin-cert",)),
        ((), ("if it speaks TLS", "--admin-ca")),
    ):
        refused = command("status", *arguments, *where, "/dev/null")
        assert refused.returncode == 1, refused.stderr
        assert all(word in refused.stderr for word in words), refused.stderr
        assert "Traceback" not in refused.stderr
    for arguments in (client[:2], client[2:], ("--admin-ca", str(pki / "client-key.pem"))):
        assert command("status", *arguments, *where, "/dev/null").returncode == 2


def test_a_token_goes_over_tls_to_the_daemon_of_the_certificate_alone(
    daemon: Daemon, config: Path, pki: Path, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("e" * 32)
    config.write_text(f'admin_token_file = "{token}"\n{config.read_text()}')
    where = ("--admin", daemon.admin, "--config")
    eventually_sync(lambda: command("status", *where, str(config)).returncode == 0, "the reload", TIMEOUT)
    ours = ("--admin-token-file", str(token))
    assert command("status", *ours, "--admin-ca", str(pki / "servers.pem"), *where, "/dev/null").returncode == 0
    other = tmp_path / "other.toml"  # its certificate is of the same authorities
    other.write_text(config.read_text().replace(f"{tmp_path}/server", f"{pki}/renewed"))
    refused = command("status", *where, str(other))
    assert refused.returncode == 1
    assert "no certificate that we trust" in refused.stderr
    assert "e" * 32 not in daemon.log


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("admin_key", "no_such_key"), "no_such_key: unknown key"),
        (("server-key.pem", "server.pem"), "are no certificate in PEM and its key"),
        (("server-key.pem", "missing.pem"), "admin_key: {tmp}/missing.pem cannot be read: no such file"),
        (("server.pem", "missing.pem"), "admin_cert: {tmp}/missing.pem cannot be read: no such file"),
        (("clients.pem", "client-key.pem"), "admin_client_ca: {pki}/client-key.pem holds no certificates in PEM"),
        (("admin_cert", "#"), "admin_cert and admin_key go together"),
    ],
)
def test_files_that_cannot_be_used_are_faults(
    config: Path, tmp_path: Path, pki: Path, change: tuple[str, str], words: str
) -> None:
    config.write_text(config.read_text().replace(*change))
    checked = command("config", "check", "--offline", str(config))
    assert checked.returncode == 2
    assert words.format(tmp=tmp_path, pki=pki) in checked.stderr


def test_a_key_that_others_can_read_is_a_fault(config: Path, tmp_path: Path) -> None:
    (tmp_path / "server-key.pem").chmod(0o644)
    checked = command("config", "check", "--offline", str(config))
    assert checked.returncode == 2
    assert "admin_key: others than its owner" in checked.stderr
