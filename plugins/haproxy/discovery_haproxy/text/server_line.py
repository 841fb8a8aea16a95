"""A `server` line of HAProxy's configuration, as far as the runtime API can express the line."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from discovery import join_host_port
from discovery_haproxy.text.words import words

HOLDING_SERVER = "discovery:hold"
"""Name of the server that refuses the requests of a service without backends, so that HAProxy tries again. No backend
of the registry has the name."""
HOLDING_ADDRESS = "127.0.0.1", 1
"""Address and port of that server. No program listens there."""
_NO_CHECK = "no-check"
"""Keyword that takes `check` of a `default-server` line back. A server that is added at run time needs no such word."""
_FLAGS = frozenset(
    [
        "backup",
        "check",
        "check-send-proxy",
        "check-ssl",
        "force-tlsv12",
        "force-tlsv13",
        "no-tls-tickets",
        "non-stick",
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2-ssl",
        "send-proxy-v2-ssl-cn",
        "ssl",
        "tfo",
    ]
)
"""Keywords without an argument that `add server` accepts."""
_VALUES = frozenset(
    [
        "addr",
        "alpn",
        "ca-file",
        "check-alpn",
        "check-proto",
        "check-sni",
        "ciphers",
        "ciphersuites",
        "cookie",
        "crl-file",
        "crt",
        "downinter",
        "error-limit",
        "fall",
        "fastinter",
        "id",
        "inter",
        "maxconn",
        "maxqueue",
        "minconn",
        "observe",
        "on-error",
        "on-marked-down",
        "on-marked-up",
        "pool-low-conn",
        "pool-max-conn",
        "pool-purge-delay",
        "port",
        "proto",
        "proxy-v2-options",
        "rise",
        "slowstart",
        "sni",
        "source",
        "ssl-max-ver",
        "ssl-min-ver",
        "verify",
        "verifyhost",
        "weight",
        "ws",
    ]
)
"""Keywords with an argument that `add server` accepts, `cookie` from 2.8 on."""
_LOOKUPS = frozenset(["init-addr", "resolvers", "resolve-opts", "resolve-prefer", "resolve-net"])
"""Keywords that concern host names alone. `add server` refuses these keywords, and an address needs none of them."""
_SAFE = re.compile(r"[A-Za-z0-9_.:,/@%+=()\[\]~*!|&?-]+")
"""A word that has one meaning in the configuration and on the socket, where `;`, `\\` and `<<` are special."""
_MOST_PORT = 65535
"""The largest TCP port: HAProxy's socket accepts larger numbers and takes their remainder."""
_REMEMBERED = 4096
"""Servers that are remembered, of a kilobyte each: a large change parses each line several times, as old and as new."""
_MOST_WEIGHT = 256
"""The largest weight that HAProxy accepts."""


class Server(NamedTuple):
    """A server with everything that its section's `default-server` lines add. A flag has an empty value."""

    address: IPv4Address | IPv6Address
    port: int
    weight: int
    options: Mapping[str, str]

    @property
    def host_port(self) -> str:
        """Address and port as `host:port`."""
        return join_host_port(str(self.address), self.port)

    @property
    def place(self) -> tuple[IPv4Address | IPv6Address, int]:
        """Address and port."""
        return self.address, self.port


@lru_cache(maxsize=_REMEMBERED)
def parse_server(line: str, defaults: tuple[str, ...]) -> Server | None:
    """Return the server of a `server` line, with the words of `default-server` lines.

    None if the runtime API cannot express the line: a host name, an unknown keyword, or characters with a meaning.
    """
    if "\\" in line:
        return None  # HAProxy decodes `\xHH`
    found = words(line) if any(character in line for character in "\"'#") else line.split()
    if len(found) < 3 or not all(map(_SAFE.fullmatch, (*found, *defaults))):
        return None
    options: dict[str, str] = {}
    if not (_collect(defaults, options) and _collect(found[3:], options)):
        return None
    host, _, port = found[2].rpartition(":")
    weight = options.pop("weight", "1")
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return None
    if not (port.isdecimal() and port.isascii() and 0 < int(port) <= _MOST_PORT):
        return None
    if not (weight.isdecimal() and weight.isascii() and int(weight) <= _MOST_WEIGHT):
        return None
    checked = options.get("port", port)
    if not checked.isdecimal() or int(checked) > _MOST_PORT:
        return None  # HAProxy ignores what follows a number
    return Server(address, int(port), int(weight), options)


def _collect(found: Sequence[str], options: dict[str, str]) -> bool:
    """Add options to `options`; return False if a keyword is unknown or lacks its argument."""
    rest = iter(found)
    for word in rest:
        if word == _NO_CHECK:
            options.pop("check", None)
            continue
        if word in _FLAGS:
            options[word] = ""
            continue
        value = next(rest, None)
        if value is None or word not in _VALUES | _LOOKUPS:
            return False
        if word in _VALUES:
            options[word] = value
    return True
