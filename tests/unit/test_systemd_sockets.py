"""Sockets that systemd passes: sd_listen_fds(3), in a process that was started as systemd starts one."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from discovery.testing import within

LOOK = """
import json, os, socket
from discovery.system.systemd import listen_fds
sockets, faults = listen_fds()
print(json.dumps({
    "addresses": [list(each.getsockname()) for each in sockets],
    "inherited": [os.get_inheritable(each.fileno()) for each in sockets],
    "faults": faults,
    "left": sorted(name for name in os.environ if name.startswith("LISTEN_")),
    "open": sorted(number for number in range(3, 20) if os.path.exists(f"/proc/self/fd/{number}")),
}))
"""


# Not a `preexec_fn`: a fork of a process with threads and gRPC may abort.
ARRANGE = """
import os, sys
program, *descriptors = sys.argv[1:]
high = [os.dup2(int(each), 100 + at) for at, each in enumerate(descriptors)]  # out of the way of each other
for at, each in enumerate(high):
    os.dup2(each, 3 + at)
os.closerange(3 + len(high), 256)
os.environ.setdefault("LISTEN_PID", str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-c", program])
"""


def launch(descriptors: list[int], **variables: str | None) -> dict[str, Any]:
    """What `listen_fds` finds in a process that has these descriptors from 3 on; its pid is its own unless given."""

    environment = {"LISTEN_FDS": str(len(descriptors)), "LISTEN_FDNAMES": "web", "LISTEN_PID": None, **variables}
    ended = subprocess.run(
        [sys.executable, "-c", ARRANGE, LOOK, *map(str, descriptors)],
        env={**os.environ, **{name: value for name, value in environment.items() if value is not None}},
        pass_fds=descriptors,
        capture_output=True,
        check=True,
        timeout=within(30),
    )
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


@pytest.fixture
def listening() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("::1", 0), family=socket.AF_INET6) as two:
        yield one, two


def test_listening_sockets_are_taken_and_kept_from_children(listening: tuple[socket.socket, socket.socket]) -> None:
    found = launch([each.fileno() for each in listening])
    assert found["addresses"] == [list(each.getsockname()) for each in listening]
    assert found["inherited"] == [False, False]
    assert (found["faults"], found["left"]) == ([], [])


@pytest.mark.parametrize("pid", ["1", "", "+1", "x"])
def test_those_of_another_process_are_not_ours(listening: tuple[socket.socket, socket.socket], pid: str) -> None:
    found = launch([listening[0].fileno()], LISTEN_PID=pid)
    assert (found["addresses"], found["left"], found["open"]) == ([], [], [3])


@pytest.mark.parametrize("count", ["", "-1", "two", "1.0"])
def test_a_count_that_is_none_is_told(listening: tuple[socket.socket, socket.socket], count: str) -> None:
    found = launch([listening[0].fileno()], LISTEN_FDS=count)
    assert found["addresses"] == []
    assert len(found["faults"]) == 1


def test_none_are_none() -> None:
    assert launch([], LISTEN_FDS="0")["addresses"] == launch([], LISTEN_FDS=None, LISTEN_PID="1")["addresses"] == []


def test_bound_udp_sockets_are_taken_as_well(listening: tuple[socket.socket, socket.socket]) -> None:
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as bound:
            bound.bind((host, 0))
            found = launch([bound.fileno(), listening[0].fileno()])
            assert found["addresses"] == [list(each.getsockname()) for each in (bound, listening[0])]
            assert found["faults"] == []


def test_fewer_than_announced_are_told_of_and_the_others_taken(listening: tuple[socket.socket, socket.socket]) -> None:
    found = launch([listening[0].fileno()], LISTEN_FDS="900000")
    assert found["addresses"] == [list(listening[0].getsockname())]
    assert "descriptor 4 cannot be used" in found["faults"][0]


def _connected() -> Any:
    return socket.socketpair()[0]


def _unbound_udp() -> Any:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def _connected_udp() -> Any:
    connected = _unbound_udp()
    connected.connect(("127.0.0.1", 9))
    return connected


def _unix_datagram() -> Any:
    return socket.socketpair(type=socket.SOCK_DGRAM)[0]


@pytest.mark.parametrize(
    "make", [_connected, _unbound_udp, _connected_udp, _unix_datagram, socket.socket, tempfile.TemporaryFile]
)
def test_what_is_no_listening_socket_is_closed_and_told(
    listening: tuple[socket.socket, socket.socket], make: Callable[[], Any]
) -> None:
    with make() as other:
        found = launch([other.fileno(), listening[0].fileno()])
    assert found["addresses"] == [list(listening[0].getsockname())]
    assert found["faults"] == ["descriptor 3 is no listening stream socket and no bound UDP socket, and was closed"]
    assert found["open"] == [4]
