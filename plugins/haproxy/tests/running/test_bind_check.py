"""Which addresses can be listened on, asked of the kernel."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from discovery.testing import cannot_run, free_port
from discovery_haproxy.deployment.bind_check import any_is_free, bind_faults, find_bind_faults, is_free
from discovery_haproxy.deployment.vantage import Vantage

nobody: frozenset[int] = frozenset()


def fault(bind: str, own_pids: Collection[int] = nobody) -> str:
    """Return the reason why HAProxy cannot listen on the address; '' if there is none."""
    return bind_faults([bind], lambda: Vantage(frozenset(own_pids), network=True, files=True, rights=True)).get(
        bind, ""
    )


@pytest.fixture
def port() -> Iterator[int]:
    """A port that this process listens on, on 127.0.0.1, as HAProxy would: open to sharing."""
    with closing(socket.socket()) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        port = free_port()
        listener.bind(("127.0.0.1", port))
        listener.listen()
        yield port


@pytest.mark.parametrize("bind", ["127.0.0.1:{}", "0.0.0.0:{}", "*:{}", ":{}", "localhost:{}"])
def test_an_address_in_use_is_reported_with_its_holder(port: int, bind: str) -> None:
    assert re.search(rf"is in use by \S+ \(process {os.getpid()}\)", fault(bind.format(port)))


@pytest.mark.parametrize("bind", ["127.0.0.1:{}", "0.0.0.0:{}"])
def test_an_address_of_the_own_haproxy_is_free(port: int, bind: str) -> None:
    assert not fault(bind.format(port), {os.getpid()})


def test_a_listener_on_another_address_does_not_matter(port: int) -> None:
    assert not fault(f"127.0.0.2:{port}")


def test_own_listeners_are_free_beside_another_program_on_another_address(port: int) -> None:
    script = f"import socket as s; _ = s.create_server(('127.0.0.2', {port})); print(flush=True); input()"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as stranger:
        assert stranger.stdout is not None
        stranger.stdout.readline()
        assert not fault(f"127.0.0.1:{port}", {os.getpid()})
        assert re.search(f"in use by .*process {stranger.pid}", fault(f"127.0.0.2:{port}", {os.getpid()}))
        stranger.communicate(b"\n")


def test_ipv6_addresses_are_checked() -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        cannot_run("there is no IPv6 here")
    with listener:
        port = listener.getsockname()[1]
        assert re.search(r"bind \[::1\]:\d+ is in use by .*process", fault(f"[::1]:{port}"))
        assert not fault(f"[::1]:{port}", {os.getpid()})
    assert not fault(f"[::]:{free_port()}")


def test_an_address_of_another_machine_is_reported_as_such() -> None:
    assert re.search(r"bind 192.0.2.1:80 is not an address of this machine", fault("192.0.2.1:80"))


def test_a_check_leaves_no_listener_behind() -> None:
    bind = f"127.0.0.1:{free_port()}"
    for _ in range(3):
        assert not fault(bind)


def test_a_port_in_time_wait_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        client = socket.create_connection(address)
        accepted, _ = server.accept()
        accepted.close()  # we close first, so that the port lingers in TIME_WAIT
        client.close()
    assert not fault(f"127.0.0.1:{address[1]}")


def test_a_socket_in_use_is_reported_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert not fault(str(path))  # left behind, as far as one can tell
        listener.listen()
        assert re.search(f"s is in use by .*process {os.getpid()}", fault(str(path)))
        assert not fault(str(path), {os.getpid()})


def test_a_socket_that_outlives_the_process_which_bound_it_belongs_to_its_heirs(tmp_path: Path) -> None:
    path = tmp_path / "s"
    # As HAProxy without a master does in a reload: the old process binds and listens, the new process gets the socket.
    script = (
        "import os, socket; s = socket.socket(socket.AF_UNIX); pid = os.getpid();"
        f"name = f'{path}.{{pid}}.tmp'; s.bind(name); s.listen(); os.rename(name, '{path}');"
        "child = os.fork(); child and (print(child, flush=True), os._exit(0)); os.read(0, 1)"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        heir = int(process.stdout.readline())
        process.wait()
        try:
            assert not fault(str(path), {heir})
            assert re.search(f"s is in use by .*process {heir}", fault(str(path)))
        finally:
            os.kill(heir, signal.SIGKILL)


@pytest.mark.parametrize("kind", ["tcp", "path", "abstract"])
def test_an_address_whose_holder_ends_during_the_check_is_free(tmp_path: Path, kind: str) -> None:
    port = free_port()
    bind, place = {
        "tcp": (f"127.0.0.1:{port}", f"('127.0.0.1', {port})"),
        "path": (f"{tmp_path}/web.sock", f"'{tmp_path}/web.sock'"),
        "abstract": (f"abns@web{port}", f"b'\\0web{port}'.ljust(108, b'\\0')"),
    }[kind]
    family = "AF_INET" if kind == "tcp" else "AF_UNIX"
    script = f"import socket as s; a = s.socket(s.{family}); a.bind({place}); a.listen(); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert f"process {holder.pid}" in fault(bind)

        def vantage() -> Vantage:
            holder.kill()
            holder.wait()
            return Vantage(nobody, network=True, files=True, rights=True)

        assert bind_faults([bind], vantage) == {}


def test_a_socket_needs_its_directory_and_a_short_path(tmp_path: Path) -> None:
    assert re.search("cannot be made: .*/no is not a directory", fault(str(tmp_path / "no" / "s")))
    assert re.search("more than 97 bytes", fault(f"/{'x' * 100}"))


@pytest.mark.parametrize("bind", ["fd@3", "no-such-host.invalid:80", "127.0.0.1:{port} namespace blue", "127.0.0.1:$P"])
def test_what_cannot_be_judged_passes(port: int, bind: str) -> None:
    assert not fault(bind.format(port=port))
    assert is_free(bind.format(port=port))


def test_each_port_of_a_range_is_checked(port: int) -> None:
    assert re.search(rf"bind 127.0.0.1:{port} is in use by", fault(f"127.0.0.1:{port - 1}-{port}"))
    assert not fault(f"127.0.0.1:{port}-{port}", {os.getpid()})
    assert not is_free(f"127.0.0.1:{port - 1}-{port}")


@pytest.mark.parametrize("form", ["ipv4@127.0.0.1:{}", "tcp@127.0.0.1:{}", "127.0.0.1:{} transparent", "*:{} v4v6"])
def test_prefixes_and_options_do_not_hide_an_address_in_use(port: int, form: str) -> None:
    assert re.search(rf"in use by .*process {os.getpid()}", fault(form.format(port)))
    assert not fault(form.format(port), {os.getpid()})


def test_an_address_of_another_machine_can_be_bound_transparently() -> None:
    assert not fault(f"192.0.2.1:{free_port()} transparent")
    assert not fault(f"[2001:db8::1]:{free_port()} transparent") or not socket.has_ipv6


def test_an_ipv6_address_leaves_ipv4_alone_on_request(port: int) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        cannot_run("there is no IPv6 here")
    for shared in ("[::]:{} v4v6", "ipv6@:{} v4v6"):
        assert re.search("in use", fault(shared.format(port)))
    for alone in ("[::]:{} v6only", "ipv6@*:{} v6only"):
        assert not fault(alone.format(port))


def test_a_missing_network_interface_is_reported(port: int) -> None:
    address = f"127.0.0.1:{free_port()}"
    reason = f"bind {address} cannot be used: there is no network interface nope0"
    assert fault(f"{address} interface nope0") in (reason, "")  # as an ordinary user an old kernel does not tell
    assert not fault(f"{address} interface lo")
    assert re.search("in use", fault(f"127.0.0.1:{port} interface lo"))


def test_a_udp_address_in_use_is_reported_with_its_holder() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        for form in (f"quic4@127.0.0.1:{port}", f"udp@127.0.0.1:{port}", f"quic4@:{port}"):
            assert re.search(rf"in use by .*process {os.getpid()}", fault(form))
            assert not fault(form, {os.getpid()})
            assert not is_free(form)
        assert not fault(f"quic4@127.0.0.2:{port}")
    assert is_free(f"quic4@127.0.0.1:{port}")


def test_an_abstract_socket_in_use_is_reported_with_its_holder() -> None:
    name = f"discovery-{os.getpid()}-{free_port()}"
    assert not fault(f"abns@{name}")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(b"\0" + name.encode().ljust(107, b"\0"))
        assert re.search(rf"abns@{name} is in use by .*process {os.getpid()}", fault(f"abns@{name}"))
        listener.listen()
        assert re.search(rf"abns@{name} is in use by .*process {os.getpid()}", fault(f"abns@{name}"))
        assert not fault(f"abns@{name}", {os.getpid()})
        assert not is_free(f"abns@{name}")
    assert is_free(f"abns@{name}")


async def test_a_host_name_is_looked_up_beside_the_loop(port: int) -> None:
    """A name server that does not answer must not stop the consumer."""
    places: list[bool] = []
    watched, loop = True, threading.get_ident()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watched and event == "socket.getaddrinfo" and arguments[0] == "localhost":
            places.append(threading.get_ident() == loop)

    sys.addaudithook(watch)  # stays until the process ends
    try:
        seen = Vantage(nobody, network=True, files=True, rights=True)
        assert "is in use" in (await find_bind_faults([f"localhost:{port}"], lambda: seen))[f"localhost:{port}"]
        assert not await any_is_free([f"localhost:{port}"])
        assert await any_is_free([f"localhost:{free_port()}", f"localhost:{port}"])
    finally:
        watched = False
    assert places
    assert not any(places)


@pytest.mark.parametrize(
    "listener",
    ["s.socket(s.AF_UNIX); found.bind(where); found.listen()", "s.create_server(('127.0.0.1', int(where[10:])))"],
    ids=["path", "port"],
)
def test_an_address_that_nobody_has_any_more_is_awaited(listener: str, tmp_path: Path) -> None:
    """As of a HAProxy that was killed: the search of processes does not find what the kernel has not closed yet."""
    bind = str(tmp_path / "s") if "UNIX" in listener else f"127.0.0.1:{free_port()}"
    send = "s.send_fds(s.socket(fileno=0), [b'x'], [found.fileno()])"
    script = f"import socket as s, sys; where = sys.argv[1]; found = {listener}; {send}"
    ours, theirs = socket.socketpair()
    with ours, theirs:  # the socket is on its way, and open in no process, until this end is closed
        subprocess.run([sys.executable, "-c", script, bind], stdin=theirs, check=True)
        theirs.close()
        assert not is_free(bind)
        closing_soon = threading.Timer(0.1, ours.close)
        closing_soon.start()
        assert not fault(bind)
        closing_soon.join()
