"""PROXY protocol: what is written is read, hostile input is refused soon, and HAProxy understands us and we it."""

import ipaddress
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from discovery.testing import eventually_sync, free_port, require_program, within
from discovery_tcpproxy.worker.access import plain
from discovery_tcpproxy.worker.proxyproto import (
    MAX_V1,
    MAX_V2,
    SIGNATURE,
    Endpoint,
    Header,
    ProxyProtocolError,
    parse,
    write,
)

VERSIONS = ("v1", "v2")
ports = st.integers(0, 65535)
endpoints = st.tuples(st.ip_addresses().map(str), ports)
blobs = st.binary(max_size=40)


def normal(endpoint: Endpoint) -> Endpoint:
    """An end as it is told: an IPv4 address that is mapped into IPv6 is that IPv4 address."""
    address = ipaddress.ip_address(endpoint[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or plain(socket.inet_ntop(*packed(endpoint[0])))), endpoint[1]


def packed(address: str) -> tuple[int, bytes]:
    """An address as inet_ntop takes it: the standard library's two halves do not write all of them alike."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return family, socket.inet_pton(family, address)


def v2(command: int, kind: int, body: bytes) -> bytes:
    """A header of version 2."""
    return SIGNATURE + struct.pack("!BBH", command, kind, len(body)) + body


def arriving(data: bytes) -> Header | None:
    """What becomes of data that arrives byte by byte; it makes no difference how it arrives."""
    for size in range(len(data) + 1):
        try:
            header = parse(data[:size])
        except ProxyProtocolError as error:
            # Whatever follows, it is none.
            with pytest.raises(ProxyProtocolError):
                parse(data)
            assert str(error).isprintable()
            raise
        if header is not None:
            assert header.size == size
            assert parse(data) == header
            return header
    return None


@given(st.sampled_from(VERSIONS), endpoints, endpoints, blobs)
def test_parse_reads_a_written_header(version: str, source: Endpoint, destination: Endpoint, after: bytes) -> None:
    header = write(version, source, destination)
    assert arriving(header + after) == Header(len(header), normal(source), normal(destination))
    assert len(header) <= MAX_V1


@pytest.mark.parametrize("version", VERSIONS)
def test_the_header_of_a_unix_socket_has_no_addresses(version: str) -> None:
    header = write(version, None, None)
    assert arriving(header + b"GET") == Header(len(header))
    assert write(version, ("192.0.2.1", 5), None) == header


def test_write_follows_the_specification() -> None:
    ends = ("192.168.0.1", 56324), ("192.168.0.11", 443)
    assert write("v1", *ends) == b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
    assert write("v1", None, None) == b"PROXY UNKNOWN\r\n"
    signature = bytes.fromhex("0D0A0D0A000D0A515549540A")
    assert write("v2", *ends) == signature + bytes.fromhex("2111000C C0A80001 C0A8000B DC04 01BB")
    assert write("v2", None, None) == signature + bytes.fromhex("20000000")
    assert write("v1", ("192.0.2.1", 1), ("2001:db8::1", 2)) == b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 1 2\r\n"
    assert write("v1", ("fe80::1%eth0", 1), ("fe80::2", 2)) == b"PROXY TCP6 fe80::1 fe80::2 1 2\r\n"


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN whatever there is\r\n",
        b"PROXY UNKNOWN" + 2 * b" ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff" + b" 65535 65535\r\n",
    ],
)
def test_unknown_is_accepted_without_addresses(line: bytes) -> None:
    assert arriving(line + b"after") == Header(len(line))


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1\r\n",
        b"PROXY",
        b"PROXYTCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY \r\n",
        b"PROXY UNKNOWN\n",
        b"PROXY UNKNOWN\r\r\n",
        b"PROXY UNKNOWN\rx",
        b"PROXY UNKNOWN a\nb\r\n",
        b"PROXY UNKNOWN a\rb\r\n",
        b"PROXY TCP4\r\n",
        b"PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
        b"PROXY TCP4 192.0.2.1  192.0.2.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 99999999999\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 -2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 ٣\r\n".encode(),
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1_0 2\r\n",
        b"PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY TCP6 fe80::1%lo ::1 1 2\r\n",
        b"PROXY TCP6 [::1] ::1 1 2\r\n",
        b"PROXY TCP4 192.0.2.1\0 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 \xff\xfe 192.0.2.2 1 2\r\n",
        b"PROXY UNKNOWN " + b"x" * (MAX_V1 - 15) + b"\r\n",
    ],
)
def test_an_invalid_header_of_version_1_is_refused(line: bytes) -> None:
    if line == b"PROXY":
        assert arriving(line) is None
    else:
        with pytest.raises(ProxyProtocolError):
            arriving(line + b"x")


def test_a_line_without_an_end_is_refused_at_the_maximum_length() -> None:
    line = b"PROXY UNKNOWN " + b"x" * MAX_V1
    assert parse(line[: MAX_V1 - 1]) is None
    with pytest.raises(ProxyProtocolError):
        parse(line[:MAX_V1])


@pytest.mark.parametrize("kind", [0x00, 0x01, 0x02, 0x10, 0x12, 0x22, 0x31, 0x32, 0x20, 0x30])
def test_a_valid_header_for_another_protocol_is_accepted_without_addresses(kind: int) -> None:
    data = v2(0x21, kind, bytes(216))
    assert arriving(data + b"after") == Header(len(data))


@given(kind=st.integers(0, 255), body=blobs)
def test_a_local_header_is_skipped_by_its_length(kind: int, body: bytes) -> None:
    data = v2(0x20, kind, body)
    assert arriving(data + b"after") == Header(len(data))


@given(st.sampled_from([0x11, 0x21]), st.lists(st.tuples(st.integers(0, 255), blobs), max_size=4), blobs)
def test_extensions_after_the_addresses_are_skipped(kind: int, tlvs: list[tuple[int, bytes]], after: bytes) -> None:
    ends = struct.pack("!4s4sHH", b"\xc0\0\2\1", b"\xc0\0\2\2", 1, 2)
    if kind == 0x21:
        ends = struct.pack("!16s16sHH", bytes(15) + b"\1", bytes(15) + b"\2", 1, 2)
    data = v2(0x21, kind, ends + b"".join(struct.pack("!BH", type_, len(value)) + value for type_, value in tlvs))
    hosts = ("192.0.2.1", "192.0.2.2") if kind == 0x11 else ("::1", "::2")
    assert arriving(data + after) == Header(len(data), (hosts[0], 1), (hosts[1], 2))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (SIGNATURE[:4] + b"x", "no PROXY protocol header"),
        (v2(0x11, 0x11, bytes(12)), "version and command 0x11"),
        (v2(0x31, 0x11, bytes(12)), "version and command 0x31"),
        (v2(0x22, 0x11, bytes(12)), "version and command 0x22"),
        (v2(0x21, 0x41, bytes(12)), "family and transport 0x41"),
        (v2(0x21, 0x13, bytes(12)), "family and transport 0x13"),
        (v2(0x21, 0x11, bytes(11)), "no room for its addresses: 11 bytes"),
        (v2(0x21, 0x21, bytes(35)), "no room for its addresses: 35 bytes"),
        (v2(0x21, 0x31, bytes(215)), "no room for its addresses: 215 bytes"),
        (v2(0x20, 0x00, bytes(MAX_V2 - 15)), f"more than {MAX_V2}"),
        (v2(0x20, 0x00, bytes(65535)), f"more than {MAX_V2}"),
    ],
)
def test_an_invalid_header_of_version_2_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(ProxyProtocolError, match=says):
        arriving(data)
    # And that by its first 16 bytes, before what it promises has arrived.
    with pytest.raises(ProxyProtocolError):
        parse(data[:16])


@given(
    st.binary(max_size=300)
    | st.binary(max_size=300).map(lambda data: SIGNATURE + data)
    | st.binary(max_size=120).map(lambda data: b"PROXY " + data)
    | st.lists(st.sampled_from([b"PROXY", b" ", b"TCP4", b"TCP6", b"UNKNOWN", b"1", b"::", b"1.1.1.1", b"\r", b"\n"]))
    .map(b"".join)
)  # fmt: skip
@example(b"")
def test_arbitrary_data_is_a_header_or_incomplete_or_refused(data: bytes) -> None:
    try:
        header = arriving(data)
    except ProxyProtocolError:
        return
    if header is None:
        assert len(data) < (MAX_V2 if data.startswith(SIGNATURE[:1]) else MAX_V1)
    else:
        assert 0 < header.size <= len(data)


@pytest.fixture(scope="module")
def haproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Haproxy"]:
    """HAProxy that sends us headers, and tells what it makes of ours."""
    program = require_program("haproxy")
    directory = tmp_path_factory.mktemp("haproxy")
    with ExitStack() as stack:
        running = Haproxy(directory, stack)
        config = directory / "haproxy.cfg"
        config.write_text(running.config())
        process = stack.enter_context(subprocess.Popen([program, "-db", "-f", config], stderr=subprocess.DEVNULL))
        stack.callback(process.wait)
        stack.callback(process.kill)

        def up() -> bool:
            assert process.poll() is None
            try:
                socket.create_connection(("127.0.0.1", running.telling), 5).close()
            except ConnectionRefusedError:
                return False
            return True

        eventually_sync(up, "HAProxy to listen")
        yield running


class Haproxy:
    """Where it listens, and where it connects to."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        """Have the sockets ready that it connects to."""
        self.telling = free_port()
        self.forwarding: dict[tuple[str, str], int | str] = {}
        self.targets: dict[str, socket.socket] = {}
        for version in VERSIONS:
            self.targets[version] = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            self.targets[version].settimeout(within(20))
            self.forwarding[version, "127.0.0.1"] = free_port()
            self.forwarding[version, "::1"] = free_port()
            self.forwarding[version, "unix"] = str(directory / f"{version}.sock")

    def config(self) -> str:
        """Its configuration."""
        lines = ["defaults", "  mode tcp", "  timeout connect 20s", "  timeout client 20s", "  timeout server 20s"]
        for version, option in zip(VERSIONS, ("send-proxy", "send-proxy-v2"), strict=True):
            port = self.targets[version].getsockname()[1]
            lines += [
                f"listen {version}",
                f"  bind 127.0.0.1:{self.forwarding[version, '127.0.0.1']}",
                f"  bind [::1]:{self.forwarding[version, '::1']}",
                f"  bind unix@{self.forwarding[version, 'unix']}",
                f"  server us 127.0.0.1:{port} {option}",
            ]
        tells = "%[src] %[src_port] %[dst] %[dst_port]"
        return "\n".join(
            [
                *lines,
                "frontend telling",
                "  mode http",
                f"  bind 127.0.0.1:{self.telling} accept-proxy",
                f'  http-request return status 200 content-type text/plain lf-string "{tells}"',
                "",
            ]
        )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "unix"])
def test_parse_reads_headers_of_haproxy(haproxy: Haproxy, version: str, host: str) -> None:
    where = haproxy.forwarding[version, host]
    with (
        socket.socket(socket.AF_UNIX)
        if host == "unix"
        else socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as client
    ):
        client.settimeout(within(20))
        client.connect(where if host == "unix" else (host, where))
        client.sendall(b"hello")
        accepted, _ = haproxy.targets[version].accept()
        with accepted:
            accepted.settimeout(within(20))
            data = b""
            while (header := parse(data)) is None or len(data) < header.size + 5:
                more = accepted.recv(1)
                assert more, data
                data += more
        assert data[header.size :] == b"hello"
        if host == "unix":
            assert (header.source, header.destination) == (None, None)
        else:
            assert (header.source, header.destination) == (client.getsockname()[:2], client.getpeername()[:2])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "ends",
    [
        (("192.0.2.1", 1), ("198.51.100.2", 65535)),
        (("2001:db8::1", 2), ("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", 443)),
        (("192.0.2.1", 5), ("2001:db8::1", 80)),
        None,
    ],
)
def test_haproxy_reads_written_headers(haproxy: Haproxy, version: str, ends: tuple[Endpoint, Endpoint] | None) -> None:
    with socket.create_connection(("127.0.0.1", haproxy.telling), 20) as client:
        expected = ends or (client.getsockname(), client.getpeername())
        client.sendall(write(version, *(ends or (None, None))) + b"GET / HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b"")).decode()
    assert answer.startswith("HTTP/1.1 200 "), answer
    source, source_port, destination, destination_port = answer.partition("\r\n\r\n")[2].split()
    assert (plain(source), int(source_port)) == expected[0]
    assert (plain(destination), int(destination_port)) == expected[1]
