"""States of HAProxy's servers, carried over a reload, so that a server that is down gets no requests afterwards.

Format: HAProxy's management guide, "show servers state". A saved row overrides the address and port of the new
configuration, so the rows of servers that move are left out. If an operator has changed such a server, the row with the
new address and port is kept.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import ip_address

from discovery_haproxy.runtime_api.planner import ServerKey
from discovery_haproxy.runtime_api.read_back import CHECK_CONFIGURED, CHECK_ENABLED, FORCED_DRAIN, FORCED_MAINTENANCE
from discovery_haproxy.text.configuration import Configuration, Section, parse
from discovery_haproxy.text.server_line import HOLDING_SERVER
from discovery_haproxy.text.words import SECTIONS, words

EMPTY_STATES = "1\n"
"""A server-state file without rows: HAProxy complains of a missing file."""

_SERVER_WORDS = 3
"""Least number of words of a server's line: the keyword, the name and the address."""
_BACKEND_NAME, _SERVER_NAME, _ADDRESS, _OPERATIONAL, _ADMINISTRATIVE, _WEIGHT, _INITIAL_WEIGHT = 1, 3, 4, 5, 6, 7, 8
_RESULT, _CHECK, _FQDN, _PORT = 11, 13, 17, 18
"""Column numbers of a row."""
_DOWN = "0"
"""Operational state of a server that is down."""
_RUNNING = "2"
"""Operational state of a server that is up."""
_UNKNOWN = "0"
"""Result of a check before the first check."""
_FAILED = "2"
"""Result of a check that has failed."""


def has_servers(states: str) -> bool:
    """Report whether an answer to `show servers state`, or a state file, has the state of a server."""
    return any(map(_is_row, map(str.split, states.splitlines())))


def keep_configured(
    states: str,
    text: str,
    running: Configuration | None = None,
    undecided: Collection[ServerKey] = (),
    possible: Sequence[Configuration] = (),
    initially_down: Collection[str] = (),
) -> str:
    """Return those rows of `show servers state` that match a server of the configuration `text`.

    `running` is the configuration that HAProxy serves. The runtime API may have changed servers since HAProxy's start,
    and HAProxy restores a weight if the initial weight of the row is that of the new configuration. So the initial
    weight is that of `running`, and a row of a removed server, which the runtime API has put into maintenance, is left
    out. If `running` is None, the servers are between the configurations `possible`, after a change that was
    interrupted. Then a weight that one of these has becomes that of the text, and a server in maintenance that one of
    these lacks is left out; without any, these are all weights and all servers in maintenance. Servers `undecided` are
    left out until HAProxy has checked them: a server is up after a reload until a check fails. A server that moves and
    that an operator has changed has a row with the new address, which is up, or down in the sections `initially_down`.
    """
    configured = _servers(text)
    before = (running or parse(text)).backends
    between = [each.backends for each in possible]
    kept = []
    for line in states.splitlines():
        row = line.split()
        if not _is_row(row):
            if row:
                kept.append(line)  # the version and the column names
            continue
        key = row[_BACKEND_NAME], row[_SERVER_NAME]
        section = before.get(key[0])
        if section is not None and section.split:
            if key[1] not in section.servers or (key in undecided and row[_RESULT] != _FAILED):
                continue
            known = [each[key[0]] for each in between if key[0] in each and key[1] in each[key[0]].servers]
            is_operators = bool(known) and len(known) == len(between)
            if running is None and int(row[_ADMINISTRATIVE]) & FORCED_MAINTENANCE and not is_operators:
                continue
            if (server := section.server(key[1])) is not None:
                weights = _weights(known, key[1])
                if running is None and (int(row[_WEIGHT]) in weights or server.weight not in weights):
                    row[_WEIGHT] = str(server.weight)
                row[_INITIAL_WEIGHT] = str(server.weight)
                line = " ".join(row)  # noqa: PLW2901
        host = row[_ADDRESS] if row[_FQDN] == "-" else row[_FQDN]
        place = configured.get(key)
        if place == (host, row[_PORT]):
            kept.append(line)
        elif place is not None and row[_FQDN] == "-" and _is_operators(row) and _is_address(place[0]):
            row[_ADDRESS], row[_PORT] = place
            if not _is_unchecked(row):  # otherwise no check would change the health, which is the operator's
                is_down = key[0] in initially_down
                # The health in the row is that at the address before.
                row[_OPERATIONAL], row[_RESULT] = (_DOWN, _FAILED) if is_down else (_RUNNING, _UNKNOWN)
            kept.append(" ".join(row))
    return "".join(f"{line}\n" for line in kept)


