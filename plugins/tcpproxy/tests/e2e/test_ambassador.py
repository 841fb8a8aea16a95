"""`discovery ambassador`, used as dynamic-etcd-amb was."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import pytest
from ambassadors import TIMEOUT, Directory, StartCommand, connect, name_at
from proxies import Serve, answers

from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually_sync, free_port, require_program, within


def up_to_its_end(stream: BinaryIO) -> bytes:
    """Return the remaining data of a connection that the peer closes or resets."""
    try:
        return stream.read()
    except ConnectionResetError:
        return b""


def test_ambassador_follows_the_linked_registry(start_command: StartCommand, named: Serve) -> None:
    require_program("etcd")
    etcd = EmbeddedEtcd()
    etcd.start()
    try:
        port = free_port()
        link = {"ETCD_PORT_10000_TCP_ADDR": "127.0.0.1", "ETCD_PORT_10000_TCP_PORT": str(etcd.port)}
        run = start_command("ambassador", "apache.service", str(port), "--hold", "60", **link)
        with connect(port) as early:  # held: the service is not known yet
            early.sendall(b"hello")
            one, other = named("one"), named("other")
            etcd.ctl("put", "/services/apache.service/a1", f'{{"host": "127.0.0.1", "port": {one.port}}}')
            assert early.recv(4) == b"one\n"
            assert early.recv(5, socket.MSG_WAITALL) == b"hello"
            etcd.ctl("put", "/services/apache.service/a1", f'{{"host": "127.0.0.1", "port": {other.port}}}')
            answers(port, "other")
            early.sendall(b"again")  # what is open goes on
            assert early.recv(5, socket.MSG_WAITALL) == b"again"
        etcd.kill()
        run.logs("registry cannot be followed")
        assert name_at(port) == "other"
        assert run.stop() == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=within(TIMEOUT))
        assert "9901" not in run.log  # there is no admin endpoint
    finally:
        etcd.stop()


def test_a_dead_machine_delays_a_client_without_an_error(start_command: StartCommand, named: Serve) -> None:
    """Point 12. With the defaults: the dead machine's lease runs out, then a standby serves and is registered."""
    require_program("etcd")
    with EmbeddedEtcd() as etcd:
        port, first, second = free_port(), named("first"), free_port()
        url = {"DISCOVERY_REGISTRY": etcd.url}
        start_command("ambassador", "db", str(port), **url)
        registrar = start_command("register", "db", f"127.0.0.1:{first.port}", "--id", "main", **url)
        standby = ("register", "db", f"127.0.0.1:{second}", "--id", "standby")
        start_command(*standby, "--check", "tcp", "--check-interval", "0.2", **url).logs("once its check passes")
        answers(port, "first")
        registrar.process.kill()
        registrar.process.wait()
        first.close()
        begun = time.monotonic()
        with connect(port) as client, client.makefile("rb") as answer:
            client.settimeout(within(4 * TIMEOUT))
            client.sendall(b"ping")
            eventually_sync(lambda: not etcd.ctl("get", "/services/db/main"), "the lease to run out", TIMEOUT)
            # The standby needs a moment, so that the pause is longer than a lease in any case.
            eventually_sync(lambda: time.monotonic() > begun + 11, timeout=TIMEOUT)
            named("second", port=second)
            assert answer.read(11) == b"second\nping"


def test_ambassador_listens_on_the_given_addresses_or_on_every_address(
    start_command: StartCommand, directory: Directory, named: Serve
) -> None:
    directory.put("web", named("it", host="::1").port, "::1")
    port, everywhere = free_port(), free_port()
    start_command(
        "ambassador", "web", str(port), "--listen", "127.0.0.2", "--listen", "::1", "--registry", directory.url
    )
    assert name_at(port, "127.0.0.2") == "it"
    assert name_at(port, "::1") == "it"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=within(TIMEOUT))
    start_command("ambassador", "web", str(everywhere), DISCOVERY_REGISTRY=directory.url, ETCD_PORT_10000_TCP_ADDR="x")
    assert [name_at(everywhere, host) for host in ("127.0.0.1", "127.0.0.2")] == ["it", "it"]


