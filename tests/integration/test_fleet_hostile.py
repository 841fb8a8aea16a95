"""A hostile record harms its own row alone, and nobody who listens at its address learns a secret."""

import asyncio
import json
import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

from fleets import record
from hostile import Answer, Listener, endless_body, endless_headers, listening, response, silence, slow_body

from discovery.codec import Record, decode
from discovery.fleet.announcement import Announcement, announcement_of, backend_of
from discovery.fleet.asking import Answered, Asking
from discovery.fleet.settings import OWN_MACHINE
from discovery.fleet.survey import MOST_ASKED, Survey
from discovery.model import Snapshot
from discovery.system.lookups import Found
from discovery.testing import within

MACHINE = "here"
SECONDS = within(4)
"""Seconds for each daemon: enough for those that answer, on a busy machine."""
NAMES: Mapping[str, Found] = {
    "inside.test": [(socket.AF_INET, "127.0.0.1")],
    "outside.test": [(socket.AF_INET, "192.0.2.1")],
    "mapped.test": [(socket.AF_INET6, "::ffff:192.0.2.1")],
    "scoped.test": [(socket.AF_INET6, "fe80::1%lo")],
    "both.test": [(socket.AF_INET, "192.0.2.1"), (socket.AF_INET, "127.0.0.1")],
}


async def look_up(host: str) -> Found:
    """Look names up as a name server of the attacker's would answer."""
    if host in NAMES:
        return NAMES[host]
    if host == "never.test":
        await asyncio.sleep(3600)
    if host == "unknown.test":
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return [(socket.AF_INET6 if ":" in host else socket.AF_INET, host)]


def announced(number: int, port: int, **fields: object) -> Announcement:
    value = json.dumps(record(port, machine=MACHINE, **fields)).encode()
    read = decode(f"daemons/{number:016x}", value)
    assert isinstance(read, Record), read
    return announcement_of(read.backend)


def own_document(number: int, **fields: Any) -> bytes:
    return json.dumps({"id": f"{number:016x}", "status": "ok", "ready": True, "backends": 3, **fields}).encode()


def asking(seconds: float = SECONDS, networks: tuple[str, ...] = OWN_MACHINE) -> Asking:
    return Asking(MACHINE, networks, look_up, seconds)


async def told_by(announcement: Announcement, ask: Asking) -> Answered:
    return (await ask.ask(announcement, [announcement.id]))[announcement.id]


async def surveyed(announcements: list[Announcement], ask: Asking, **options: float) -> dict[str, Answered]:
    async def read(_: float) -> Snapshot:
        return Snapshot.of(1, [backend_of(each) for each in announcements])

    survey = Survey(read, ask.ask, "f" * 16, lambda: Answered(None), **options)
    return {each.announcement.id: each.answered for each in (await survey.survey()).members}


async def test_each_hostile_answer_harms_its_own_row_alone() -> None:
    huge = response(b"[" * 60_000)
    late = (f"it has not answered within {SECONDS:g} s", "not asked in time")  # the second on a busy machine
    answers: dict[str, tuple[Answer | bytes, str | tuple[str, ...]]] = {
        "redirect": (
            response(b"", "302 Found", Location="http://127.0.0.1:{elsewhere}/"),
            "it answers with status 302",
        ),
        "endless body": (endless_body, "its answer has more than 65536 bytes"),
        "endless headers": (endless_headers, ""),
        "slow body": (slow_body, late),
        "silence": (silence, late),
        "nested JSON": (huge, "what answers is no daemon: the answer is no JSON"),
        "no object": (response(b"[]"), "what answers is no daemon of this version"),
        "compressed": (response(b"\x1f\x8b" + b"0" * 100, Content_Encoding="gzip"), "what answers is no daemon: the"),
        "another id": (response(own_document(1234)), "another daemon answers at its address"),
        "not found": (response(b"", "404 Not Found"), "what answers is no daemon, or one of an earlier version"),
        "no HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n", ""),
        "long number": (
            response(b'{"status": "ok", "id": "x", "n": ' + b"9" * 5000 + b"}"),
            "what answers is no daemon",
        ),
    }
    async with AsyncExitStack() as stack:
        elsewhere = await stack.enter_async_context(listening(response(b"{}")))
        good = await stack.enter_async_context(listening(response(own_document(0))))
        listeners: list[Listener] = []
        for each, _ in answers.values():
            answer = each.replace(b"{elsewhere}", str(elsewhere.port).encode()) if isinstance(each, bytes) else each
            listeners.append(await stack.enter_async_context(listening(answer)))
        announcements = [announced(0, good.port)]
        announcements += [announced(number, each.port) for number, each in enumerate(listeners, 1)]
        async with asyncio.timeout(within(30)):
            told = await surveyed(announcements, asking())
    assert (told[f"{0:016x}"].told or {}).get("backends") == 3, told[f"{0:016x}"]
    for number, (name, (_, words)) in enumerate(answers.items(), 1):
        answered = told[f"{number:016x}"]
        assert answered.told is None, name
        assert answered.reason is not None, name
        assert answered.reason.startswith(words), (name, answered.reason)
        assert answered.reason.isprintable(), name
        assert len(answered.reason) <= 200, name
    assert elsewhere.received == [], "no redirect is followed"
    for listener in listeners:
        assert listener.text.startswith("GET /api/daemon HTTP/1.1\r\n")
        assert not {"authorization", "cookie"} & {
            line.partition(":")[0].lower() for line in listener.text.split("\r\n")
        }


