"""Resource records and EDNS options in wire form, built by dnspython where there are few of a kind."""

import socket
import struct
from collections.abc import Callable
from io import BytesIO
from typing import NamedTuple

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdataset
import dns.rdatatype

from discovery_dns.names import address_name

HEADER_BYTES = 12
"""Bytes of a header, at whose end the name in the question begins (RFC 1035, 4.1.1)."""
A, NS, SOA, AAAA, SRV, OPT, ANY = 1, 2, 6, 28, 33, 41, 255
"""Types of records."""
IN = 1
"""The class Internet."""
MOST_UDP_BYTES = 1232
"""Bytes of an answer over UDP: a packet of this size passes every usual link without fragments (DNS flag day 2020)."""
MOST_TCP_BYTES = 65535
"""Bytes of a message over TCP, whose length has 16 bits."""
_RECORD = struct.Struct("!HHIH")
"""Type, class, TTL and length of the data, which follow the owner of a record (RFC 1035, 4.1.3)."""
_SRV_DATA = struct.Struct("!HHH")
"""Priority, weight and port of an SRV record, which precede the target (RFC 2782)."""
_REFRESH, _RETRY, _EXPIRE = 3600, 600, 86400
"""Seconds for secondary servers, which this server has not: usual values of the fields of an SOA record."""


class Srv(NamedTuple):
    """An SRV record: its target is the name that the IP address `host` has in the domain, or the host name `host`."""

    priority: int
    weight: int
    port: int
    host: str
    is_named: bool


class RecordBuilder:
    """Builds the records of one domain. `ttl` and `negative_ttl` are whole seconds."""

    def __init__(self, domain: str, ttl: int, negative_ttl: int) -> None:
        """Create the builder for `domain`, which is valid and in lower case."""
        self._apex = dns.name.from_text(domain)
        self.apex = self._apex.to_digestable()
        """The domain in wire form."""
        self._ttl, self._negative_ttl = ttl, negative_ttl

    def address(self, address: str) -> bytes:
        """Return the A or AAAA record of the name in the question."""
        if ":" in address:
            return self._plain(AAAA, socket.inet_pton(socket.AF_INET6, address))
        return self._plain(A, socket.inet_pton(socket.AF_INET, address))

    def additional_address(self, question: bytes, address: str) -> bytes:
        """Return the A or AAAA record of the name that an address has. `question` is the asked name in wire form."""
        owner = address_name(address, pointer(len(question) - len(self.apex)))
        return owner + self.address(address)[len(pointer(0)) :]

    def srv(self, record: Srv) -> bytes:
        """Return the SRV record of the name in the question."""
        if record.is_named:
            target = dns.name.from_text(record.host).to_digestable()
        else:
            target = address_name(record.host, self.apex)
        return self._plain(SRV, _SRV_DATA.pack(record.priority, record.weight, record.port) + target)

    def _plain(self, kind: int, data: bytes) -> bytes:
        """Return a record of the name in the question.

        dnspython needs 40 to 100 us for a record, and a service may have thousands.
        """
        return pointer(0) + _RECORD.pack(kind, IN, self._ttl, len(data)) + data

    def ns(self, server: str) -> bytes:
        """Return the NS record of the domain, the name in the question. `server` is relative to the domain."""
        return _record(_rdata(dns.rdatatype.NS, self._name(server)), self._ttl)

    def soa(self, server: str, serial: int) -> bytes:
        """Return the SOA record of the domain without its owner, for any question. `server` is relative."""
        rdata = _rdata(
            dns.rdatatype.SOA,
            self._name(server),
            self._name("hostmaster"),
            serial,
            _REFRESH,
            _RETRY,
            _EXPIRE,
            self._negative_ttl,
        )
        return _record(rdata, self._negative_ttl)[len(pointer(0)) :]

    def any(self) -> bytes:
        """Return the answer to a question of type ANY (RFC 8482, 4.2)."""
        return _record(_rdata(dns.rdatatype.HINFO, b"RFC8482", b""), self._ttl)

    def _name(self, relative: str) -> dns.name.Name:
        return dns.name.from_text(relative, self._apex)


def text(record: bytes) -> str:
    """Return an A, AAAA or SRV record of this module in the form of a zone file, without its owner."""
    kind, _, ttl, _ = _RECORD.unpack_from(record, len(pointer(0)))
    data = record[len(pointer(0)) + _RECORD.size :]
    if kind == SRV:
        target = dns.name.from_wire(data, _SRV_DATA.size)[0]
        return f"{ttl} IN SRV {' '.join(map(str, _SRV_DATA.unpack_from(data)))} {target}"
    if kind == A:
        return f"{ttl} IN A {socket.inet_ntop(socket.AF_INET, data)}"
    return f"{ttl} IN AAAA {socket.inet_ntop(socket.AF_INET6, data)}"


def pointer(offset: int) -> bytes:
    """Return a pointer to the name in the question, or `offset` bytes behind its beginning (RFC 1035, 4.1.4)."""
    return (0xC000 | (HEADER_BYTES + offset)).to_bytes(2, "big")


def opt_record(*, dnssec_ok: bool, bad_version: bool) -> bytes:
    """Return the OPT record of an answer (RFC 6891)."""
    message = dns.message.Message(0)
    flags = int(dns.flags.EDNSFlag.DO) if dnssec_ok else 0
    message.use_edns(0, flags, MOST_UDP_BYTES)
    if bad_version:
        message.set_rcode(dns.rcode.BADVERS)
    return message.to_wire()[HEADER_BYTES:]


def _record(rdata: dns.rdata.Rdata, ttl: int) -> bytes:
    """Return the record of the name in the question."""
    output = BytesIO()
    dns.rdataset.from_rdata(ttl, rdata).to_wire(dns.name.root, output)
    return pointer(0) + output.getvalue()[1:]


def _rdata(kind: dns.rdatatype.RdataType, *values: object) -> dns.rdata.Rdata:
    """Return the data of a record of the class Internet."""
    find: Callable[..., Callable[..., dns.rdata.Rdata]] = dns.rdata.get_rdata_class
    return find(dns.rdataclass.IN, kind)(dns.rdataclass.IN, kind, *values)
