"""Answers to queries: what is answered, denied and refused, and in which form."""

from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import pytest

from discovery import State
from discovery.testing import backend
from discovery_dns.responder import Responder, Transport

from .asking import DOMAIN, additional, ask, data, is_denial, is_truncated, query, responder

WEB = [
    backend(id="a", host="10.0.0.1", port=80, weight=3),
    backend(id="b", host="10.0.0.2", port=81),
    backend(id="c", host="2001:db8::1", port=82),
]


def test_a_service_has_addresses_of_both_families() -> None:
    answering = responder(WEB)
    assert set(data(ask(answering, "web"))) == {"10.0.0.1", "10.0.0.2"}
    assert data(ask(answering, "web", "AAAA")) == ["2001:db8::1"]


@pytest.mark.parametrize("name", ["web", "_web._tcp"])
def test_srv_records_have_ports_and_weights_and_targets_with_addresses(name: str) -> None:
    answer = ask(responder(WEB), name, "SRV")
    assert set(data(answer)) == {
        f"0 3 80 10-0-0-1.addr.{DOMAIN}.",
        f"0 1 81 10-0-0-2.addr.{DOMAIN}.",
        f"0 1 82 2001-0db8-0000-0000-0000-0000-0000-0001.addr.{DOMAIN}.",
    }
    assert additional(answer) == {
        f"10-0-0-1.addr.{DOMAIN}. A 10.0.0.1",
        f"10-0-0-2.addr.{DOMAIN}. A 10.0.0.2",
        f"2001-0db8-0000-0000-0000-0000-0000-0001.addr.{DOMAIN}. AAAA 2001:db8::1",
    }


def test_the_target_of_an_srv_record_has_an_address_of_its_own() -> None:
    answering = responder(WEB)
    assert data(ask(answering, "10-0-0-1.addr")) == ["10.0.0.1"]
    assert data(ask(answering, "2001-0db8-0000-0000-0000-0000-0000-0001.addr", "AAAA")) == ["2001:db8::1"]
    assert is_denial(ask(answering, "10-0-0-1.addr", "AAAA"))
    assert ask(answering, "10-0-0-9.addr").rcode() == dns.rcode.NXDOMAIN


def test_a_backend_with_a_host_name_is_its_own_target() -> None:
    known = {("db1.example.com", 5432): ("192.0.2.1", "2001:db8::5")}
    answering = responder([backend("db", "a", "db1.example.com", 5432)], known)
    answer = ask(answering, "_db._tcp", "SRV")
    assert data(answer) == ["0 1 5432 db1.example.com."]
    assert additional(answer) == set()
    assert data(ask(answering, "db")) == ["192.0.2.1"]
    assert data(ask(answering, "db", "AAAA")) == ["2001:db8::5"]


def test_a_host_name_without_known_addresses_has_none_here() -> None:
    answering = responder([backend("db", "a", "db1.example.com", 5432)])
    assert is_denial(ask(answering, "db"))
    assert data(ask(answering, "db", "SRV")) == ["0 1 5432 db1.example.com."]


def test_srv_records_leave_out_host_names_without_an_address_while_another_backend_has_any() -> None:
    lost, found = backend("db", "a", "db1.example.com", 5432), backend("db", "b", "db2.example.com", 5432)
    known = {("db2.example.com", 5432): ("192.0.2.1",)}
    assert data(ask(responder([lost, found], known), "db", "SRV")) == ["0 1 5432 db2.example.com."]
    near = backend("db", "c", "10.0.0.1", 5432)
    assert data(ask(responder([lost, near]), "db", "SRV")) == [f"0 1 5432 10-0-0-1.addr.{DOMAIN}."]
    assert len(data(ask(responder([lost, found]), "db", "SRV"))) == 2
    options = {"backup": {"label": "zone", "is": "far"}}
    far = backend("db", "d", "10.0.0.2", 5432, labels={"zone": "far"})
    for _ in range(3):
        assert data(ask(responder([lost, far], **options), "db", "SRV")) == [f"10 1 5432 10-0-0-2.addr.{DOMAIN}."]
        answer = ask(
            responder([lost, backend("db", "e", "x.example", 1, labels={"zone": "far"})], **options), "db", "SRV"
        )
        assert data(answer) == ["0 1 5432 db1.example.com.", "10 1 1 x.example."]
    others = [backend("db", f"f{n}", f"10.0.0.{n}", 5432, labels={"zone": "far"}) for n in range(3)]
    answering = responder([lost, *others], **options)
    assert len({data(ask(answering, "db", "SRV"))[0] for _ in range(3)}) == 3


