"""Properties: any zone against a plain model, and any bytes."""

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
from hypothesis import given
from hypothesis import strategies as st

from discovery import Backend, State
from discovery.testing import snapshot
from discovery_dns.config import DnsConfig
from discovery_dns.questions import FormatError, read_question
from discovery_dns.responder import Responder, Transport
from discovery_dns.zone import Zone

from .asking import DOMAIN, Known, ask, data, is_denial, is_truncated, query, responder
from .model import Records, model

SERVICES = ("web", "Web", "api.v2", "v2", "_x", "a..b", "x.addr", "_web._tcp", "L" * 64, "l" * 63, "_tcp", "addr")
HOSTS = ("10.0.0.1", "10.0.0.2", "2001:db8::1", "db.example.com", "cache")
NAMES = (
    *SERVICES, "_web._tcp", "_api.v2._tcp", "_v2._tcp", "__x._tcp", f"_{'l' * 62}._tcp", "nothing", "x.web", "b",
    "ns.addr", "10-0-0-1.addr", "10-0-0-2.addr", "2001-0db8-0000-0000-0000-0000-0000-0001.addr",
)  # fmt: skip
KINDS = ("A", "AAAA", "SRV", "TXT", "ANY")

backends = st.builds(
    lambda service, id_, host, port, weight, draining, zone: Backend(
        service, id_, host, port, weight, State.DRAINING if draining else State.ACTIVE, {"zone": zone}
    ),
    st.sampled_from(SERVICES),
    st.sampled_from("abc"),
    st.sampled_from(HOSTS),
    st.integers(1, 3),
    st.integers(0, 2),
    st.booleans(),
    st.sampled_from(("near", "far")),
)
known_addresses = st.dictionaries(
    st.tuples(st.sampled_from(("db.example.com", "cache")), st.integers(1, 3)),
    st.lists(st.sampled_from(("192.0.2.1", "192.0.2.2", "2001:db8::9")), max_size=2, unique=True).map(tuple),
)
states = st.tuples(st.lists(backends, max_size=8), known_addresses)


questions = st.tuples(st.sampled_from(NAMES), st.sampled_from(KINDS))


@given(
    st.lists(st.tuples(states, st.lists(questions, min_size=10, max_size=30)), min_size=1, max_size=4),
    st.sampled_from(("*", "?e*", "web")),
)
def test_a_zone_answers_as_the_plain_model_of_its_last_snapshot(
    history: list[tuple[tuple[list[Backend], Known], list[tuple[str, str]]]], pattern: str
) -> None:
    config = DnsConfig.model_validate({"backup": {"label": "zone", "is": "far"}, "services": pattern})
    answering = Responder()
    answering.zone = zone = Zone(config, ("127.0.0.1",))
    for revision, ((some, known), asked) in enumerate(history):
        zone.update(snapshot(*some, revision=revision), known)
        expected = model(snapshot(*some), known, config)
        for name, kind in asked:
            owner = f"{name}.{DOMAIN}.".lower()
            if all(0 < len(label) < 64 for label in name.split(".")):
                check(ask(answering, owner, kind, transport="tcp"), kind, owner, expected)
        wanted = {each.service for each in some if config.serves(each.service)}
        assert set(zone.left_out) == (wanted - served(expected)) | partly(expected)


def check(answer: dns.message.Message, kind: str, owner: str, expected: Records) -> None:
    """The answer is the one of the model, with addresses of the model."""
    records = expected.get(owner, {})
    assert (answer.rcode() == dns.rcode.NXDOMAIN) == (owner not in expected)
    if kind == "ANY":
        assert len(data(answer)) == bool(records)
    else:
        assert set(data(answer)) == records.get(kind, set())
    assert is_denial(answer) == (not answer.answer)
    for rrset in answer.additional:
        text = dns.rdatatype.to_text(rrset.rdtype)
        assert {each.to_text() for each in rrset} <= expected[rrset.name.to_text()][text]


