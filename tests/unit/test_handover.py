"""The protocol between a daemon and its successor, both sides in one process."""

import asyncio
import resource
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog

from discovery import CannotStartError
from discovery.daemon.handover import HandoverRefusedError, HandoverServer, Successor
from discovery.daemon.takeover import take_over
from discovery.testing import eventually

LOG = structlog.get_logger()


class Predecessor:
    """Hands over sockets, or refuses; `counter` is open meanwhile."""

    def __init__(self, path: Path, sockets: Sequence[socket.socket] = (), refusal: str = "") -> None:
        self.sockets = sockets
        self.refusal = refusal
        self.successors: list[Successor] = []
        self.received: list[bool] = []
        self.counter = HandoverServer(path, LOG, self.accept, self.hand_over, self.received.append)

    def accept(self, successor: Successor) -> float:
        if self.refusal:
            raise HandoverRefusedError(self.refusal)
        return 5.0

    async def hand_over(self, successor: Successor) -> Sequence[socket.socket]:
        self.successors.append(successor)
        self.counter.close()
        return self.sockets


@asynccontextmanager
async def predecessor(
    path: Path, sockets: Sequence[socket.socket] = (), refusal: str = ""
) -> AsyncIterator[Predecessor]:
    it = Predecessor(path, sockets, refusal)
    it.counter.open()
    try:
        yield it
    finally:
        it.counter.close()
        assert not path.exists()


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


@pytest.mark.parametrize("count", [0, 1, 250, 251, 700])
async def test_any_number_of_sockets_is_handed_over_in_order(tmp_path: Path, count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    try:
        sockets = [listening() for _ in range(count)]
        names = [each.getsockname() for each in sockets]
        async with predecessor(tmp_path / "daemon.sock", sockets) as it:
            received = await take_over(tmp_path / "daemon.sock", {"edge": "proxy"}, LOG)
            assert [each.getsockname() for each in received] == names
            assert not any(each.get_inheritable() for each in received)
            await eventually(lambda: it.received == [True])
            assert [dict(each.instances) for each in it.successors] == [{"edge": "proxy"}]
            assert all(each.fileno() < 0 for each in sockets)
        for each in received:
            each.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


FEW_FILES = """
import asyncio, pathlib, resource, structlog, sys
from discovery.daemon.takeover import take_over
resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))
print(len(asyncio.run(take_over(pathlib.Path(sys.argv[1]), {}, structlog.get_logger()))))
"""


async def test_too_low_a_limit_of_open_files_loses_some_and_is_told(tmp_path: Path) -> None:
    async with predecessor(path := tmp_path / "daemon.sock", [listening() for _ in range(50)]) as it:
        successor = await asyncio.create_subprocess_exec(
            sys.executable, "-c", FEW_FILES, str(path), stdout=asyncio.subprocess.PIPE
        )
        output, _ = await successor.communicate()
        *log, count = output.decode().splitlines()
        assert 0 < int(count) < 50
        assert any("sockets were lost" in line and f"count={50 - int(count)}" in line for line in log)
        assert it.received == [True]


async def test_what_does_not_listen_is_not_inherited(tmp_path: Path) -> None:
    one, other = socket.socketpair()
    async with predecessor(tmp_path / "daemon.sock", [one, listening()]):
        received = await take_over(tmp_path / "daemon.sock", {"edge": "proxy"}, LOG)
        assert len(received) == 1
        received[0].close()
    other.close()


async def test_a_refusal_names_the_daemon_and_the_reason(tmp_path: Path) -> None:
    async with predecessor(tmp_path / "daemon.sock", refusal="it is closed on Sundays") as it:
        for _ in range(2):
            with pytest.raises(CannotStartError, match=r"daemon\.sock, does not let go: it is closed on Sundays"):
                await take_over(tmp_path / "daemon.sock", {"edge": "proxy"}, LOG)
        assert (it.successors, it.received) == ([], [])


async def test_one_counter_is_open_at_a_time_and_who_died_is_not_in_the_way(tmp_path: Path) -> None:
    async with predecessor(tmp_path / "daemon.sock") as it:
        with pytest.raises(CannotStartError, match="already running"):
            Predecessor(tmp_path / "daemon.sock").counter.open()
        assert await take_over(tmp_path / "daemon.sock", {}, LOG) == ()
        await eventually(lambda: it.received == [True])
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(tmp_path / "daemon.sock"))
        dead.listen()
    assert await take_over(tmp_path / "daemon.sock", {}, LOG) == ()
    async with predecessor(tmp_path / "daemon.sock"):
        assert (tmp_path / "daemon.sock").stat().st_mode & 0o777 == 0o600
    assert await take_over(tmp_path / "nobody" / "daemon.sock", {}, LOG) == ()


async def test_the_run_directory_may_have_a_path_that_is_too_long_for_an_address(tmp_path: Path) -> None:
    directory = tmp_path / ("x" * 120)
    directory.mkdir()
    async with predecessor(directory / "daemon.sock", [listening()]):
        for each in await take_over(directory / "daemon.sock", {}, LOG):
            each.close()


@pytest.mark.parametrize("answer", [b"", b"[]", b"\xff", b"{}", b'{"within": "soon"}', b'{"within": 1}', b"x" * 70_000])
async def test_an_answer_that_is_none_ends_with_a_line(tmp_path: Path, answer: bytes) -> None:
    async def answering(server: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        channel, _ = await loop.sock_accept(server)
        with channel:
            await loop.sock_recv(channel, 1000)
            if answer:
                channel.send(answer)

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(str(tmp_path / "daemon.sock"))
        server.listen()
        server.setblocking(False)
        task = asyncio.create_task(answering(server))
        # Where the other end was closed it is we, a process that does not end.
        with pytest.raises(CannotStartError, match="stop it first"):
            await take_over(tmp_path / "daemon.sock", {}, LOG)
        await task
