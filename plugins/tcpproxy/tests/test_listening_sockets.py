"""Listening sockets, with the real kernel: opened, refused with a reason, replaced, inherited."""

import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from discovery.testing import cannot_run, free_port, within
from discovery_tcpproxy.listening_sockets import (
    BACKLOG,
    CannotListenError,
    ListeningSocket,
    address_of,
    open_listening_socket,
    set_mode,
    take_inherited,
)


@pytest.fixture
def directory() -> Iterator[Path]:
    """Of a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="tp-") as directory:
        yield Path(directory)


@pytest.fixture
def listening() -> Iterator[Callable[..., ListeningSocket]]:
    """`open_listening_socket`, closed at the end."""
    opened: list[ListeningSocket] = []

    def listening(bind: str, mode: int = 0o600, name: str = "web") -> ListeningSocket:
        opened.append(open_listening_socket(name, bind, mode))
        return opened[-1]

    yield listening
    for each in opened:
        each.close()


def connects(bind: str) -> bool:
    kind = socket.AF_UNIX if bind.startswith("unix:") else socket.AF_INET6 if bind.startswith("[") else socket.AF_INET
    host, _, port = bind.rpartition(":")
    with socket.socket(kind) as client:
        client.settimeout(within(5))
        try:
            client.connect(bind.removeprefix("unix:") if kind == socket.AF_UNIX else (host.strip("[]"), int(port)))
        except OSError:
            return False
    return True


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "0.0.0.0:{}", "[::1]:{}", "[::]:{}"])
def test_a_listening_socket_has_the_address_and_options_that_workers_need(
    form: str, listening: Callable[..., ListeningSocket]
) -> None:
    bind = form.format(free_port())
    sock = listening(bind).sock
    assert address_of(sock) == bind
    assert not sock.getblocking()
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
    assert not os.get_inheritable(sock.fileno())
    assert connects(bind.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]"))


def test_the_accept_queue_has_the_length_of_the_backlog(listening: Callable[..., ListeningSocket]) -> None:
    port = free_port()
    listening(f"127.0.0.1:{port}")
    most = int(Path("/proc/sys/net/core/somaxconn").read_text())
    shown = subprocess.run(["ss", "-Hltn", f"sport = :{port}"], capture_output=True, text=True, check=True).stdout
    assert shown.split()[2] == str(min(BACKLOG, most))


def test_an_ipv6_socket_does_not_accept_ipv4(listening: Callable[..., ListeningSocket]) -> None:
    port = free_port()
    listening(f"[::]:{port}")
    assert not connects(f"127.0.0.1:{port}")
    listening(f"0.0.0.0:{port}")
    assert connects(f"127.0.0.1:{port}")


def test_the_error_for_an_address_in_use_names_the_process(listening: Callable[..., ListeningSocket]) -> None:
    bind = f"127.0.0.1:{free_port()}"
    listening(bind)
    with pytest.raises(CannotListenError) as caught:
        open_listening_socket("web", bind, 0o600)
    name = Path("/proc/self/comm").read_text().strip()
    assert str(caught.value) == (
        f"listener web cannot listen on {bind}: address already in use over TCP by {name} (process {os.getpid()});"
        " stop that process, or choose another address"
    )


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(CannotListenError, match=r"cannot listen on 192\.0\.2\.1:80\d\d: this machine does not have"):
        open_listening_socket("web", "192.0.2.1:8080", 0o600)


def test_the_error_for_a_privileged_port_names_the_remedy() -> None:
    script = (
        "import os, socket\n"
        "from discovery_tcpproxy.listening_sockets import open_listening_socket, CannotListenError\n"
        "os.setgid(65534), os.setuid(65534)\n"
        "try: open_listening_socket('web', '127.0.0.1:80', 0o600)\n"
        "except CannotListenError as error: print(error)\n"
    )
    if os.geteuid() != 0:
        cannot_run("takes root, to become somebody who is not")
    least = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if least.exists() and int(least.read_text()) <= 80:
        cannot_run("here nobody needs a privilege for port 80")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(
        "listener web cannot listen on 127.0.0.1:80: permission denied; ports below 1024 require"
    )


def test_a_unix_socket_has_its_mode_and_close_removes_the_file(directory: Path) -> None:
    path = directory / "web.sock"
    opened = open_listening_socket("web", f"unix:{path}", 0o660)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    set_mode(opened, 0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert connects(f"unix:{path}")
    opened.close()
    assert not path.exists()


def test_the_unix_socket_of_a_dead_process_is_replaced_and_a_live_socket_is_kept(
    directory: Path, listening: Callable[..., ListeningSocket]
) -> None:
    path = directory / "web.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    assert path.exists()
    live = listening(f"unix:{path}")
    with pytest.raises(CannotListenError, match=r"socket already in use by .*\(process \d+\); stop that"):
        open_listening_socket("web", f"unix:{path}", 0o600)
    assert connects(f"unix:{path}")
    assert live.has_file()


def test_a_file_that_is_no_socket_is_kept(directory: Path) -> None:
    path = directory / "web.sock"
    path.write_text("precious")
    with pytest.raises(CannotListenError, match="there is a file that is no socket"):
        open_listening_socket("web", f"unix:{path}", 0o600)
    assert path.read_text() == "precious"


def test_the_error_names_a_missing_directory(directory: Path) -> None:
    with pytest.raises(CannotListenError, match=f"there is no directory {directory}/no"):
        open_listening_socket("web", f"unix:{directory}/no/web.sock", 0o600)


def test_close_keeps_the_file_of_a_later_socket(directory: Path, listening: Callable[..., ListeningSocket]) -> None:
    path = directory / "web.sock"
    ours = open_listening_socket("web", f"unix:{path}", 0o600)
    path.rename(directory / "aside")  # keeps the inode taken
    listening(f"unix:{path}")
    ours.close()
    assert connects(f"unix:{path}")


@pytest.mark.parametrize("kind", ["ipv4", "ipv6", "unix"])
def test_an_inherited_socket_is_taken_by_its_address(
    kind: str, directory: Path, listening: Callable[..., ListeningSocket]
) -> None:
    port = free_port()
    bind = {"ipv4": f"127.0.0.1:{port}", "ipv6": f"[::1]:{port}", "unix": f"unix:{directory}/web.sock"}[kind]
    theirs = listening(bind).sock.dup()
    other = listening(f"127.0.0.1:{free_port()}").sock
    plain = socket.socket()
    taken = take_inherited((plain, other, theirs), bind, 0o640)
    assert taken is not None
    assert (theirs.fileno(), other.fileno() >= 0, plain.fileno() >= 0) == (-1, True, True)
    assert connects(bind)
    assert take_inherited((plain, other, theirs), bind, 0o640) is None
    if kind == "unix":
        assert stat.S_IMODE((directory / "web.sock").stat().st_mode) == 0o640
    taken.close(for_good=False)
    assert (directory / "web.sock").exists() == (kind == "unix")
    plain.close()


def test_a_socket_that_does_not_listen_has_no_address() -> None:
    with socket.socket() as plain, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        plain.bind(("127.0.0.1", 0))
        assert address_of(plain) is None
        assert address_of(datagrams) is None