def served(expected: Records) -> set[str]:
    return expected["services"]["served"]


def partly(expected: Records) -> set[str]:
    return expected["services"]["without SRV name"]


@given(st.integers(1, 60), st.sampled_from(("A", "SRV")), st.integers(0, 2000), st.booleans())
def test_an_answer_over_udp_is_bounded_and_says_whether_it_is_whole(
    count: int, kind: str, payload: int, edns: bool
) -> None:
    answering = responder(Backend("web", f"{n}", f"10.0.0.{n}", 80) for n in range(count))
    whole = dns.message.from_wire(answering.respond(query("web", kind).to_wire(), "tcp") or b"")
    asked = query("web", kind, use_edns=0, payload=payload) if edns else query("web", kind)
    for _ in range(3):
        packet = answering.respond(asked.to_wire(), "udp")
        assert packet is not None
        answer = dns.message.from_wire(packet)
        assert len(packet) <= (min(max(payload, 512), 1232) if edns else 512)
        assert set(data(answer)) <= set(data(whole))
        assert is_truncated(answer) == (len(data(answer)) < count)


MANY = [Backend("web", f"{n}", f"10.0.0.{n}", 80) for n in range(200)]

queries = st.builds(
    lambda name, kind, options: query(name, kind, **options).to_wire(),
    st.sampled_from(("web", "_web._tcp", "nothing", "example.com.")),
    st.sampled_from(("A", "SRV", "ANY", "AXFR", "OPT")),
    st.sampled_from(({}, {"use_edns": 0}, {"use_edns": 1}, {"use_edns": 0, "payload": 4096, "want_dnssec": True})),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A query with some bytes replaced, inserted or cut off."""
    packet = bytearray(draw(queries))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(packet)))
        packet[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(packet)


@given(
    st.one_of(st.binary(max_size=80), mutated(), mutated().map(lambda packet: packet[:40])),
    st.sampled_from(("udp", "tcp")),
)
def test_any_bytes_get_a_bounded_answer_or_none(packet: bytes, transport: Transport) -> None:
    for answering in (responder(MANY), responder(MANY[:1]), Responder()):
        answer = answering.respond(packet, transport)
        if answer is None:
            assert len(packet) < 12 or packet[2] & 0x80
            continue
        assert answer[:2] == packet[:2]
        read = dns.message.from_wire(answer)
        if transport == "udp":
            assert len(answer) <= (1232 if read.edns == 0 else 512)
        assert read.flags & dns.flags.QR
        assert not read.flags & dns.flags.RA
        assert answering.fail(packet, "udp")[:2] == packet[:2]


def has_data_that_nobody_reads(packet: bytes) -> bool:
    """Whether there are records besides an OPT record without options, whose data dnspython checks."""
    return packet[6:12] != bytes(6) and not (packet[6:12] == b"\0\0\0\0\0\1" and packet.endswith(b"\0\0"))


@given(st.one_of(st.binary(min_size=12, max_size=80), mutated().filter(lambda packet: len(packet) >= 12)))
def test_a_query_is_read_as_dnspython_reads_it(packet: bytes) -> None:
    packet = packet[:2] + bytes((packet[2] & 0x07,)) + packet[3:]
    try:
        read = read_question(packet)
    except FormatError:
        read = None
    try:
        theirs = dns.message.from_wire(packet)
    except Exception:  # noqa: BLE001 - hostile bytes
        assert read is None or has_data_that_nobody_reads(packet)
        return
    if read is None:  # dnspython takes any number of questions, and pointers in a question
        assert len(theirs.question) != 1 or theirs.question[0].name.to_wire() not in packet
        return
    (question,) = theirs.question
    assert (question.name.to_wire().lower(), question.rdtype, question.rdclass) == (read.name, read.kind, read.class_)
    if theirs.edns < 0:
        assert read.edns is None
    else:
        assert read.edns == (theirs.payload, theirs.edns, bool(theirs.ednsflags & dns.flags.DO))