def test_send_proxy_sends_the_address_of_the_client_to_the_backend(
    start_command: StartCommand, directory: Directory
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as backend:
        backend.settimeout(within(TIMEOUT))
        directory.put("web", backend.getsockname()[1])
        port = free_port()
        start_command("ambassador", "web", str(port), "--send-proxy", "v1", "--registry", directory.url)
        with connect(port) as client:
            client.sendall(b"hello\n")
            theirs, _ = backend.accept()
            with theirs, theirs.makefile("rb") as lines:
                ours = client.getsockname()[1]
                assert lines.readline() == f"PROXY TCP4 127.0.0.1 127.0.0.1 {ours} {port}\r\n".encode()
                assert lines.readline() == b"hello\n"


@pytest.mark.parametrize(("network", "believed"), [("127.0.0.0/8", True), ("10.0.0.0/8", False)])
def test_accept_proxy_accepts_headers_only_from_the_named_networks(
    start_command: StartCommand, directory: Directory, network: str, believed: bool
) -> None:
    """Point 23."""
    with socket.create_server(("127.0.0.1", 0)) as backend:
        backend.settimeout(within(TIMEOUT))
        target, ports = f"127.0.0.1:{backend.getsockname()[1]}", (free_port(), free_port())
        options = ("--accept-proxy", network, "--accept-proxy", "fd00::/8", "--send-proxy", "v1")
        directory.put("web", backend.getsockname()[1])
        start_command("ambassador", "web", str(ports[0]), "--registry", directory.url, *options)
        start_command("forward", target, "--listen", f"127.0.0.1:{ports[1]}", *options)
        header = b"PROXY TCP4 10.1.2.3 10.1.2.4 5678 80\r\n"
        for port in ports:
            with connect(port) as client:
                client.sendall(header + b"hello\n")
                theirs, _ = backend.accept()
                with theirs, theirs.makefile("rb") as lines:
                    told = b"10.1.2.3 10.1.2.4 5678 80" if believed else b"127.0.0.1 127.0.0.1 "
                    assert lines.readline().startswith(b"PROXY TCP4 " + told)
                    assert lines.readline() == (b"hello\n" if believed else header)


def test_balance_source_keeps_a_client_at_its_backend(
    start_command: StartCommand, directory: Directory, named: Serve
) -> None:
    for name in ("a", "b", "c"):
        directory.put("web", named(name).port, id_=name)
    turns, sticky = free_port(), free_port()
    start_command("ambassador", "web", str(turns), "--registry", directory.url)
    run = start_command(
        "ambassador", "web", str(sticky), "--balance", "source", "--access-log", "--registry", directory.url
    )
    assert {name_at(turns) for _ in range(6)} == {"a", "b", "c"}
    (name,) = {name_at(sticky) for _ in range(12)}
    eventually_sync(lambda: run.log.count(f"backend={name} ") == 12, "every one to be logged", TIMEOUT)


def test_hold_0_refuses_clients_and_idle_timeout_ends_idle_connections(
    start_command: StartCommand, directory: Directory, named: Serve
) -> None:
    port = free_port()
    start_command(
        "ambassador", "web", str(port), "--hold", "0", "--idle-timeout", "0.3", "--workers", "2",
        "--registry", directory.url,
    )  # fmt: skip
    with connect(port) as client, client.makefile("rb") as answer:
        assert up_to_its_end(answer) == b""
    directory.put("web", named("it").port)
    answers(port, "it")
    with connect(port) as client, client.makefile("rb") as answer:
        assert answer.readline() == b"it\n"
        assert up_to_its_end(answer) == b""


@contextmanager
def taken(*hosts: str) -> Iterator[int]:
    """A port that is listened on already, at the given addresses."""
    port = free_port()
    with socket.create_server((hosts[0], port)):
        yield port


def test_the_log_names_the_process_that_has_a_port_and_the_port_is_opened_later(
    start_command: StartCommand, directory: Directory, named: Serve
) -> None:
    directory.put("web", named("it").port)
    with taken("127.0.0.1") as port:
        run = start_command("ambassador", "web", str(port), "--registry", directory.url)
        run.logs(f"cannot listen on 0.0.0.0:{port}: address already in use")
        assert f"(process {os.getpid()})" in run.log
    answers(port, "it")
    assert run.stop() == 0


def test_the_log_names_the_remedy_for_a_privileged_port(start_command: StartCommand, directory: Directory) -> None:
    least = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    port = next((port for port in range(least - 1, 0, -1) if _is_free(port)), 0)
    if not port:
        return  # there are none here
    require_program("setpriv", wheel=False)
    capability = "-net_bind_service"
    under = ("setpriv", f"--bounding-set={capability}", f"--inh-caps={capability}") if os.geteuid() == 0 else ()
    run = start_command("ambassador", "web", str(port), "--registry", directory.url, under=under)
    run.logs(f"cannot listen on 0.0.0.0:{port}: permission denied")
    assert "CAP_NET_BIND_SERVICE" in run.log


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except PermissionError:
            return True
        except OSError:
            return False
    return True


def test_a_second_ambassador_at_the_same_address_is_refused(
    start_command: StartCommand, directory: Directory, named: Serve
) -> None:
    directory.put("web", named("it").port)
    port, another = free_port(), free_port()
    first = start_command("ambassador", "web", str(port), "--registry", directory.url)
    answers(port, "it")
    second = start_command("ambassador", "web", str(port), "--registry", directory.url)
    assert second.process.wait(within(TIMEOUT)) == 1
    assert f"process {first.process.pid}" in second.log
    start_command("ambassador", "web", str(another), "--registry", directory.url)
    answers(another, "it")
    assert name_at(port) == "it"


def test_a_stop_ends_idle_connections_at_once_and_busy_connections_have_time(
    start_command: StartCommand, directory: Directory, named: Serve
) -> None:
    """Point 13. Docker kills what has not ended ten seconds after it was told to stop."""
    directory.put("web", named("it").port)
    port, other = free_port(), free_port()
    run = start_command("ambassador", "web", str(port), "--workers", "2", "--registry", directory.url)
    with ExitStack() as stack:
        idle = []
        for _ in range(8):
            client = stack.enter_context(connect(port))
            idle.append(stack.enter_context(client.makefile("rb")))
            client.sendall(b"ping")
            assert idle[-1].read(7) == b"it\nping"
        begun = time.monotonic()
        assert run.stop() == 0
        took = time.monotonic() - begun
        assert [each.read() for each in idle] == [b""] * len(idle)
    assert took < 25, took  # 4 s where nothing else runs; busy connections would have 30 s
    run = start_command("ambassador", "web", str(other), "--registry", directory.url)
    with connect(other) as busy, busy.makefile("rb") as answers, connect(other) as idler:
        assert answers.read(3) == b"it\n"
        assert idler.recv(10) == b"it\n"
        run.process.terminate()
        idler.settimeout(0.1)
        while True:
            busy.sendall(b"ping")
            assert answers.read(4) == b"ping"
            with suppress(TimeoutError):
                assert idler.recv(1) == b""
                break
        assert run.process.poll() is None
    assert run.process.wait(within(TIMEOUT)) == 0


@pytest.mark.parametrize(
    "options", [["--on-leave", "close"], ["--drain", "0.2"], ["--on-leave", "close", "--drain", "0.2"]]
)
def test_on_leave_and_drain_end_connections_to_a_removed_backend(
    start_command: StartCommand, directory: Directory, named: Serve, options: list[str]
) -> None:
    """Point 11."""
    directory.put("web", named("one").port)
    port = free_port()
    start_command("ambassador", "web", str(port), "--registry", directory.url, *options)
    with connect(port) as client, client.makefile("rb") as answer:
        assert answer.readline() == b"one\n"
        directory.put("web", named("other").port)
        assert up_to_its_end(answer) == b""
    answers(port, "other")


@pytest.mark.parametrize("command", ["ambassador", "forward"])
def test_drain_limits_busy_connections_during_a_stop(
    start_command: StartCommand, directory: Directory, named: Serve, command: str
) -> None:
    """Point 11."""
    server, port = named("it"), free_port()
    directory.put("web", server.port)
    ambassador = ("web", str(port), "--registry", directory.url)
    forward = (f"127.0.0.1:{server.port}", "--listen", f"127.0.0.1:{port}", "--on-leave", "continue")
    run = start_command(command, *(ambassador if command == "ambassador" else forward), "--drain", "0.5")
    with connect(port) as client, client.makefile("rb") as answer:
        assert answer.readline() == b"it\n"
        run.process.terminate()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):  # noqa: PT012 - whichever notices
            while True:  # it is never idle
                client.sendall(b"ping")
                assert answer.read(4) == b"ping"
                time.sleep(0.01)
    assert run.process.wait(within(TIMEOUT)) == 0
