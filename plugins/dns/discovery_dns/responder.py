"""Answers queries, as bytes in and bytes out, from a zone. Does no I/O; for one thread."""

from collections import Counter
from typing import Literal

from discovery_dns import wire
from discovery_dns.answers import Body
from discovery_dns.names import is_below
from discovery_dns.questions import FormatError, Question, read_question, room_over_udp
from discovery_dns.wire import HEADER_BYTES, MOST_TCP_BYTES, MOST_UDP_BYTES, opt_record
from discovery_dns.zone import Zone

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16
"""Response codes (RFC 1035, RFC 6891)."""
RCODES = {
    NOERROR: "NOERROR",
    FORMERR: "FORMERR",
    SERVFAIL: "SERVFAIL",
    NXDOMAIN: "NXDOMAIN",
    NOTIMP: "NOTIMP",
    REFUSED: "REFUSED",
    BADVERS: "BADVERS",
}
"""Names of response codes."""
KINDS = {wire.A: "A", wire.NS: "NS", wire.SOA: "SOA", wire.AAAA: "AAAA", wire.SRV: "SRV", wire.ANY: "ANY"}
"""Names of types of records in the counts; every other type is counted as `other`."""
_TRANSFERS = (251, 252)
"""The types IXFR and AXFR: the transfer of a zone."""
_META = (249, 250, 253, 254)
"""The types TKEY, TSIG, MAILB and MAILA, which are no types of records."""
_RESPONSE, _OPCODE, _AUTHORITATIVE, _TRUNCATED, _RECURSION_DESIRED = 0x80, 0x78, 0x04, 0x02, 0x01
"""Bits of the first byte of flags."""
_NO_RECORDS = Body(bytes(6), b"\0\0\0\0\0\1", b"")

Transport = Literal["udp", "tcp"]


class Responder:
    """Answers queries. `zone` is None until there is a snapshot: what is not known yet is never denied."""

    def __init__(self) -> None:
        """Create a responder that has no zone yet."""
        self.zone: Zone | None = None
        self.counts: Counter[tuple[str, int, int]] = Counter()
        """Answers by transport, type of records and response code; the type is 0 if there is no question."""
        self.truncated = 0
        """The number of truncated answers."""
        self.ignored = 0
        """The number of packets without an answer, since they are no queries."""
        self._opt = {
            (dnssec_ok, bad): opt_record(dnssec_ok=dnssec_ok, bad_version=bad)
            for dnssec_ok in (False, True)
            for bad in (False, True)
        }

    def respond(self, packet: bytes, transport: Transport) -> bytes | None:
        """Return the answer to a packet; None if the packet is no query, and therefore gets no answer.

        The answer over UDP has at most MOST_UDP_BYTES, and at most what the client takes. Raises nothing for any bytes.
        """
        if len(packet) < HEADER_BYTES or packet[2] & _RESPONSE:
            self.ignored += 1
            return None
        if packet[2] & _OPCODE:
            return self._refuse(packet, transport, NOTIMP)
        try:
            question = read_question(packet)
        except FormatError:
            return self._refuse(packet, transport, FORMERR)
        edns = question.edns
        opt = b""
        if edns is not None:
            opt = self._opt[edns.dnssec_ok, edns.version > 0]
            if edns.version > 0:
                return self._make(packet, question, transport, BADVERS, _NO_RECORDS, opt)
        room = MOST_TCP_BYTES if transport == "tcp" else room_over_udp(edns, MOST_UDP_BYTES)
        rcode, body = self._find(question, room - HEADER_BYTES - len(question.text) - len(opt))
        return self._make(packet, question, transport, rcode, body, opt)

    def fail(self, packet: bytes, transport: Transport) -> bytes:
        """Return the answer SERVFAIL to a query, with the question: many clients ignore an answer without it."""
        try:
            question = read_question(packet)
        except FormatError:
            return self._refuse(packet, transport, SERVFAIL)
        opt = self._opt[question.edns.dnssec_ok, False] if question.edns is not None else b""
        return self._make(packet, question, transport, SERVFAIL, _NO_RECORDS, opt)

    def _find(self, question: Question, room: int) -> tuple[int, Body]:
        zone, name, kind = self.zone, question.name, question.kind
        if kind == wire.OPT:
            return FORMERR, _NO_RECORDS
        if kind in _META:
            return NOTIMP, _NO_RECORDS
        if zone is None:
            return SERVFAIL, _NO_RECORDS
        if question.class_ != wire.IN or kind in _TRANSFERS:
            return REFUSED, _NO_RECORDS
        node = zone.node(name)
        if node is not None:
            answers = node.answers(kind)
            if answers is not None:
                return NOERROR, answers.next(room)
        elif not is_below(name, zone.apex):
            return REFUSED, _NO_RECORDS
        denial = zone.denial(name)
        if len(denial.records) > room:
            denial = _NO_RECORDS._replace(truncated=True)
        return (NOERROR if zone.exists(name) else NXDOMAIN), denial

    def _refuse(self, packet: bytes, transport: Transport, rcode: int) -> bytes:
        self.counts[transport, 0, rcode] += 1
        flags = _RESPONSE | packet[2] & (_OPCODE | _RECURSION_DESIRED)
        return packet[:2] + bytes((flags, rcode)) + bytes(8)

    def _make(
        self, packet: bytes, question: Question, transport: Transport, rcode: int, body: Body, opt: bytes
    ) -> bytes:
        self.counts[transport, question.kind if question.kind in KINDS else -1, rcode] += 1
        flags = _RESPONSE | packet[2] & _RECURSION_DESIRED
        if rcode in (NOERROR, NXDOMAIN):
            flags |= _AUTHORITATIVE
        if body.truncated and transport == "udp":  # over TCP many clients take the flag for a failure
            flags |= _TRUNCATED
            self.truncated += 1
        return b"".join(
            (
                packet[:2],
                bytes((flags, rcode & 0x0F)),
                b"\0\1",
                body.counts_with_opt if opt else body.counts,
                question.text,
                body.records,
                opt,
            )
        )