async def test_an_address_outside_the_networks_is_not_connected_to() -> None:
    async with listening(response(own_document(1))) as listener:
        port = listener.port
        outside = asking(networks=("10.0.0.0/8",))
        none = asking(networks=())
        for ask in (outside, none):
            told = await told_by(announced(1, port), ask)
            assert told.told is None
            assert "127.0.0.1 is in none of the networks that are asked" in str(told.reason)
        for host in ("outside.test", "mapped.test"):
            told = await told_by(announced(1, port, host=host), asking())
            assert "in none of the networks" in str(told.reason), host
        assert "cannot be looked up" in str((await told_by(announced(1, port, host="unknown.test"), asking())).reason)
        assert "not answered" in str((await told_by(announced(1, port, host="never.test"), asking(0.2))).reason)
        assert "its admin endpoint listens on the loopback of elsewhere" in str(
            (await told_by(announced(1, port)._replace(machine="elsewhere"), asking())).reason
        )
        for host in ("inside.test", "localhost", "::ffff:127.0.0.1", "127.9.9.9"):  # of another machine
            told = await told_by(announced(1, port, host=host)._replace(machine="elsewhere"), asking())
            assert "its admin endpoint listens on the loopback of elsewhere" in str(told.reason), host
        told = await told_by(announced(1, port, host="both.test")._replace(machine="elsewhere"), asking())
        assert "192.0.2.1 is in none of the networks" in str(told.reason)
        scoped = asking(networks=("fe80::/10",))
        assert (await told_by(announced(1, port, host="scoped.test"), scoped)).told is None
        assert listener.received == []
        for host in ("inside.test", "both.test", "::ffff:127.0.0.1"):  # the address within is the one connected to
            assert (await told_by(announced(1, port, host=host), asking())).told is not None, host
        assert len(listener.received) == 3


async def test_an_answer_is_believed_in_parts_that_are_valid_alone() -> None:
    hostile = {
        "version": "1\x1b[31m",
        "backends": -1,
        "revision": 10**30,
        "lag_seconds": float("nan"),
        "connected": "yes",
        "problems": {f"name {number}\n": "x" * 400 for number in range(100)},
        "waiting_for": [["nested"], "web"],
        "degraded": "text",
    }
    async with listening(response(own_document(1, **hostile))) as listener:
        told = (await told_by(announced(1, listener.port), asking())).told
    assert told is not None
    assert told["version"] == "1\\x1b[31m"
    assert [told[name] for name in ("backends", "revision", "lag_seconds", "connected")] == [None] * 4
    assert len(told["problems"]) == 20
    assert all(each.isprintable() and len(each) <= 204 for pair in told["problems"].items() for each in pair)
    assert told["waiting_for"] == ["web"]


async def test_very_many_silent_daemons_do_not_hide_those_that_answer() -> None:
    async with listening(silence, "0.0.0.0") as silent, listening(response(own_document(2**63))) as good:
        hosts = [f"127.0.{number // 250}.{number % 250 + 1}" for number in range(MOST_ASKED + 20)]
        many = [announced(number, silent.port, host=host) for number, host in enumerate(hosts)]
        known = announced(2**63, good.port)
        ask = asking(within(3))
        listing = [known]

        async def read(_: float) -> Snapshot:
            return Snapshot.of(1, [backend_of(each) for each in listing])

        survey = Survey(read, ask.ask, "f" * 16, lambda: Answered(None), all_seconds=within(4), fresh_seconds=0.0)
        assert [each.answered.told is not None for each in (await survey.survey()).members] == [True]
        listing += many
        members = {each.announcement.id: each.answered for each in (await survey.survey()).members}
    assert members[known.id].told is not None
    reasons = {each.reason for id_, each in members.items() if id_ != known.id}
    assert reasons >= {f"it has not answered within {within(3):g} s", f"not asked in time: all have {within(4):g} s"}
    assert f"not asked: {MOST_ASKED} others were" in reasons


async def test_an_address_that_many_records_name_is_asked_once() -> None:
    async with listening(response(own_document(7))) as listener:
        told = await surveyed([announced(number, listener.port) for number in range(50)], asking())
    assert len(listener.received) == 1
    assert [id_ for id_, answered in told.items() if answered.told is not None] == [f"{7:016x}"]
    assert {answered.reason for answered in told.values()} == {None, "another daemon answers at its address"}


async def test_a_fleet_of_two_hundred_is_told_whole() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = int(writer.get_extra_info("sockname")[0].rpartition(".")[2])
        writer.write(response(own_document(number)))
        await writer.drain()

    async with listening(answer, "0.0.0.0") as listener:
        daemons = [announced(number, listener.port, host=f"127.0.0.{number}") for number in range(1, 201)]
        told = await surveyed(daemons, asking(within(20)), all_seconds=within(30))
    assert {id_ for id_, answered in told.items() if answered.told is not None} == {each.id for each in daemons}
    assert len(listener.received) == 200
