"""Queries and answers of the tests, made and read by dnspython."""

from collections.abc import Iterable, Mapping
from typing import Any

import dns.flags
import dns.message
import dns.rdatatype

from discovery import Backend, Endpoint
from discovery.testing import snapshot
from discovery_dns.config import DnsConfig
from discovery_dns.responder import Responder, Transport
from discovery_dns.zone import Zone

DOMAIN = "service.internal"

Known = Mapping[Endpoint, tuple[str, ...]]


def responder(
    backends: Iterable[Backend] = (), known: Known | None = None, *, revision: int = 1, **options: Any
) -> Responder:
    """A responder for the zone of these backends."""
    zone = Zone(DnsConfig.model_validate(options), ("127.0.0.1",))
    zone.update(snapshot(*backends, revision=revision), known or {})
    answering = Responder()
    answering.zone = zone
    return answering


def query(name: str, kind: str = "A", **options: Any) -> dns.message.QueryMessage:
    """A query; a name without a final dot is one of the domain."""
    return dns.message.make_query(name if name.endswith(".") else f"{name}.{DOMAIN}.", kind, **options)


def ask(
    answering: Responder, name: str, kind: str = "A", *, transport: Transport = "udp", **options: Any
) -> dns.message.Message:
    """The answer, which is one to the query."""
    asked = query(name, kind, **options)
    packet = answering.respond(asked.to_wire(), transport)
    assert packet is not None
    answer = dns.message.from_wire(packet)
    assert asked.is_response(answer)
    return answer


def data(answer: dns.message.Message) -> list[str]:
    """The data of the answer section's records, in order."""
    return [each.to_text() for rrset in answer.answer for each in rrset]


def ordered_data(packet: bytes) -> list[str]:
    """The same, also where dnspython would merge equal owners."""
    return [rrset[0].to_text() for rrset in dns.message.from_wire(packet, one_rr_per_rrset=True).answer]


def additional(answer: dns.message.Message) -> set[str]:
    """The additional records as text, without TTL and class."""
    return {
        f"{rrset.name} {dns.rdatatype.to_text(rrset.rdtype)} {each.to_text()}"
        for rrset in answer.additional
        for each in rrset
    }


def is_denial(answer: dns.message.Message) -> bool:
    """Whether the answer is a negative one with its SOA record."""
    authority = [(rrset.name.to_text(), rrset.rdtype) for rrset in answer.authority]
    return not answer.answer and authority == [(f"{DOMAIN}.", dns.rdatatype.SOA)]


def is_truncated(answer: dns.message.Message) -> bool:
    """Whether the answer tells the client to ask over TCP."""
    return bool(answer.flags & dns.flags.TC)
