"""Questions: what a query asks for, or why the query is not answered. Pure.

The work for a query is linear in its length: no pointer is followed, and records other than OPT are skipped.
"""

from typing import NamedTuple

from discovery_dns.names import MOST_LABEL_BYTES, MOST_NAME_BYTES
from discovery_dns.wire import HEADER_BYTES, OPT

_POINTER = 0xC0
"""The two bits of a byte that begins a pointer instead of a label (RFC 1035, 4.1.4)."""
_ALONE, _WITH_ONE_RECORD = b"\0\1\0\0\0\0\0\0", b"\0\1\0\0\0\0\0\1"
"""The numbers of questions, answers, authority and additional records in usual queries."""
_OPT_TYPE = OPT.to_bytes(2, "big")
_OPT_OWNER_AND_TYPE = b"\0" + _OPT_TYPE
"""The beginning of an OPT record: the root, and the type."""
_OPT_BYTES = 11
"""Bytes of an OPT record without options: the root, type, class, TTL and the length of the options."""
_MOST_UNUSUAL_BYTES = 4096
"""Bytes of a query with further records, each of which takes 11 at least: 0.5 ms. A query has a few hundred bytes."""
_LEAST_UDP_BYTES = 512
"""Bytes that every client takes over UDP (RFC 1035; RFC 6891 for smaller sizes in a query)."""


class FormatError(Exception):
    """A query is malformed, or not of a form that this server answers."""


class Edns(NamedTuple):
    """EDNS parameters of a query: the bytes that the client takes over UDP, and whether it sets the DO bit."""

    payload: int
    version: int
    dnssec_ok: bool


class Question(NamedTuple):
    """A question. `text` are its bytes in the query; `name` is in lower case and wire form."""

    text: bytes
    name: bytes
    kind: int
    class_: int
    edns: Edns | None


def read_question(packet: bytes) -> Question:
    """Return the question of a query, a message with the opcode 0 and at least a header. Raises FormatError."""
    at = HEADER_BYTES
    if packet[4:6] != b"\0\1":
        raise FormatError("the query has not one question")
    try:
        while length := packet[at]:
            if length > MOST_LABEL_BYTES:
                raise FormatError("the name in the question has a pointer")
            at += length + 1
    except IndexError:
        raise FormatError("the query ends within the name") from None
    at += 1
    end = at + 4
    if at - HEADER_BYTES > MOST_NAME_BYTES or end > len(packet):
        raise FormatError("the name in the question is too long, or the query ends within the question")
    text = packet[HEADER_BYTES:end]
    edns: Edns | None = None
    rest = packet[end:]
    if not rest and packet[4:12] == _ALONE:
        edns = None
    elif packet[4:12] == _WITH_ONE_RECORD and rest[:3] == _OPT_OWNER_AND_TYPE:
        edns = _read_opt(rest)
    else:
        edns = _read_records(packet, end)
    return Question(text, text[:-4].lower(), int.from_bytes(text[-4:-2], "big"), int.from_bytes(text[-2:], "big"), edns)


def room_over_udp(edns: Edns | None, most: int) -> int:
    """Return the bytes of an answer over UDP, at most `most`."""
    return min(max(edns.payload, _LEAST_UDP_BYTES), most) if edns is not None else _LEAST_UDP_BYTES


def _read_opt(record: bytes) -> Edns:
    """Return the EDNS parameters in an OPT record. Raises FormatError."""
    if len(record) < _OPT_BYTES or len(record) != _OPT_BYTES + int.from_bytes(record[9:11], "big"):
        raise FormatError("the query does not end with its OPT record")
    at = _OPT_BYTES
    while at < len(record):
        at += 4 + int.from_bytes(record[at + 2 : at + 4], "big")
    if at != len(record):
        raise FormatError("an option of the OPT record is longer than the record")
    return Edns(int.from_bytes(record[3:5], "big"), record[6], bool(record[7] & 0x80))


def _read_records(packet: bytes, at: int) -> Edns | None:
    """Return the EDNS parameters of a query with other records than OPT, which are skipped. Raises FormatError."""
    if len(packet) > _MOST_UNUSUAL_BYTES:
        raise FormatError("the query is too long")
    answers, authority, additional = (int.from_bytes(packet[at : at + 2], "big") for at in (6, 8, 10))
    edns: Edns | None = None
    for number in range(answers + authority + additional):
        start, at = at, _end_of_name(packet, at)
        end = at + 10 + int.from_bytes(packet[at + 8 : at + 10], "big")
        if at + 10 > len(packet) or end > len(packet):
            raise FormatError("the query ends within a record")
        if packet[at : at + 2] == _OPT_TYPE:
            if number < answers + authority or edns is not None or packet[start]:
                raise FormatError("an OPT record is in another section, is one of several, or has a name")
            edns = _read_opt(packet[start:end])
        at = end
    if at != len(packet):
        raise FormatError("the query does not end with its last record")
    return edns


def _end_of_name(packet: bytes, at: int) -> int:
    """Return the place behind the name that begins at `at`, at whose end may be a pointer. Raises FormatError."""
    try:
        while length := packet[at]:
            if length >= _POINTER:
                return at + 2
            if length > MOST_LABEL_BYTES:
                raise FormatError("a label has an unknown form")
            at += length + 1
    except IndexError:
        raise FormatError("the query ends within a name") from None
    return at + 1