def test_two_backends_of_one_machine_are_one_address() -> None:
    answering = responder([backend(id="a", host="10.0.0.1", port=80), backend(id="b", host="10.0.0.1", port=81)])
    assert data(ask(answering, "web")) == ["10.0.0.1"]
    assert len(data(ask(answering, "web", "SRV"))) == 2
    assert additional(ask(answering, "web", "SRV")) == {f"10-0-0-1.addr.{DOMAIN}. A 10.0.0.1"}


def test_draining_backends_and_those_of_weight_0_are_left_out_while_there_are_others() -> None:
    draining = backend(id="b", host="10.0.0.2", state=State.DRAINING)
    standby = backend(id="c", host="10.0.0.3", weight=0)
    answering = responder([backend(id="a", host="10.0.0.1"), draining, standby])
    assert data(ask(answering, "web")) == ["10.0.0.1"]
    assert len(data(ask(answering, "web", "SRV"))) == 1
    assert data(ask(answering, "10-0-0-2.addr")) == ["10.0.0.2"]  # for clients that know the name already
    assert set(data(ask(responder([draining, standby]), "web"))) == {"10.0.0.2", "10.0.0.3"}


def test_backups_have_a_later_priority_and_no_address_while_there_are_others() -> None:
    options = {"backup": {"label": "zone", "not": "eu-1"}}
    near = backend(id="a", host="10.0.0.1", labels={"zone": "eu-1"})
    far = backend(id="b", host="10.0.0.2", labels={"zone": "eu-2"})
    answering = responder([near, far], **options)
    assert data(ask(answering, "web")) == ["10.0.0.1"]
    for _ in range(3):
        assert [each.split()[0] for each in data(ask(answering, "web", "SRV"))] == ["0", "10"]
    assert data(ask(responder([far], **options), "web")) == ["10.0.0.2"]
    assert [each.split()[0] for each in data(ask(responder([far], **options), "web", "SRV"))] == ["10"]


def test_the_names_of_services_with_dots_have_empty_names_above() -> None:
    answering = responder([backend("api.v2", "a", "10.0.0.1", 80)])
    assert data(ask(answering, "api.v2")) == ["10.0.0.1"]
    assert len(data(ask(answering, "_api.v2._tcp", "SRV"))) == 1
    for name in ("v2", "_tcp", "v2._tcp", "addr"):
        answer = ask(answering, name)
        assert (answer.rcode(), is_denial(answer)) == (dns.rcode.NOERROR, True), name
    assert ask(answering, "api").rcode() == dns.rcode.NXDOMAIN


def test_a_name_that_is_missing_and_a_record_that_is_missing_are_denied_differently() -> None:
    answering = responder(WEB, negative_ttl="7s")
    missing = ask(answering, "wbe")
    assert (missing.rcode(), is_denial(missing)) == (dns.rcode.NXDOMAIN, True)
    assert (missing.authority[0].ttl, missing.authority[0][0].minimum) == (7, 7)
    record = ask(answering, "web", "TXT")
    assert (record.rcode(), is_denial(record)) == (dns.rcode.NOERROR, True)
    assert is_denial(ask(answering, "_web._tcp", "A"))
    assert ask(answering, "a.web").rcode() == dns.rcode.NXDOMAIN
    assert ask(answering, "_web._udp", "SRV").rcode() == dns.rcode.NXDOMAIN


def test_the_domain_itself_has_its_serial_from_the_revision() -> None:
    answering = responder(WEB, revision=4711)
    (soa,) = ask(answering, f"{DOMAIN}.", "SOA").answer[0]
    assert soa.serial == 4711
    assert data(ask(answering, f"{DOMAIN}.", "NS")) == [f"ns.addr.{DOMAIN}."]
    assert data(ask(answering, "ns.addr")) == ["127.0.0.1"]
    assert is_denial(ask(answering, f"{DOMAIN}."))
    (soa,) = ask(responder(revision=2**32 + 5), f"{DOMAIN}.", "SOA").answer[0]
    assert soa.serial == 5


def test_of_names_that_differ_in_case_the_first_in_sorted_order_is_answered() -> None:
    upper, lower = backend("Web", host="10.0.0.1"), backend("web", host="10.0.0.2")
    for name in ("web", "WEB", "Web"):
        assert data(ask(responder([lower, upper]), name)) == ["10.0.0.1"]
    answering = responder([lower, upper, backend("WEB", host="10.0.0.3")])
    assert data(ask(answering, "web")) == ["10.0.0.3"]
    assert answering.zone is not None
    told = "domain names ignore case, and the service 'WEB' has the name"
    assert answering.zone.left_out == {"Web": told, "web": told}


def test_any_has_a_small_answer() -> None:
    answering = responder(WEB)
    for name in ("web", "_web._tcp", "10-0-0-1.addr", "ns.addr", f"{DOMAIN}."):
        assert data(ask(answering, name, "ANY")) == ['"RFC8482" ""']
    assert is_denial(ask(answering, "_tcp", "ANY"))
    assert ask(answering, "nothing", "ANY").rcode() == dns.rcode.NXDOMAIN


