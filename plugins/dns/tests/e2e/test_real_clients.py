"""Real programs in front of the server: dnsmasq as the resolver of a machine, and dnsperf as many clients."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import dns.rcode
import pytest
from daemons import RecordFiles, Starter

from discovery.testing import eventually_sync, free_port, require_program, within

pytestmark = [pytest.mark.warm, pytest.mark.swap]


@pytest.fixture
def port(start_daemon: Starter, file_registry: RecordFiles) -> int:
    """The port of a server for the registry."""
    url, put = file_registry
    put("web/a", "10.0.0.1:80")
    put("web/b", "[2001:db8::1]:81")
    port = free_port()
    daemon = start_daemon(
        "--registry", url, "--plugin", "dns", "--set", f"dns.listen=127.0.0.1:{port}", "--set", "dns.ttl=1"
    )
    eventually_sync(daemon.is_ready)
    return port


@pytest.fixture
def dnsmasq(port: int) -> Iterator[int]:
    """The port of a dnsmasq with the configuration of the README."""
    program = require_program("dnsmasq", wheel=False)
    own = free_port()
    command = [program, "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file="]
    command += ["--user=", "--listen-address=127.0.0.1", "--bind-interfaces", f"--port={own}", "--stop-dns-rebind"]
    command += [f"--server=/service.internal/127.0.0.1#{port}", "--rebind-domain-ok=/service.internal/"]
    with subprocess.Popen(command) as process:
        eventually_sync(lambda: answers(own, "web", "A"))
        yield own
        process.terminate()


def answers(port: int, name: str, kind: str) -> list[str]:
    """The data of the answer, or the code of the failure; empty if there is no answer."""
    query = dns.message.make_query(f"{name}.service.internal.", kind)
    with suppress(dns.exception.Timeout):
        answer = dns.query.udp(query, "127.0.0.1", port=port, timeout=within(2))
        return [each.to_text() for rrset in answer.answer for each in rrset] or [dns.rcode.to_text(answer.rcode())]
    return []


def test_dnsmasq_resolves_the_domain_and_follows_changes(dnsmasq: int, file_registry: RecordFiles) -> None:
    _, put = file_registry
    assert answers(dnsmasq, "web", "A") == ["10.0.0.1"]
    assert answers(dnsmasq, "web", "AAAA") == ["2001:db8::1"]
    (target,) = (each.split()[3] for each in answers(dnsmasq, "_web._tcp", "SRV") if each.startswith("0 1 80 "))
    assert answers(dnsmasq, target.removesuffix(".service.internal."), "A") == ["10.0.0.1"]
    assert answers(dnsmasq, "nothing", "A") == ["NXDOMAIN"]
    put("web/a", "10.0.0.2:80")
    eventually_sync(lambda: answers(dnsmasq, "web", "A") == ["10.0.0.2"])


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_many_clients_lose_no_query_while_a_backend_changes(
    port: int, transport: str, file_registry: RecordFiles, tmp_path: Path
) -> None:
    _, put = file_registry
    questions = tmp_path / "questions"
    names = ("web.{} A", "web.{} AAAA", "_web._tcp.{} SRV", "x.{} A")
    questions.write_text("".join(f"{name.format('service.internal')}\n" for name in names))
    command = [
        require_program("dnsperf", wheel=False),
        "-s",
        "127.0.0.1",
        "-p",
        f"{port}",
        "-d",
        f"{questions}",
        "-l",
        "3",
    ]
    with subprocess.Popen([*command, "-m", transport, "-c", "20", "-e"], stdout=subprocess.PIPE, text=True) as asking:
        for number in range(20):
            put("web/a", f"10.0.0.{number + 1}:80")
            eventually_sync(lambda number=number: answers(port, "web", "A") == [f"10.0.0.{number + 1}"])
        told, _ = asking.communicate(timeout=within(60))
    assert asking.returncode == 0
    assert re.search(r"Queries lost: +0 ", told)
    codes = dict(re.findall(r"(\w+) (\d+) \(", re.findall(r"Response codes: +(.*)", told)[0]))
    assert set(codes) == {"NOERROR", "NXDOMAIN"}
    assert sum(map(int, codes.values())) > 1000
