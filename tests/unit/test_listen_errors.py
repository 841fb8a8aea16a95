"""Why a socket cannot listen: one wording for every server of the project."""

import errno
import os
import socket
from pathlib import Path
from typing import Literal

import pytest

from discovery.toolkit import listen_error_reason

ME = f"{Path('/proc/self/comm').read_text().strip()} (process {os.getpid()})"
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_an_address_in_use_is_told_with_its_process(protocol: Literal["tcp", "udp"]) -> None:
    with socket.socket(type=KINDS[protocol]) as taken, socket.socket(type=KINDS[protocol]) as late:
        taken.bind(("127.0.0.1", 0))
        if protocol == "tcp":
            taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use") as caught:
            late.bind(("0.0.0.0", port))
        told = listen_error_reason(f"0.0.0.0:{port}", caught.value, protocol=protocol)
    by = f"address already in use over {protocol.upper()} by {ME}"
    assert told == f"{by}; stop that process, or choose another address"


def test_an_ipv6_socket_that_takes_ipv4_as_well_meets_the_processes_of_ipv4() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind, error = f"[::]:{taken.getsockname()[1]}", OSError(errno.EADDRINUSE, "")
        assert ME in listen_error_reason(bind, error, v6only=False)
        assert ME not in listen_error_reason(bind, error)


@pytest.mark.parametrize(
    ("bind", "number", "told"),
    [
        ("localhost:80", errno.EADDRINUSE, "address already in use over TCP; stop that process"),
        ("127.0.0.1:80", errno.EACCES, "permission denied; ports below 1024 require CAP_NET_BIND_SERVICE"),
        ("127.0.0.1:80", errno.EPERM, "permission denied; ports below 1024 require CAP_NET_BIND_SERVICE"),
        ("192.0.2.1:80", errno.EADDRNOTAVAIL, "choose an address of this machine, or 0.0.0.0:80 for all"),
        ("[2001:db8::1]:80", errno.EADDRNOTAVAIL, "choose an address of this machine, or [::]:80 for all"),
        ("[::1]:80", errno.EAFNOSUPPORT, "this machine has no IPv6; choose an IPv4 address"),
        ("127.0.0.1:80", errno.EMFILE, "Too many open files"),
        ("/nowhere/x", errno.ENOENT, "there is no directory /nowhere; create it, or choose another path"),
        ("/proc/x", errno.EACCES, "permission denied; the directory /proc has to be writable"),
        ("/etc/passwd", errno.EADDRINUSE, "there is a file that is no socket; remove the file"),
    ],
)  # fmt: skip
def test_every_other_reason_has_a_remedy(bind: str, number: int, told: str) -> None:
    assert told in listen_error_reason(bind, OSError(number, os.strerror(number)))


def test_a_unix_socket_in_use_is_told_with_its_process(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(path)
        taken.listen()
        told = listen_error_reason(path, OSError(errno.EADDRINUSE, ""))
    assert told == f"socket already in use by {ME}; stop that process, or choose another path"


def test_a_name_that_cannot_be_looked_up_is_told_so() -> None:
    error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    assert listen_error_reason("nowhere.invalid:80", error) == "Name or service not known"
