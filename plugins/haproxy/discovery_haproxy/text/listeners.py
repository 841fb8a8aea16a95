"""Addresses that a configuration makes HAProxy listen on, parsed from its text. Pure.

Forms and options: HAProxy's configuration manual, "4.2. bind", "5.1. Bind options" and "11. Address formats".
"""

import re
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import NamedTuple

from discovery_haproxy.text.words import words

_LINES = re.compile(r"^[ \t]*(bind|dgram-bind|stats[ \t]+socket)[ \t]+(\S.*)$", re.MULTILINE)
_PATH_PREFIX = re.compile(r"^[ \t]*unix-bind[ \t]+(?:.*[ \t])?prefix[ \t]+(\S+)", re.MULTILINE)
_FAMILY = re.compile(r"(?:(stream|dgram)\+)?(?:([a-z]+[0-9]?)@)?(.*)", re.DOTALL)
_PATH = re.compile(r"(?:stream\+)?(?:unix|uxst)@(.+)|(/.*)", re.DOTALL)
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_VALUE_OPTIONS = frozenset({"interface", "namespace"})
_FLAG_OPTIONS = frozenset({"transparent", "v4v6", "v6only"})
_IP_FAMILIES = {"ipv4": 4, "tcp4": 4, "udp4": 4, "quic4": 4, "ipv6": 6, "tcp6": 6, "udp6": 6, "quic6": 6, "tcp": None,
                "udp": None}  # fmt: skip
_DATAGRAM_FAMILIES = frozenset({"udp", "udp4", "udp6", "quic4", "quic6"})
_PATH_FAMILIES = frozenset({"unix", "uxst"})
_ANY = ("", "*")
_MOST_PORT = 65535
"""The largest port of TCP and UDP, which have 16 bits for it."""


class SocketKind(Enum):
    """The kind of a socket."""

    TCP = "tcp"
    UDP = "udp"
    PATH = "path"
    """A Unix socket with a path."""
    ABSTRACT = "abstract"
    """A Unix socket with a name that is no file."""


class Listener(NamedTuple):
    """A socket, or one for each port of a range, that HAProxy listens on."""

    kind: SocketKind
    name: str
    """Address, host name, path or abstract name; empty for every address."""
    ports: range = range(0)
    ipv6: bool = False
    interface: str = ""
    """Network interface that the socket is bound to; empty for any."""
    transparent: bool = False
    """True if the address need not be one of this machine."""
    ipv6_only: bool | None = None
    """Whether an IPv6 socket leaves IPv4 alone; None if the system decides."""


def listeners_in(text: str, prefix: str | None = None) -> tuple[str, ...]:
    """Return each address that HAProxy listens on with this configuration, in HAProxy's syntax.

    `prefix` precedes the paths of Unix sockets; by default the text itself gives the prefix. A line with several
    addresses yields each address. The options that decide whether HAProxy can listen follow the address, after spaces.
    """
    if "bind" not in text and "stats" not in text:
        return ()  # found faster than by lines
    prefix = (path_prefix(text) or "") if prefix is None else prefix
    return tuple(sorted({each for match in _LINES.finditer(text) for each in _split(match[1], match[2], prefix)}))


def path_prefix(text: str) -> str | None:
    """Return what HAProxy puts before the paths of Unix sockets; None if the text does not say."""
    return match[1] if "unix-bind" in text and (match := _PATH_PREFIX.search(text)) else None


def parse_listener(listener: str) -> Listener | None:
    """Parse an element of `listeners_in`. None if its form does not tell where HAProxy listens.

    These are descriptors (`fd@`), addresses with variables, relative paths, and addresses in other namespaces.
    """
    address, *options = listener.split(" ")
    if "namespace" in options or any(character in address for character in "$\\\"'"):
        return None
    match = _FAMILY.fullmatch(address)
    assert match is not None  # noqa: S101 - the expression matches every text
    transport, family, rest = match.groups()
    if family == "abns":
        return Listener(SocketKind.ABSTRACT, rest) if transport != "dgram" else None
    if family in _PATH_FAMILIES or (family is None and rest.startswith("/")):
        return Listener(SocketKind.PATH, rest) if rest.startswith("/") and transport != "dgram" else None
    if family is not None and family not in _IP_FAMILIES:
        return None
    kind = SocketKind.UDP if transport == "dgram" or family in _DATAGRAM_FAMILIES else SocketKind.TCP
    return _parse_ip(rest, kind, _IP_FAMILIES[family] if family else None, options)


def _parse_ip(address: str, kind: SocketKind, version: int | None, options: Sequence[str]) -> Listener | None:
    host, _, ports = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    match = _PORTS.fullmatch(ports)
    if match is None or (version == 4 and ":" in host):
        return None
    first, last = int(match[1]), int(match[2] or match[1])
    if not 0 < first <= last <= _MOST_PORT:
        return None
    return Listener(
        kind,
        "" if host in _ANY else host,
        range(first, last + 1),
        ipv6=version == 6 or ":" in host,
        interface=options[options.index("interface") + 1] if "interface" in options else "",
        transparent="transparent" in options,
        ipv6_only=True if "v6only" in options else False if "v4v6" in options else None,
    )


def _split(keyword: str, line: str, prefix: str) -> Iterator[str]:
    addresses, *options = words(line) or [""]
    kept = _kept_options(options)
    for address in addresses.split(","):
        if not address or " " in address:
            continue
        if (match := _PATH.fullmatch(address)) is not None:
            path = match[1] or match[2]
            place = path if keyword.startswith("stats") else prefix + path
        elif keyword == "dgram-bind" and "@" not in address:
            place = f"udp@{address}"
        else:
            place = address
        yield " ".join((place, *kept))


def _kept_options(options: Sequence[str]) -> list[str]:
    kept = []
    for index, option in enumerate(options):
        if option in _FLAG_OPTIONS:
            kept.append(option)
        elif option in _VALUE_OPTIONS and index + 1 < len(options):
            kept += (option, options[index + 1])
    return kept
