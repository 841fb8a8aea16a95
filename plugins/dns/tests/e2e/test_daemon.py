"""The plugin in the daemon: queries of clients while records change and daemons replace each other."""

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import dns.exception
import dns.message
import dns.query
import dns.rcode
import pytest
from daemons import RecordFiles, Starter

from discovery.testing import eventually_sync, free_port, within

pytestmark = pytest.mark.warm

UNDER_SYSTEMD = """
import os, socket, sys
address = ("127.0.0.1", int(sys.argv[1]))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(address)
tcp = socket.create_server(address)
moved = [os.dup2(each.fileno(), 100 + at) for at, each in enumerate((udp, tcp))]  # out of the way of each other
for at, each in enumerate(moved):
    os.set_inheritable(os.dup2(each, 3 + at), True)
os.environ |= {"LISTEN_FDS": "2", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "dns:dns"}
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Binds a port over UDP and TCP, and becomes a command with these sockets, as systemd does."""


def ask(port: int, name: str = "web", tcp: bool = False) -> list[str]:
    """The addresses of a service, or the code of the failure."""
    query = dns.message.make_query(f"{name}.service.internal.", "A")
    asking = dns.query.tcp if tcp else dns.query.udp
    answer = asking(query, "127.0.0.1", port=port, timeout=within(10))
    return [each.to_text() for rrset in answer.answer for each in rrset] or [dns.rcode.to_text(answer.rcode())]


@contextmanager
def clients(port: int) -> Iterator[tuple[list[str], list[str]]]:
    """Clients that ask again and again over both transports: the answers, and what failed."""
    answers: list[str] = []
    failures: list[str] = []
    stop = threading.Event()

    def work(tcp: bool) -> None:
        while not stop.is_set():
            try:
                answers.extend(ask(port, tcp=tcp))
            except (OSError, EOFError, dns.exception.DNSException) as error:
                failures.append(f"{'tcp' if tcp else 'udp'}: {error!r}")
            stop.wait(0.005)  # leaves the processors to the daemons

    threads = [threading.Thread(target=work, args=(tcp,)) for tcp in (False, True)]
    for thread in threads:
        thread.start()
    try:
        yield answers, failures
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_daemon_answers_and_a_successor_goes_on_without_a_failed_query(
    start_daemon: Starter, file_registry: RecordFiles
) -> None:
    url, put = file_registry
    put("web/a", "10.0.0.1:80")
    port, admin = free_port(), f"127.0.0.1:{free_port()}"
    arguments = ("--registry", url, "--plugin", "dns", "--set", f"dns.listen=127.0.0.1:{port}")
    run_dir = start_daemon.directory / "run"
    first = start_daemon(*arguments, admin=admin, run_dir=run_dir)
    eventually_sync(first.is_ready)
    assert ask(port) == ["10.0.0.1"]
    put("web/a", "10.0.0.2:80")
    eventually_sync(lambda: ask(port) == ["10.0.0.2"])
    assert ask(port, "wbe") == ["NXDOMAIN"]
    assert (
        'discovery_dns_queries_total{consumer="dns",rcode="NXDOMAIN",transport="udp",type="A"} 1.0'
        in (first.get("/metrics")[1])
    )
    with clients(port) as (answers, failures):
        second = start_daemon(*arguments, "--replace", admin=admin, run_dir=run_dir)
        eventually_sync(lambda: first.process.poll() == 0)
        eventually_sync(lambda: second.is_ready() and second.get("/api/consumers/dns")[1]["queries"] > 10)
    assert failures == []
    assert "nobody listens on an inherited socket" not in second.log
    assert set(answers) == {"10.0.0.2"}


def test_sockets_that_systemd_passes_are_served(start_daemon: Starter, file_registry: RecordFiles) -> None:
    url, put = file_registry
    put("web/a", "10.0.0.1:80")
    port = free_port()
    arguments = ("--registry", url, "--plugin", "dns", "--set", f"dns.listen=127.0.0.1:{port}")
    daemon = start_daemon(*arguments, under=[sys.executable, "-c", UNDER_SYSTEMD, str(port)])
    eventually_sync(lambda: socket.create_connection(("127.0.0.1", port)).close() is None, "the sockets to be bound")
    assert ask(port) == ["10.0.0.1"]  # the query waits in the socket
    assert ask(port, tcp=True) == ["10.0.0.1"]
    assert "is closed" not in daemon.log


def test_a_port_of_another_program_is_told_and_opened_later(start_daemon: Starter, file_registry: RecordFiles) -> None:
    url, put = file_registry
    put("web/a", "10.0.0.1:80")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        daemon = start_daemon("--registry", url, "--plugin", "dns", "--set", f"dns.listen=127.0.0.1:{port}")
        eventually_sync(lambda: "already in use over TCP by " in daemon.log)
        assert not daemon.is_ready()
    eventually_sync(daemon.is_ready, timeout=30)
    assert ask(port) == ["10.0.0.1"]
