"""The protocol between a daemon and its successor states its version; who cannot be understood is told so."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from discovery import DiscoveryError
from discovery.daemon.handover import ANSWER_SECONDS, HandoverServer, Successor
from discovery.daemon.protocol import SPOKEN, Versions, agreed
from discovery.daemon.takeover import release, take_over
from discovery.system import packets
from discovery.system.unixsocket import with_short_path
from discovery.testing import eventually

LOG = structlog.get_logger()
REQUEST = {"take_over": {"instances": {"edge": "proxy"}}}


class Daemon:
    """The answering side, with one socket to hand over."""

    def __init__(self, path: Path, answer_seconds: float = ANSWER_SECONDS) -> None:
        self.received: list[bool] = []
        self.released: list[str | None] = []
        done = self.received.append
        self.server = HandoverServer(
            path, LOG, lambda _: 5.0, self.hand_over, done, self.release, answer_seconds=answer_seconds
        )

    async def hand_over(self, _: Successor) -> Sequence[socket.socket]:
        self.server.close()
        return [socket.create_server(("127.0.0.1", 0))]

    def release(self, service: str | None) -> Sequence[str]:
        self.released.append(service)
        return ["web/a"]


@asynccontextmanager
async def daemon(path: Path, answer_seconds: float = ANSWER_SECONDS) -> AsyncIterator[Daemon]:
    it = Daemon(path, answer_seconds)
    it.server.open()
    try:
        yield it
    finally:
        it.server.close()


async def asked(path: Path, request: dict[str, Any]) -> list[dict[str, Any]]:
    """What a daemon answers to a process of another version."""
    answers = []
    with packets.new_channel() as channel:
        with_short_path(path, channel.connect)
        await packets.send(channel, request)
        try:
            while not (answers and (answers[-1].get("last") or "refused" in answers[-1])):
                answer, sockets = await packets.receive(channel)
                packets.close_all(sockets)
                answers.append(answer)
        except EOFError:
            pass
    return answers


@asynccontextmanager
async def answering(path: Path, *answers: dict[str, Any]) -> AsyncIterator[list[dict[str, Any]]]:
    """A daemon of another version, which sends `answers`, and the requests that come."""
    requests: list[dict[str, Any]] = []

    async def answer(server: socket.socket) -> None:
        channel, _ = await asyncio.get_running_loop().sock_accept(server)
        with channel:
            requests.append((await packets.receive(channel))[0])
            for each in answers:
                await packets.send(channel, each)
            with channel.dup() as open_end:
                await packets.readable(open_end.fileno())

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(str(path))
        server.listen()
        server.setblocking(False)
        task = asyncio.create_task(answer(server))
        yield requests
        await task


@pytest.mark.parametrize(
    ("one", "other", "version"),
    [((1, 2), (1, 1), 1), ((1, 2), (1, 5), 2), ((1, 2), (2, 2), 2), ((1, 2), (3, 5), None), ((4, 5), (1, 2), None)],
)
def test_two_agree_on_the_newest_version_that_both_speak(
    one: tuple[int, int], other: tuple[int, int], version: int | None
) -> None:
    assert agreed(Versions(*one), Versions(*other)) == version
    assert agreed(Versions(*other), Versions(*one)) == version


async def test_a_successor_of_the_first_version_states_none_and_is_served(tmp_path: Path) -> None:
    async with daemon(tmp_path / "daemon.sock") as it:
        first, last = await asked(tmp_path / "daemon.sock", REQUEST)
        await eventually(lambda: it.received == [True])
    assert (first["within"], first["protocol"], last["sockets"], last["last"]) == (5.0, 1, 1, True)


async def test_a_successor_of_a_later_version_that_speaks_this_one_is_served_in_this_one(tmp_path: Path) -> None:
    later = {**REQUEST, "protocol": [SPOKEN.newest, SPOKEN.newest + 7], "something": "new"}
    async with daemon(tmp_path / "daemon.sock") as it:
        first, last = await asked(tmp_path / "daemon.sock", later)
        await eventually(lambda: it.received == [True])
    assert (first["protocol"], last["last"]) == (SPOKEN.newest, True)


@pytest.mark.parametrize("request_", [REQUEST, {"release": {"service": None}}])
async def test_who_speaks_later_versions_alone_is_refused_and_told_the_way_out(
    tmp_path: Path, request_: dict[str, Any]
) -> None:
    async with daemon(tmp_path / "daemon.sock") as it:
        (answer,) = await asked(tmp_path / "daemon.sock", {**request_, "protocol": [8, 9]})
        assert answer["refused"] == (
            "it speaks versions 1 to 2 of the hand-over, and you versions 8 to 9: use a version of discovery"
            " in between, or stop it first"
        )
        assert (it.received, it.released) == ([], [])
        assert len(await asked(tmp_path / "daemon.sock", REQUEST)) == 2  # it can still be replaced


@pytest.mark.parametrize("stated", [0, "2", [2, 1], [0, 1], [1], [1, "2"], None, {}])
async def test_a_statement_that_is_none_is_answered_by_nothing_and_changes_nothing(
    tmp_path: Path, stated: object
) -> None:
    async with daemon(tmp_path / "daemon.sock") as it:
        assert await asked(tmp_path / "daemon.sock", {**REQUEST, "protocol": stated}) == []
        assert it.received == []


async def test_the_successor_states_what_it_speaks_and_takes_a_daemon_of_the_first_version(tmp_path: Path) -> None:
    answers = {"within": 1.0}, {"sockets": 0, "last": True}
    async with answering(tmp_path / "daemon.sock", *answers) as requests:
        assert await take_over(tmp_path / "daemon.sock", {"edge": "proxy"}, LOG) == ()
    assert requests == [{**REQUEST, "protocol": list(SPOKEN)}]
    assert json.loads(json.dumps(requests)) == requests


async def test_a_request_that_does_not_come_is_told_in_words_for_each_kind(tmp_path: Path) -> None:
    """A health check or a release may be the one that came too late: neither takes over."""
    with structlog.testing.capture_logs() as log:
        async with daemon(tmp_path / "daemon.sock", answer_seconds=0.01):
            with packets.new_channel() as channel:
                with_short_path(tmp_path / "daemon.sock", channel.connect)
                await eventually(lambda: log)
    assert [(each["event"], each["reason"]) for each in log] == [
        ("a request could not be answered", "nothing came, or was read, within 0.01 s")
    ]


async def test_a_refused_release_tells_the_reason_of_the_daemon(tmp_path: Path) -> None:
    async with answering(tmp_path / "daemon.sock", {"refused": "it speaks version 9"}) as requests:
        with pytest.raises(DiscoveryError, match="does not release anything: it speaks version 9"):
            await release(tmp_path / "daemon.sock", "web")
    assert requests == [{"release": {"service": "web"}, "protocol": list(SPOKEN)}]