def test_nothing_outside_the_domain_is_answered() -> None:
    answering = responder(WEB)
    for name in ("example.com.", "internal.", ".", f"xservice.{DOMAIN[8:]}.", "web.service.internal.example."):
        answer = ask(answering, name)
        assert (answer.rcode(), answer.answer, answer.authority) == (dns.rcode.REFUSED, [], []), name
        assert not answer.flags & dns.flags.AA
    # The bytes of the domain at the end of a label are no domain.
    label = b"x" + dns.name.from_text(DOMAIN).to_wire()[:-1]
    hidden = dns.message.make_query(dns.name.Name([label, b""]), "A")
    packet = answering.respond(hidden.to_wire(), "udp")
    assert packet is not None
    assert dns.message.from_wire(packet).rcode() == dns.rcode.REFUSED


def test_an_answer_offers_no_recursion_and_is_authoritative() -> None:
    answer = ask(responder(WEB), "web", flags=dns.flags.RD | dns.flags.AD | dns.flags.CD)
    assert answer.flags == dns.flags.QR | dns.flags.AA | dns.flags.RD
    assert ask(responder(WEB), "web", flags=0).flags == dns.flags.QR | dns.flags.AA


def test_the_case_of_a_question_is_kept() -> None:
    asked = query("wEb.SeRvIcE.iNtErNaL.", "A")
    packet = responder(WEB).respond(asked.to_wire(), "udp")
    assert packet is not None
    assert b"\x03wEb\x07SeRvIcE\x08iNtErNaL\0" in packet
    assert len(data(dns.message.from_wire(packet))) == 2


@pytest.mark.parametrize("edns", [{}, {"use_edns": 0, "payload": 1232}])
def test_an_answer_after_a_fault_has_the_question(edns: dict[str, Any]) -> None:
    asked = query("web", "SRV", **edns)
    answer = dns.message.from_wire(responder(WEB).fail(asked.to_wire(), "udp"))
    assert asked.is_response(answer)
    assert (answer.rcode(), answer.question, answer.edns) == (dns.rcode.SERVFAIL, asked.question, asked.edns)


def test_without_a_snapshot_nothing_is_denied() -> None:
    for name in ("web", "example.com."):
        assert ask(Responder(), name).rcode() == dns.rcode.SERVFAIL


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_other_operations_are_not_implemented(transport: Transport) -> None:
    asked = query("web")
    for opcode in set(dns.opcode.Opcode) - {dns.opcode.QUERY}:
        asked.set_opcode(opcode)
        packet = responder(WEB).respond(asked.to_wire(), transport)
        assert packet is not None
        answer = dns.message.from_wire(packet)
        assert (answer.rcode(), answer.opcode(), answer.id) == (dns.rcode.NOTIMP, opcode, asked.id)


@pytest.mark.parametrize(
    ("kind", "rcode"),
    [("AXFR", "REFUSED"), ("IXFR", "REFUSED"), ("TSIG", "NOTIMP"), ("MAILB", "NOTIMP"), ("OPT", "FORMERR")],
)
def test_transfers_and_types_that_are_none_are_refused(kind: str, rcode: str) -> None:
    assert dns.rcode.to_text(ask(responder(WEB), "web", kind).rcode()) == rcode


def test_other_classes_are_refused() -> None:
    assert ask(responder(WEB), "web", rdclass="CH").rcode() == dns.rcode.REFUSED


def test_several_questions_and_no_question_are_malformed() -> None:
    asked = query("web")
    asked.question.append(query("db").question[0])
    for packet in (asked.to_wire(), b"\0\7\1\0" + bytes(8)):
        answer = responder(WEB).respond(packet, "udp")
        assert answer is not None
        assert dns.message.from_wire(answer).rcode() == dns.rcode.FORMERR
        assert answer[:2] == packet[:2]


def test_answers_and_fragments_get_no_answer() -> None:
    answering = responder(WEB)
    answer = answering.respond(query("web").to_wire(), "udp")
    assert answer is not None
    for packet in (answer, b"", query("web").to_wire()[:11]):
        assert answering.respond(packet, "udp") is None
    assert answering.ignored == 3


def test_edns_is_answered_with_edns_and_without_its_options() -> None:
    answering = responder(WEB)
    assert ask(answering, "web").edns == -1
    options = [dns.edns.ECSOption("192.0.2.0", 24), dns.edns.GenericOption(10, b"12345678")]
    answer = ask(answering, "web", use_edns=0, payload=4096, want_dnssec=True, options=options)
    assert (answer.edns, answer.payload, answer.options) == (0, 1232, ())
    assert answer.ednsflags == dns.flags.DO
    assert not ask(answering, "web", use_edns=0).ednsflags


