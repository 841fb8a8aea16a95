"""The servers' states, carried over a reload, so that one that is down is not given requests until it is found out.

Format: HAProxy's management guide, "show servers state". A saved row overrides the port of the new configuration, so
only rows whose address and port are still wanted are kept.
"""

import re

NO_STATES = "1\n"
"""A state file without any: HAProxy complains of one that is missing."""

_BACKEND = re.compile(r"^(?:backend|listen)[ \t]+(\S+)")
_SECTION = re.compile(r"^\w")
_SERVER = re.compile(r"^[ \t]+server[ \t]+(\S+)[ \t]+(\S+)")
_NAME, _SERVER_NAME, _ADDRESS, _FQDN, _PORT = 1, 3, 4, 17, 18


def still_wanted(states: str, text: str) -> str:
    """Of the answer to `show servers state`, the rows that are true of the servers in the configuration `text`."""
    wanted = _servers(text)
    kept = []
    for line in states.splitlines():
        words = line.split()
        if len(words) <= _PORT or words[0].startswith("#"):
            if words:
                kept.append(line)  # the version, and the columns' names
            continue
        host = words[_ADDRESS] if words[_FQDN] == "-" else words[_FQDN]
        if wanted.get((words[_NAME], words[_SERVER_NAME])) == (host, words[_PORT]):
            kept.append(line)
    return "".join(f"{line}\n" for line in kept)


def _servers(text: str) -> dict[tuple[str, str], tuple[str, str]]:
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
