"""The health checks of servers, as a section's lines describe them."""

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from discovery_haproxy.text.configuration import Section
from discovery_haproxy.text.server_line import Server

_OTHER_CHECKS = frozenset(["httpchk", "ssl-hello-chk", "smtpchk", "tcp-check"])
_OTHER_CHECK_SUFFIX = "-check"
"""Options that make a check more than a connection: those above, and `mysql-check`, `redis-check` and so on."""
_CHECK_WORDS = frozenset(["ssl", "check-ssl", "check-send-proxy", "check-sni", "check-alpn", "check-proto", "source"])
"""Words of a server that make its check more than a connection or a plain request."""
_SEND = re.compile(r"http-check send meth ([A-Z]+) uri ([^\s\"'\\\\]+) ver HTTP/1\.1 hdr Host ([^\s\"'\\\\]+)")
_EXPECT = re.compile(r"http-check expect status ([0-9]{3}(?:-[0-9]{3})?(?:,[0-9]{3}(?:-[0-9]{3})?)*)")
"""The lines of an HTTP check in the built-in template."""
_REMEMBERED = 256
"""Sections of which the lines are remembered, so that a change of 1,000 servers looks at the lines once."""

Address = IPv4Address | IPv6Address | str


class Connect(NamedTuple):
    """A check that is a TCP connection to this address and port."""

    address: Address
    port: int


class Request(NamedTuple):
    """A check that is an HTTP request. `status` has inclusive ranges of the statuses that pass."""

    address: Address
    port: int
    method: str
    uri: str
    host: str
    status: tuple[tuple[int, int], ...]


class HAProxyCheck(NamedTuple):
    """A check that HAProxy alone can perform, such as a conversation with a database."""


Check = Connect | Request | HAProxyCheck | None
"""The health check of a server; None if the server is not checked."""


def check_of(section: Section, server: Server) -> Check:
    """Return the health check of a server."""
    if "check" not in server.options:
        return None
    if not _CHECK_WORDS.isdisjoint(server.options):
        return HAProxyCheck()
    address, port = server.options.get("addr", server.address), int(server.options.get("port", server.port))
    check = _check_of_section(section.inherited, section.lines)
    if isinstance(check, _RequestLine):
        return Request(address, port, *check)
    return HAProxyCheck() if check is not None else Connect(address, port)


class _RequestLine(NamedTuple):
    method: str
    uri: str
    host: str
    status: tuple[tuple[int, int], ...]


@lru_cache(maxsize=_REMEMBERED)
def _check_of_section(inherited: tuple[str, ...], lines: tuple[str, ...]) -> _RequestLine | HAProxyCheck | None:
    """Return what the lines of a section make of its servers' checks; None for a connection."""
    section = Section("", lines, inherited)
    options = [words[1:] for words in section.settings("option") if _is_check(words[1:])]
    if not options:
        return None
    http_lines = [line for line in (*inherited, *lines) if line.startswith("http-check")]
    if options != [["httpchk"]] or len(http_lines) != 2:
        return HAProxyCheck()
    send, expect = _SEND.fullmatch(http_lines[0]), _EXPECT.fullmatch(http_lines[1])
    if send is None or expect is None:
        return HAProxyCheck()
    return _RequestLine(send[1], send[2], send[3], tuple(map(_range, expect[1].split(","))))


def _is_check(option: list[str]) -> bool:
    return bool(option) and (option[0] in _OTHER_CHECKS or option[0].endswith(_OTHER_CHECK_SUFFIX))


def _range(text: str) -> tuple[int, int]:
    least, _, most = text.partition("-")
    return int(least), int(most or least)