def test_another_version_of_edns_is_told_so() -> None:
    asked = query("web", use_edns=1)
    packet = responder(WEB).respond(asked.to_wire(), "udp")
    assert packet is not None
    answer = dns.message.from_wire(packet)
    assert (answer.rcode(), answer.edns, answer.answer) == (dns.rcode.BADVERS, 0, [])


MANY = [backend(id=f"{n:03}", host=f"10.0.{n}.1", port=80) for n in range(200)]


@pytest.mark.parametrize(
    ("payload", "room"), [(None, 512), (0, 512), (100, 512), (512, 512), (800, 800), (1232, 1232), (65535, 1232)]
)
@pytest.mark.parametrize("kind", ["A", "SRV"])
def test_an_answer_over_udp_has_what_the_client_takes_and_tells_the_rest(
    kind: str, payload: int | None, room: int
) -> None:
    edns = {} if payload is None else {"use_edns": 0, "payload": payload}
    packet = responder(MANY).respond(query("web", kind, **edns).to_wire(), "udp")
    assert packet is not None
    answer = dns.message.from_wire(packet)
    assert room - 60 < len(packet) <= room
    assert is_truncated(answer)
    assert 5 < len(data(answer)) < 200


def test_over_tcp_an_answer_is_whole_up_to_what_a_message_can_have() -> None:
    answer = ask(responder(MANY), "web", transport="tcp")
    assert (len(data(answer)), is_truncated(answer)) == (200, False)
    many = [backend(id=f"{n:04}", host=f"10.{n // 250}.{n % 250}.1") for n in range(5000)]
    for kind in ("A", "SRV"):
        packet = responder(many).respond(query("web", kind).to_wire(), "tcp")
        assert packet is not None
        assert 65535 - 60 < len(packet) <= 65535
        # systemd-resolved takes TC over TCP for an invalid answer, and Go before 1.22 for none.
        assert not is_truncated(dns.message.from_wire(packet))


def test_of_more_backends_than_a_message_has_room_for_each_has_its_turn() -> None:
    count = 4500
    answering = responder(backend(id=f"{n:04}", host=f"10.{n // 250}.{n % 250}.1") for n in range(count))
    assert len(firsts(answering, "A", count)) == count
    assert len(firsts(answering, "SRV", count)) == count
    assert len(set(data(ask(answering, "web", transport="tcp"))) | set(data(ask(answering, "web")))) > 4000


def firsts(answering: Responder, kind: str, count: int) -> set[bytes]:
    """The data of the first record of each of `count` answers over UDP, which are too many for dnspython to read."""
    asked = query("web", kind).to_wire()
    found = set()
    for _ in range(count):
        packet = answering.respond(asked, "udp")
        assert packet is not None
        record = packet[len(asked) :]
        found.add(record[12 : 12 + int.from_bytes(record[10:12], "big")])
    return found


def test_additional_records_are_left_out_before_an_answer_is_truncated() -> None:
    some = [backend(id=f"{n}", host=f"10.0.0.{n}") for n in range(1, 8)]
    answer = ask(responder(some), "web", "SRV")
    assert (len(data(answer)), is_truncated(answer)) == (7, False)
    assert 0 < len(additional(answer)) < 7


def test_a_limit_of_answers_shows_every_backend_in_turn() -> None:
    answering = responder([backend(id=f"{n}", host=f"10.0.0.{n}") for n in range(1, 8)], max_answers=3)
    answers = [data(ask(answering, "web")) for _ in range(7)]
    assert {len(each) for each in answers} == {3}
    assert sorted(first for first, *_ in answers) == [f"10.0.0.{n}" for n in range(1, 8)]
    assert not is_truncated(ask(answering, "web"))


def test_the_first_record_is_another_each_time() -> None:
    for count in (3, 40):
        answering = responder([backend(id=f"{n:02}", host=f"10.0.0.{n}") for n in range(count)])
        firsts = []
        for _ in range(count):
            packet = answering.respond(query("web", use_edns=0, payload=1232).to_wire(), "udp")
            assert packet is not None
            answer = dns.message.from_wire(packet, one_rr_per_rrset=True)
            assert len(answer.answer) == count
            firsts.append(answer.answer[0][0].to_text())
        assert len(set(firsts)) == count


def test_queries_are_counted_by_kind_and_outcome() -> None:
    answering = responder(WEB)
    for name, kind in (("web", "A"), ("web", "A"), ("wbe", "SRV"), ("web", "TXT"), ("web", "MX")):
        ask(answering, name, kind)
    answering.respond(b"\0\7\1\0" + bytes(8), "tcp")
    assert answering.counts == {
        ("udp", dns.rdatatype.A, 0): 2, ("udp", dns.rdatatype.SRV, 3): 1, ("udp", -1, 0): 2, ("tcp", 0, 1): 1
    }  # fmt: skip
