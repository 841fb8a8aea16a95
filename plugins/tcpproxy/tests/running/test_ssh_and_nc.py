"""SSH and nc with the ambassador between client and server: sessions, volume, and half-closes."""

import hashlib
import os
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from ambassadors import TIMEOUT, Directory, StartCommand, connect

from discovery.testing import eventually_sync, free_port, require_program, within

from .programs import Ambassador, Spawn, run

_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@pytest.fixture
def ssh(spawn: Spawn, short_path: Path) -> tuple[int, Callable[[int], list[str | Path]]]:
    """A real sshd's port, and the command of a client that connects to a port."""
    server = require_program("sshd", wheel=False)
    client, keygen = require_program("ssh", wheel=False), require_program("ssh-keygen", wheel=False)
    host_key, user_key = short_path / "host", short_path / "user"
    for key in (host_key, user_key):
        run(keygen, "-q", "-t", "ed25519", "-N", "", "-f", key)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # it insists; a boot makes it elsewhere
    port = free_port()
    config = short_path / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host_key}\nAuthorizedKeysFile {user_key}.pub\n"
        "PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nUseDNS no\n"
    )
    spawn(server, "-D", "-e", "-f", config)

    def command(at: int) -> list[str | Path]:
        options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        options += ["IdentityAgent=none", "ConnectTimeout=30"]
        flags = [word for option in options for word in ("-o", option)]
        return [client, "-F", "none", *flags, "-i", user_key, "-p", str(at), "127.0.0.1"]

    return port, command


def test_an_ssh_session_continues_while_the_record_of_its_backend_changes(
    ssh: tuple[int, Callable[[int], list[str | Path]]], ambassador: Ambassador, directory: Directory
) -> None:
    server, client = ssh
    port = ambassador(server)
    shell = 'stty -echo; echo ready; while read -r line; do [ "$line" = bye ] && exit 7; echo "<$line>"; done'
    with subprocess.Popen(
        [*client(port)[:-1], "-tt", "127.0.0.1", shell], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as session:
        assert session.stdin is not None
        assert session.stdout is not None

        def says(line: str) -> None:
            session.stdin.write(f"{line}\n".encode())
            session.stdin.flush()
            assert session.stdout.readline() == f"<{line}>\r\n".encode()

        try:
            assert session.stdout.readline() == b"ready\r\n"
            for number in range(200):
                says(f"{number}" + "x" * number)
            directory.remove("service")
            with socket.create_server(("127.0.0.1", 0)) as elsewhere:
                directory.put("service", elsewhere.getsockname()[1], id_="b2")
                elsewhere.settimeout(0.2)
                eventually_sync(lambda: _arrives(port, elsewhere), "newcomers to go elsewhere", TIMEOUT)
                says("still here")
            directory.remove("service", "b2")
            says("and here")
            session.stdin.write(b"bye\n")
            session.stdin.flush()
            assert session.wait(within(TIMEOUT)) == 7
        finally:
            session.kill()


def _arrives(port: int, elsewhere: socket.socket) -> bool:
    with connect(port):
        elsewhere.accept()[0].close()
    return True


@pytest.mark.costly
def test_ssh_carries_large_data_unchanged_in_both_directions(
    ssh: tuple[int, Callable[[int], list[str | Path]]], ambassador: Ambassador
) -> None:
    server, client = ssh
    port = ambassador(server, "--workers", "2")
    data = os.urandom(1 << 20) * 8
    assert run(*client(port), "sha256sum", input=data).split()[0].decode() == hashlib.sha256(data).hexdigest()
    assert run(*client(port), "cat", input=data) == data


def is_answered(port: int) -> bool:
    """Whether a client that half-closes at once is answered: it is not while it has to be held."""
    with connect(port) as client, suppress(ConnectionResetError):
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        return bool(client.recv(1))
    return False


def test_nc_receives_the_answer_after_a_half_close(spawn: Spawn, ambassador: Ambassador) -> None:
    server = free_port()
    # sha256sum answers once it has seen the end of what it is sent.
    spawn(
        require_program("socat", wheel=False), "-t", "60",
        f"TCP-LISTEN:{server},bind=127.0.0.1,reuseaddr,fork,backlog=64", "EXEC:sha256sum",
    )  # fmt: skip
    port = ambassador(server)
    nc = require_program("nc", wheel=False)
    eventually_sync(lambda: is_answered(port), "the backend to be known", TIMEOUT)  # until then nc would be held
    for size in (0, 1, 100, 1 << 20):
        data = os.urandom(size)
        answer = run(nc, "-N", "127.0.0.1", str(port), input=data)
        assert answer.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_nc_continues_to_send_after_the_server_half_closes(start_command: StartCommand, directory: Directory) -> None:
    """The other way round: the server has said all that it will, and still listens."""
    server, port, sent = free_port(), free_port(), b"but not for us" * 1000
    directory.put("service", server)
    start_command("ambassador", "service", str(port), "--hold", "60", "--registry", directory.url)
    nc = require_program("nc", wheel=False)
    with (
        connect(port) as client,
        client.makefile("rb") as answer,
        subprocess.Popen(
            [nc, "-N", "-l", "127.0.0.1", str(server)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as listener,
    ):
        try:
            assert listener.stdin is not None
            assert listener.stdout is not None
            listener.stdin.write(b"that is all\n")
            listener.stdin.close()
            assert answer.read() == b"that is all\n"
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            assert listener.stdout.read() == sent
            assert listener.wait(within(TIMEOUT)) == 0
        finally:
            listener.kill()
