"""The work for one query or one step of an update, counted in function calls: every other query waits meanwhile."""

import itertools
import struct
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from discovery import Backend, Service, Snapshot
from discovery.testing import snapshot
from discovery_dns.config import DnsConfig
from discovery_dns.names import address_name
from discovery_dns.questions import read_question
from discovery_dns.responder import Responder, Transport
from discovery_dns.zone import Zone

from .asking import query

COUNT = 5000
MOST_CALLS = 4000
"""Calls of one step: a call takes 0.1 to 1 us."""


def calls(work: Callable[[], Any]) -> int:
    """The number of functions of Python and C that `work` calls."""
    counted = 0

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return counted


def large_service() -> list[Backend]:
    return [Backend("web", f"{n:05}", f"10.{n // 250}.{n % 250}.1", 80) for n in range(COUNT)]


def changed(state: Snapshot, number: int) -> Snapshot:
    """The state with another address of one backend."""
    id_ = f"{number:05}"
    backend = Backend("web", id_, f"10.99.{number // 250}.{number % 250}", 80)
    service = state.services["web"].with_changes({id_: backend})
    return Snapshot(state.revision + 1, {**state.services, "web": Service(service.name, service.runs)})


def test_the_first_question_after_a_change_of_a_large_service_is_cheap() -> None:
    state = snapshot(*large_service())
    answering = Responder()
    answering.zone = zone = Zone(DnsConfig(), ("127.0.0.1",))
    zone.update(state, {})
    transports: tuple[Transport, ...] = ("udp", "tcp")
    for number, (kind, transport) in enumerate(itertools.product(("A", "AAAA", "SRV"), transports)):
        state = changed(state, number * 100)
        zone.update(state, {})
        packet = query("web", kind).to_wire()
        assert calls(partial(answering.respond, packet, transport)) < MOST_CALLS, (kind, transport)


def test_the_steps_of_an_update_are_short() -> None:
    some = [Backend(f"s{n}", "a", f"10.3.{n // 250}.{n % 250}", 80) for n in range(1000)]
    zone = Zone(DnsConfig(), ("127.0.0.1",))
    for state in (snapshot(*large_service()[:1000], *some), snapshot(*some[:500])):
        work = zone.steps(state, {})
        next(work)  # the comparison with the last snapshot, which is the core's
        for step in itertools.count():
            if (made := calls(partial(next, work, None))) == 1:
                break
            assert made < MOST_CALLS, step
        assert step > 20


def test_between_the_steps_of_an_update_every_name_has_an_answer() -> None:
    first, second = snapshot(*large_service()[:1000]), snapshot(*(
        Backend("web", f"{n:05}", f"10.88.{n // 250}.{n % 250}", 80) for n in range(1000)
    ), revision=2)  # fmt: skip
    answering = Responder()
    answering.zone = zone = Zone(DnsConfig(), ("127.0.0.1",))
    zone.update(first, {})
    for _ in zone.steps(second, {}):
        targets = list(srv_targets(answering))
        assert targets
        for target in targets:
            packet = answering.respond(bytes(5) + b"\1" + bytes(6) + target + b"\0\1\0\1", "udp")
            assert packet is not None
            assert (packet[3] & 15, packet[7]) == (0, 1), "the target of an SRV record has an address"
    for state, exist in ((first, False), (second, True)):
        names = [address_name(each.host, zone.apex) for each in state.backends()]
        assert {zone.exists(each) for each in names} == {exist}


def srv_targets(answering: Responder) -> Iterator[bytes]:
    """The targets of the SRV records in an answer."""
    asked = query("web", "SRV").to_wire()
    packet = answering.respond(asked, "udp")
    assert packet is not None
    at = len(asked)
    for _ in range(int.from_bytes(packet[6:8], "big")):
        end = at + 12 + int.from_bytes(packet[at + 10 : at + 12], "big")
        yield packet[at + 18 : end]
        at = end


@pytest.mark.parametrize("hops", [10, 1000])
def test_a_query_with_chains_of_pointers_costs_no_more_than_its_length(hops: int) -> None:
    packet = with_chains(hops)
    assert len(packet) <= 4096
    assert calls(lambda: read_question(packet)) < MOST_CALLS
    assert read_question(packet).edns is None


def with_chains(hops: int) -> bytes:
    """A query with a record whose data are pointers, each to the one before, and as many records that use the last."""
    packet = bytearray(query(".").to_wire())
    packet += b"\0" + struct.pack("!HHIH", 65280, 1, 0, 2 * hops)
    last = 12
    for _ in range(hops):
        packet += struct.pack("!H", 0xC000 | last)
        last = len(packet) - 2
    count = 1
    while len(packet) + 16 <= 4096:
        packet += struct.pack("!HHHIHHH", 0xC000 | last, 17, 1, count, 4, 0xC000 | last, 0xC000 | last)
        count += 1
    packet[10:12] = count.to_bytes(2, "big")
    return bytes(packet)
