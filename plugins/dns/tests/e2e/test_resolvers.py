"""Resolvers of a machine in front of the server, with the configurations of the README."""

import ctypes
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from coredns_build import NAME as COREDNS
from daemons import RecordFiles, Starter
from go_toolchain import cached
from making import require_made

from discovery.testing import cannot_run, eventually_sync, free_port, require_program

from .resolved_program import installed
from .resolving import answers, configuration

Ask = Callable[[str, str], list[str]]

NAMESPACE = """
set -e
ip link set lo up
ip link add eth0 type veth peer name other
ip addr add 192.0.2.7/24 dev eth0
ip link set eth0 up
ip link set other up
ip route add default via 192.0.2.1
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/resolve
for file in passwd group; do cp /etc/$file /run/$file; done
grep -q systemd-resolve: /run/passwd || echo 'systemd-resolve:x:64321:64321::/:/bin/false' >> /run/passwd
grep -q systemd-resolve: /run/group || echo 'systemd-resolve:x:64321:' >> /run/group
for file in passwd group; do mount --bind /run/$file /etc/$file; done
chown systemd-resolve:systemd-resolve /run/systemd/resolve
mkdir -p /etc/systemd
mount -t tmpfs tmpfs /etc/systemd
mkdir -p /etc/systemd/resolved.conf.d
cp "$2" /etc/systemd/resolved.conf.d/discovery.conf
exec "$1"
"""
"""Becomes systemd-resolved with this configuration. A route leads elsewhere, for without one it asks no server."""
NEW_NAMESPACES = ["unshare", "--net", "--mount", "--propagation", "private"]
CLONE_NEWNET = 0x40000000  # setns(2)


@contextmanager
def running(*command: str) -> Iterator[int]:
    """A program, and its process id."""
    with subprocess.Popen(command) as process:
        try:
            yield process.pid
        finally:
            process.terminate()


def check(ask: Ask, put: Callable[[str, str], object]) -> None:
    """The resolver answers for the domain, and follows a change."""
    eventually_sync(lambda: ask("web", "A") == ["10.0.0.1"])
    assert ask("web", "AAAA") == ["2001:db8::1"]
    (target,) = (each.split()[3] for each in ask("_web._tcp", "SRV") if each.startswith("0 1 80 "))
    assert ask(target, "A") == ["10.0.0.1"]
    assert ask("nothing", "A") == ["NXDOMAIN"]
    put("web/a", "10.0.0.2:80")
    eventually_sync(lambda: ask("web", "A") == ["10.0.0.2"], timeout=30)


@pytest.mark.swap
@pytest.mark.warm
def test_behind_dnsmasq(port: int, file_registry: RecordFiles, tmp_path: Path) -> None:
    program, own, config = require_program("dnsmasq", wheel=False), free_port(), tmp_path / "dnsmasq.conf"
    config.write_text(configuration("dnsmasq", port))
    command = [
        str(program),
        "--keep-in-foreground",
        f"--conf-file={config}",
        "--no-resolv",
        "--no-hosts",
        "--pid-file=",
    ]
    command += ["--user=", "--listen-address=127.0.0.1", "--bind-interfaces", f"--port={own}", "--stop-dns-rebind"]
    with running(*command):
        check(lambda name, kind: answers(own, name, kind), file_registry[1])


@pytest.mark.exhaustive
@pytest.mark.warm
def test_behind_coredns(port: int, file_registry: RecordFiles, tmp_path: Path) -> None:
    """Debian has no CoreDNS: `make coredns`, and so `make test-all`, builds CoreDNS from its Go module."""
    program = require_made("coredns", cached(COREDNS), "make coredns")
    own, config = free_port(), tmp_path / "Corefile"
    config.write_text(configuration("CoreDNS", port).replace("{\n", "{\n    bind 127.0.0.1\n", 1))
    with running(str(program), f"-dns.port={own}", f"-conf={config}"):
        check(lambda name, kind: answers(own, name, kind), file_registry[1])


@pytest.mark.docker
def test_behind_systemd_resolved(start_daemon: Starter, file_registry: RecordFiles, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        cannot_run("takes root, for a network namespace")
    for each in ("ip", "nsenter", "unshare"):
        require_program(each, wheel=False)
    program = str(require_made("systemd-resolved", installed(), "make resolved"))
    url, put = file_registry
    put("web/a", "10.0.0.1:80")
    put("web/b", "[2001:db8::1]:81")
    for number in range(4500):
        put(f"huge/{number}", f"10.{number // 250}.{number % 250}.1:80")
    config = tmp_path / "resolved.conf"
    config.write_text(configuration("systemd-resolved", 5300))
    config.chmod(0o644)
    with running(*NEW_NAMESPACES, "sh", "-c", NAMESPACE, "sh", program, str(config)) as pid:
        network = Path(f"/proc/{pid}/ns/net")
        eventually_sync(lambda: network.readlink() != Path("/proc/self/ns/net").readlink())
        start_daemon("--registry", url, "--plugin", "dns", "--set", "dns.ttl=1", under=["nsenter", f"--net={network}"])

        def ask(name: str, kind: str, timeout: float = 2) -> list[str]:
            with socket_in(network) as sock:
                return answers(53, name, kind, "127.0.0.53", sock, timeout)

        check(ask, put)
        # It asks over TCP for what is truncated over UDP, and refuses an answer that is truncated over TCP.
        assert ask("huge", "A", timeout=30)[0].startswith("10.")  # 4,000 records take seconds
        assert ask("example.com.", "A") == ["REFUSED"]  # there is no other server here


def socket_in(network: Path) -> socket.socket:
    """A socket of another network namespace, which a thread enters for the purpose."""

    def make() -> socket.socket:
        with network.open() as namespace:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(namespace.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(make).result()