def _is_operators(row: Sequence[str]) -> bool:
    """Report whether an operator has changed the server of a row, whose initial weight is the wanted weight."""
    is_forced = bool(int(row[_ADMINISTRATIVE]) & (FORCED_MAINTENANCE | FORCED_DRAIN))
    return is_forced or row[_WEIGHT] != row[_INITIAL_WEIGHT] or _is_unchecked(row)


def _is_unchecked(row: Sequence[str]) -> bool:
    """Report whether the server of a row has a check that is switched off."""
    return int(row[_CHECK]) & (CHECK_CONFIGURED | CHECK_ENABLED) == CHECK_CONFIGURED


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_row(words: list[str]) -> bool:
    """Report whether the words of a line are the state of a server."""
    return len(words) > _PORT and not words[0].startswith("#")


def _weights(sections: Iterable[Section], name: str) -> set[int]:
    """Return the weights that a server has in the sections."""
    return {server.weight for section in sections if (server := section.server(name)) is not None}


def with_stopped(states: str, configuration: Configuration, sections: Collection[str]) -> str:
    """Return the states with rows for the servers of `sections` that have none: these are down until a check passes."""
    if not sections:
        return states
    known = {(row[_BACKEND_NAME], row[_SERVER_NAME]) for row in map(str.split, states.splitlines()) if len(row) > _PORT}
    backends = configuration.backends
    wanted = [(name, server) for name in sections if name in backends for server in backends[name].servers]
    missing = [key for key in wanted if key not in known and key[1] != HOLDING_SERVER]
    return states + stopped(configuration, missing)


def stopped(configuration: Configuration, servers: Iterable[ServerKey]) -> str:
    """Return the rows of servers that are down until a check passes.

    A server whose line the runtime API cannot express, as with a host name, gets no row.
    """
    backends = configuration.backends
    rows = []
    for section, name in servers:
        if section in backends and name in backends[section].servers and (server := backends[section].server(name)):
            rows.append(
                f"0 {section} {server.options.get('id', 0)} {name} {server.address} {_DOWN} 0 {server.weight}"
                f" {server.weight} 0 1 {_FAILED} 0 6 0 0 1 - {server.port} - 0 0 - - 0\n"
            )
    return "".join(rows)


def sections_in(states: bytes) -> dict[str, slice]:
    """Return where the rows of each section begin and end, in bytes. The rows of a section are together."""
    sections: dict[str, slice] = {}
    at = 0
    for row in states.splitlines(keepends=True):
        words = row.split(maxsplit=_BACKEND_NAME + 1)
        if len(words) > _BACKEND_NAME + 1 and not row.startswith(b"#"):
            name = words[_BACKEND_NAME].decode()
            sections[name] = slice(sections[name].start if name in sections else at, at + len(row))
        at += len(row)
    return sections


def is_state_of(row: bytes, section: str, server: str) -> bool:
    """Report whether a row is the state of the server."""
    words = row.split(maxsplit=_SERVER_NAME + 1)
    return len(words) > _SERVER_NAME and (words[_BACKEND_NAME], words[_SERVER_NAME]) == (
        section.encode(),
        server.encode(),
    )


def server_of(row: str) -> ServerKey | None:
    """Return the server of a row; None for another line."""
    words = row.split(maxsplit=_SERVER_NAME + 1)
    is_row = len(words) > _SERVER_NAME + 1 and not row.startswith("#")
    return (words[_BACKEND_NAME], words[_SERVER_NAME]) if is_row else None


def rows_with_weights(states: str, weights: Mapping[ServerKey, int | None]) -> str:
    """Return the rows of these servers, with these weights, if known, as the initial weights."""
    rows = []
    for line in states.splitlines():
        server = server_of(line)
        if server is None or server not in weights:
            continue
        row, weight = line.split(), weights[server]
        if weight is not None:
            row[_INITIAL_WEIGHT] = str(weight)
        rows.append(" ".join(row))
    return "".join(f"{row}\n" for row in rows)


def _servers(text: str) -> dict[tuple[str, str], tuple[str, str]]:
    """Return host and port of each server, by the names of its section and server."""
    servers = {}
    section: str | None = None
    for line in text.split("\n"):
        found = words(line)
        if found and SECTIONS.fullmatch(found[0]):
            section = found[1] if found[0] in ("backend", "listen") and len(found) > 1 else None
        elif section is not None and len(found) >= _SERVER_WORDS and found[0] == "server":
            host, _, port = found[2].rpartition(":")
            servers[section, found[1]] = (host.strip("[]"), port)
    return servers
