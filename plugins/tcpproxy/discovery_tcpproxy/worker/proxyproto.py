"""Writer and parser of PROXY protocol headers, versions 1 and 2. Pure.

The specification is doc/proxy-protocol.txt of HAProxy: section 2.1 for version 1, section 2.2 for version 2.
"""

import socket
import struct
from typing import NamedTuple

from discovery_tcpproxy.worker.access import plain

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
MAX_V1 = 107
"""Bytes of the longest line of version 1, with CR LF, by the specification."""
MAX_V2 = 16 + 4096
"""Bytes of the longest header of version 2 that is accepted: room for addresses and for TLVs such as certificates."""

_V1 = b"PROXY "
_UNKNOWN = b"PROXY UNKNOWN\r\n"
_LOCAL = SIGNATURE + b"\x20\x00\x00\x00"
_LENGTHS = {0x11: 12, 0x12: 12, 0x21: 36, 0x22: 36, 0x31: 216, 0x32: 216}
"""Bytes of the addresses by family and transport. For 0x00 and other combinations with 0 no addresses are read."""

Endpoint = tuple[str, int]
"""IP address in the form of `access.plain`, and port."""


class ProxyProtocolError(ValueError):
    """Bytes are not a valid PROXY protocol header; the connection has to be closed."""


class Header(NamedTuple):
    """Parsed header: size in bytes, and the addresses of the connection, None if the header has none."""

    size: int
    source: Endpoint | None = None
    destination: Endpoint | None = None


def write(version: str, source: Endpoint | None, destination: Endpoint | None) -> bytes:
    """Return a header of version `v1` or `v2`; an endpoint is None for a Unix socket or if unknown."""
    if source is None or destination is None:
        return _UNKNOWN if version == "v1" else _LOCAL
    family = socket.AF_INET6 if ":" in source[0] or ":" in destination[0] else socket.AF_INET
    source_ip, destination_ip = _packed(family, source[0]), _packed(family, destination[0])
    ports = source[1], destination[1]
    if version == "v1":
        name = "TCP4" if family is socket.AF_INET else "TCP6"
        ends = f"{socket.inet_ntop(family, source_ip)} {socket.inet_ntop(family, destination_ip)}"
        return f"PROXY {name} {ends} {ports[0]} {ports[1]}\r\n".encode()
    kind = 0x11 if family is socket.AF_INET else 0x21
    block = source_ip + destination_ip + struct.pack("!HH", *ports)
    return SIGNATURE + struct.pack("!BBH", 0x21, kind, len(block)) + block


def parse(data: bytes) -> Header | None:
    """Return the header at the beginning of the bytes, or None if the header is incomplete.

    At most `MAX_V2` bytes are needed. Raises ProxyProtocolError as soon as the bytes cannot be a header.
    """
    if data[:1] == SIGNATURE[:1]:
        return _parse_v2(data)
    return _parse_v1(data)


def _parse_v1(data: bytes) -> Header | None:
    if data[: len(_V1)] != _V1[: len(data)]:
        raise ProxyProtocolError("no PROXY protocol header")
    line, end, _ = data[:MAX_V1].partition(b"\r\n")
    if not end:
        if len(data) >= MAX_V1:
            raise ProxyProtocolError(f"the PROXY line has no end within {MAX_V1} bytes")
        if b"\n" in line or b"\r" in line[:-1]:
            raise ProxyProtocolError("the PROXY line does not end in CR LF")
        return None
    if b"\n" in line or b"\r" in line:
        raise ProxyProtocolError("the PROXY line does not end in CR LF")
    size = len(line) + 2
    fields = line.split(b" ")
    if fields[1] == b"UNKNOWN":
        return Header(size)
    family = {b"TCP4": socket.AF_INET, b"TCP6": socket.AF_INET6}.get(fields[1])
    if family is None or len(fields) != 6:
        raise ProxyProtocolError("the PROXY line is not of the form TCP4|TCP6 ADDRESS ADDRESS PORT PORT")
    hosts = [_address(family, field) for field in fields[2:4]]
    ports = [_port(field) for field in fields[4:]]
    return Header(size, (hosts[0], ports[0]), (hosts[1], ports[1]))


def _parse_v2(data: bytes) -> Header | None:
    if data[: len(SIGNATURE)] != SIGNATURE[: len(data)]:
        raise ProxyProtocolError("no PROXY protocol header")
    if len(data) > 12 and data[12] not in (0x20, 0x21):
        raise ProxyProtocolError(f"PROXY protocol version and command {data[12]:#04x} are unknown")
    if len(data) < 16:
        return None
    command, kind, length = struct.unpack_from("!BBH", data, 12)
    size = 16 + length
    if size > MAX_V2:
        raise ProxyProtocolError(f"the PROXY protocol header is {size} bytes long: more than {MAX_V2}")
    if command == 0x21 and (kind >> 4 > 3 or kind & 15 > 2):
        raise ProxyProtocolError(f"PROXY protocol family and transport {kind:#04x} are unknown")
    if command == 0x21 and length < _LENGTHS.get(kind, 0):
        raise ProxyProtocolError(f"the PROXY protocol header has no room for its addresses: {length} bytes")
    if len(data) < size:
        return None
    if command == 0x20 or kind not in (0x11, 0x21):
        return Header(size)
    family, width = (socket.AF_INET, 4) if kind == 0x11 else (socket.AF_INET6, 16)
    hosts = [plain(socket.inet_ntop(family, data[at : at + width])) for at in (16, 16 + width)]
    ports = struct.unpack_from("!HH", data, 16 + 2 * width)
    return Header(size, (hosts[0], ports[0]), (hosts[1], ports[1]))


def _packed(family: int, address: str) -> bytes:
    """Return an address in binary form; an IPv4 address is mapped into IPv6 if the family is IPv6."""
    if family == socket.AF_INET6 and ":" not in address:
        address = f"::ffff:{address}"
    return socket.inet_pton(family, address.partition("%")[0])


def _address(family: int, field: bytes) -> str:
    try:
        return plain(socket.inet_ntop(family, socket.inet_pton(family, field.decode("ascii"))))
    except (OSError, ValueError):
        raise ProxyProtocolError("the PROXY line has an invalid address") from None


def _port(field: bytes) -> int:
    if not field.isdigit() or (field[:1] == b"0" and field != b"0") or int(field) > 65535:
        raise ProxyProtocolError("the PROXY line has an invalid port")
    return int(field)
