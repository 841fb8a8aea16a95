"""States of HAProxy's servers, carried over a reload, so that a server that is down gets no requests afterwards.

Format: HAProxy's management guide, "show servers state". A saved row overrides the address and port of the new
configuration, so only rows whose address and port are unchanged are kept.
"""

import re
from collections.abc import Collection

from discovery_haproxy.runtime_api.configuration import Configuration, parse
from discovery_haproxy.runtime_api.planner import ServerKey
from discovery_haproxy.runtime_api.read_back import FORCED_MAINTENANCE

EMPTY_STATES = "1\n"
"""A server-state file without rows: HAProxy complains of a missing file."""

_BACKEND = re.compile(r"^(?:backend|listen)[ \t]+(\S+)")
_SECTION = re.compile(r"^\w")
_SERVER = re.compile(r"^[ \t]+server[ \t]+(\S+)[ \t]+(\S+)")
_BACKEND_NAME, _SERVER_NAME, _ADDRESS, _ADMINISTRATIVE, _WEIGHT, _INITIAL_WEIGHT = 1, 3, 4, 6, 7, 8
_RESULT, _FQDN, _PORT = 11, 17, 18
"""Column numbers of a row."""
_FAILED = "2"
"""Result of a check that has failed."""


def keep_configured(
    states: str, text: str, running: Configuration | None = None, undecided: Collection[ServerKey] = ()
) -> str:
    """Return those rows of `show servers state` that match a server of the configuration `text`.

    `running` is the configuration that HAProxy serves. The runtime API may have changed servers since HAProxy's start,
    and HAProxy restores a weight if the initial weight of the row is that of the new configuration. So the initial
    weight is that of `running`, and a row of a removed server, which the runtime API has put into maintenance, is left
    out. If `running` is None, the weights are those of the text, and servers in maintenance are left out. Servers
    `undecided` are left out until HAProxy has checked them: a server is up after a reload until a check fails.
    """
    configured = _servers(text)
    before = (running or parse(text)).backends
    kept = []
    for line in states.splitlines():
        words = line.split()
        if len(words) <= _PORT or words[0].startswith("#"):
            if words:
                kept.append(line)  # the version and the column names
            continue
        key = words[_BACKEND_NAME], words[_SERVER_NAME]
        section = before.get(key[0])
        if section is not None and section.split:
            if key[1] not in section.servers or (key in undecided and words[_RESULT] != _FAILED):
                continue
            if running is None and int(words[_ADMINISTRATIVE]) & FORCED_MAINTENANCE:
                continue
            if (server := section.server(key[1])) is not None:
                words[_INITIAL_WEIGHT] = str(server.weight)
                if running is None:
                    words[_WEIGHT] = words[_INITIAL_WEIGHT]
                line = " ".join(words)  # noqa: PLW2901
        host = words[_ADDRESS] if words[_FQDN] == "-" else words[_FQDN]
        if configured.get(key) == (host, words[_PORT]):
            kept.append(line)
    return "".join(f"{line}\n" for line in kept)


def _servers(text: str) -> dict[tuple[str, str], tuple[str, str]]:
    """Return host and port of each server, by the names of its section and server."""
    servers = {}
    section = None
    for line in text.splitlines():
        if match := _BACKEND.match(line):
            section = match[1]
        elif _SECTION.match(line):
            section = None
        elif section is not None and (match := _SERVER.match(line)):
            host, _, port = match[2].rpartition(":")
            servers[section, match[1]] = (host.strip("[]"), port)
    return servers
