"""A registry that is reached by a host name, and whose name leads to another address."""

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from daemons import Starter
from etcds import etcd_of_its_own
from histories import RegistryHistory
from listed import COPIES, Found, listed
from sampling import sampled

from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import cannot_run, eventually_sync, free_port, require_program

pytestmark = pytest.mark.warm

__all__ = ["etcd_of_its_own", "listed"]

NAME = "registry.test"
FIRST, SECOND = "127.0.0.2", "127.0.0.3"
TTL = 10.0  # the default


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    """A hosts file."""
    path = tmp_path / "hosts"
    path.write_text(Path("/etc/hosts").read_text())
    return path


@pytest.fixture
def under(hosts: Path) -> list[str]:
    """A command that runs another, with this hosts file for the machine's own."""
    command = [
        "unshare",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        'mount --bind "$1" /etc/hosts && shift && exec "$@"',
    ]
    command += ["sh", str(hosts)]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        cannot_run("this user may not make a mount namespace of its own")
    return command


class Forwarder:
    """Carries TCP from an address of this machine to etcd's."""

    def __init__(self, address: str, port: int, to: EmbeddedEtcd) -> None:
        listen = f"TCP-LISTEN:{port},bind={address},fork,reuseaddr"
        command = [require_program("socat"), listen, f"TCP:{to.endpoint}"]
        self.process = subprocess.Popen(command, start_new_session=True)
        eventually_sync(lambda: socket.create_connection((address, port)).close() or True)

    def send(self, number: signal.Signals) -> None:
        """Signal it and its connections."""
        os.killpg(self.process.pid, number)


@contextmanager
def forwarding(address: str, port: int, to: EmbeddedEtcd) -> Iterator[Forwarder]:
    forwarder = Forwarder(address, port, to)
    try:
        yield forwarder
    finally:
        with suppress(ProcessLookupError):
            forwarder.send(signal.SIGKILL)
        forwarder.process.wait()


def lead(hosts: Path, name: str, address: str | None) -> None:
    """Let the name lead to this address, or nowhere."""
    hosts.write_text(Path("/etc/hosts").read_text() + (f"{address} {name}\n" if address else ""))


@pytest.mark.costly
@pytest.mark.timeout(300)
@pytest.mark.parametrize("move", sampled(["refusing", "silent", "not to be looked up"]))
def test_living_backends_stay_when_the_registry_moves(
    etcd: EmbeddedEtcd,
    start_daemon: Starter,
    install_plugin: Callable[..., None],
    listed: Found,
    hosts: Path,
    under: list[str],
    tmp_path: Path,
    move: str,
) -> None:
    """Point 2. The old address refuses connections, or does not answer any more; the daemon goes on at the new one.

    Or the registry is restarted where it is while its name cannot be looked up.
    """
    install_plugin("copies", COPIES)
    listed(("a", 80, ""))
    port, copy = free_port(), tmp_path / "copy"
    lead(hosts, NAME, FIRST)
    with ExitStack() as stack:
        history = stack.enter_context(RegistryHistory(etcd))
        old = stack.enter_context(forwarding(FIRST, port, etcd))
        start_daemon(
            *("--registry", f"etcd://{NAME}:{port}{history.prefix}"),
            *("--plugin", "listed", "--set", listed.option, "--plugin", "copies", "--set", f"copies.path={copy}"),
            under=under,
        )
        eventually_sync(lambda: copy.read_text() == "10.0.0.1:80", "the backend to be registered and seen", timeout=60)
        if move == "not to be looked up":
            lead(hosts, NAME, None)
            old.send(signal.SIGTERM)
            old.process.wait()
            stack.enter_context(forwarding(FIRST, port, etcd))
        else:
            stack.enter_context(forwarding(SECOND, port, etcd))
            lead(hosts, NAME, SECOND)
            old.send(signal.SIGSTOP if move == "silent" else signal.SIGTERM)

        history.renews("web/a", timeout=3 * TTL)
        etcd.ctl("put", f"{history.prefix}/web/b", '{"host": "10.0.0.2", "port": 80}')
        eventually_sync(lambda: copy.read_text() == "10.0.0.1:80 10.0.0.2:80", "the change", timeout=60)
        assert [change.key for change in history.changes if change.value is None] == []
