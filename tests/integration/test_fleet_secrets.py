"""The token of a fleet: daemons prove to each other that they have it, and nobody else learns it."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fleets import record
from hostile import Listener, listening, response

from discovery.admin.access import Access
from discovery.admin.credentials import SCHEME, challenge
from discovery.admin.port import AdminPort
from discovery.admin.sources import Sources
from discovery.admin.status import DaemonStatus
from discovery.codec import Record, decode
from discovery.fleet.announcement import Announcement, announcement_of
from discovery.fleet.asking import Answered, Asking
from discovery.fleet.settings import OWN_MACHINE
from discovery.system.lookups import Found, Lookups
from discovery.testing import free_port, within

TOKEN = "t0ken-of-the-fleet-" + "x" * 32
OTHER = "another-token-" + "y" * 32
MACHINE = "here"
ID = f"{1:016x}"
UNKNOWN = "it does not know the token of the fleet, so its answer is not believed"
DOCUMENT = {"id": ID, "status": "ok", "ready": True, "backends": 7}


def announced(port: int, **fields: object) -> Announcement:
    read = decode(f"daemons/{ID}", json.dumps(record(port, machine=MACHINE, **fields)).encode())
    assert isinstance(read, Record), read
    return announcement_of(read.backend)


@asynccontextmanager
async def daemon(token: str | None, hosts: tuple[str, ...] = ()) -> AsyncIterator[int]:
    """The admin endpoint of a daemon that has a token; yields its port."""
    status = DaemonStatus("etcd://127.0.0.1:2379")
    port = AdminPort(
        Sources(lambda: status, hosts=lambda: hosts, daemon=lambda: DOCUMENT, access=lambda: Access(token))
    )
    number = free_port()
    await port.start("127.0.0.1", number)
    try:
        yield number
    finally:
        await port.close()


def asking(token: str | None = TOKEN) -> Asking:
    async def look_up(host: str) -> Found:
        return await Lookups(1)(host)

    return Asking(MACHINE, OWN_MACHINE, look_up, within(10), token=lambda: token)


async def told(ask: Asking, announcement: Announcement) -> Answered:
    return (await ask.ask(announcement, [ID]))[ID]


def assert_secret_kept(listener: Listener) -> None:
    assert TOKEN not in listener.text
    assert "bearer" not in listener.text.lower()


async def test_daemons_with_one_token_tell_each_other_how_they_are() -> None:
    async with daemon(TOKEN) as port:
        answered = await told(asking(), announced(port))
        assert answered.told is not None, answered.reason
        assert answered.told["backends"] == 7
        assert (await told(asking(None), announced(port))).reason is not None


@pytest.mark.parametrize(
    ("theirs", "ours", "words"),
    [
        (OTHER, TOKEN, "it refuses the token of this daemon"),
        (None, TOKEN, "it does not ask for the token of the fleet"),
        (TOKEN, None, "it asks for a token, and this daemon has none"),
    ],
)
async def test_another_token_or_none_is_told(theirs: str | None, ours: str | None, words: str) -> None:
    async with daemon(theirs) as port:
        answered = await told(asking(ours), announced(port))
    assert answered.told is None
    assert str(answered.reason).startswith(words)


async def test_a_refused_token_is_not_tried_again_at_once() -> None:
    """Each attempt counts at the other side, which in the end would refuse everybody on this machine."""
    refusal = response(b"{}", "401 Unauthorized", WWW_Authenticate=challenge("n0nce"))
    async with listening(refusal) as listener:
        ask = asking()
        for _ in range(20):
            assert "refuses the token" in str((await told(ask, announced(listener.port))).reason)
        assert len(listener.received) == 2, "a request, and the proof"
        assert_secret_kept(listener)


async def test_who_does_not_know_the_token_is_not_believed_and_learns_nothing() -> None:
    asked = response(b"{}", "401 Unauthorized", WWW_Authenticate=challenge("n0nce"))
    body = json.dumps(DOCUMENT).encode()
    macs: list[str] = []

    async def lie(listener: Listener, proof: str | None) -> bytes:
        if proof is None:
            return asked
        reflected = re.findall(r'mac="([^"]*)"', proof)[0]
        macs.append(reflected)
        header = (f'{SCHEME} mac="{reflected}"', f'{SCHEME} mac="{"0" * 64}"', "")[len(macs) - 1]
        return response(body, Authentication_Info=header)

    async with answering(lie) as listener:
        for _ in range(3):
            answered = await told(asking(), announced(listener.port))
            assert answered.told is None
            assert answered.reason == UNKNOWN
        assert len(set(macs)) == 3, "a proof of the same nonce is another each time"
        assert_secret_kept(listener)


async def test_a_proof_is_of_no_use_at_another_address() -> None:
    """Who stands between passes a daemon's challenge on, and the proof back: the proof names where it was to go."""
    relayed: list[tuple[int, bytes]] = []
    async with daemon(TOKEN) as port:

        async def relay(_: Listener, proof: str | None) -> bytes:
            answer = await passed_on(port, f"127.0.0.1:{port}", proof)
            relayed.append((int(answer.split(b" ")[1]), answer))
            return answer

        async with answering(relay) as listener:
            answered = await told(asking(), announced(listener.port))
            assert answered.told is None
            assert_secret_kept(listener)
        assert [status for status, _ in relayed] == [401, 401]
        assert all(b"backends" not in answer for _, answer in relayed)
        direct = await told(asking(), announced(port))
        assert direct.told is not None, "nobody is refused for what the relay has sent"


async def test_who_stands_between_can_neither_change_an_answer_nor_give_it_again() -> None:
    """A name server that lies leads the daemon to somebody who passes all on: without TLS the answer is read there."""
    kept: list[bytes] = []
    async with daemon(TOKEN, hosts=("daemon.test",)) as port:

        async def between(_: Listener, proof: str | None) -> bytes:
            if proof is not None and kept:
                return kept[0] if len(kept) == 1 else kept.pop().replace(b'"backends": 7', b'"backends": 8')
            answer = await passed_on(port, f"daemon.test:{port}", proof)
            if proof is not None:
                kept.append(answer)
            return answer

        async def look_up(host: str) -> Found:
            assert host == "daemon.test"
            return [(socket.AF_INET, "127.0.0.2")]

        one = announced(port, host="daemon.test")
        ask = Asking(MACHINE, OWN_MACHINE, look_up, within(10), token=lambda: TOKEN)
        async with answering(between, "127.0.0.2", port) as listener:
            assert (await told(ask, one)).told is not None
            assert "backends" in kept[0].decode()
            assert (await told(ask, one)).reason == UNKNOWN, "an answer to another question"
            kept[:] = [kept[0], kept[0]]
            assert (await told(ask, one)).reason == UNKNOWN, "a changed answer"
            assert_secret_kept(listener)


async def passed_on(port: int, host: str, proof: str | None) -> bytes:
    """Ask the daemon, and return its answer as it is."""
    head = f"GET /api/daemon HTTP/1.1\r\nHost: {host}\r\n"
    head += f"Authorization: {proof}\r\n" if proof is not None else ""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{head}\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer


@asynccontextmanager
async def answering(answer: Any, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Listener]:
    """A listener that calls `answer` with itself and the value of the header Authorization, None without it."""
    holder: list[Listener] = []

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        text = holder[0].received[-1].decode()
        proof = re.search(r"\r\nAuthorization: ([^\r]*)", text)
        writer.write(await answer(holder[0], proof[1] if proof else None))
        await writer.drain()

    async with listening(serve, host, port) as listener:
        holder.append(listener)
        yield listener
