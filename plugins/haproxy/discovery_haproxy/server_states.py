"""States of HAProxy's servers, carried over a reload, so that a server that is down gets no requests afterwards.

Format: HAProxy's management guide, "show servers state". A saved row overrides the address and port of the new
configuration, so only rows whose address and port are unchanged are kept.
"""

import re

EMPTY_STATES = "1\n"
"""A server-state file without rows: HAProxy complains of a missing file."""

_BACKEND = re.compile(r"^(?:backend|listen)[ \t]+(\S+)")
_SECTION = re.compile(r"^\w")
_SERVER = re.compile(r"^[ \t]+server[ \t]+(\S+)[ \t]+(\S+)")
_BACKEND_NAME, _SERVER_NAME, _ADDRESS, _FQDN, _PORT = 1, 3, 4, 17, 18
"""Column numbers of a row."""


def keep_configured(states: str, text: str) -> str:
    """Return those rows of `show servers state` that match a server of the configuration `text`."""
    configured = _servers(text)
    kept = []
    for line in states.splitlines():
        words = line.split()
        if len(words) <= _PORT or words[0].startswith("#"):
            if words:
                kept.append(line)  # the version and the column names
            continue
        host = words[_ADDRESS] if words[_FQDN] == "-" else words[_FQDN]
        if configured.get((words[_BACKEND_NAME], words[_SERVER_NAME])) == (host, words[_PORT]):
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
