"""The servers of a running HAProxy, read back by `show servers state`, and their difference from a configuration.

Format: HAProxy's management guide, "show servers state".
"""

from collections.abc import Collection, Mapping
from ipaddress import ip_address
from typing import NamedTuple

from discovery_haproxy.runtime_api.planner import ServerKey
from discovery_haproxy.text.configuration import Configuration, Section
from discovery_haproxy.text.server_line import Server

FORCED_MAINTENANCE = 1
"""Bit of the administrative state that `set server ... state maint` sets."""
_FAILED = 2
"""Result of a check that has failed."""
_COLUMNS = 19
"""Columns up to the port, which is the last that is read."""


class LiveServer(NamedTuple):
    """A server of the running HAProxy. `address` is an IP address, or "-"."""

    id: str
    address: str
    port: int
    weight: int
    up: bool
    removed: bool
    """True if the server was put into maintenance through a socket, as removed servers are until their deletion."""
    failed: bool
    """True if HAProxy's last check of the server has failed."""


def parse_states(answer: str) -> dict[ServerKey, LiveServer]:
    """Parse the answer to `show servers state`. Raises ValueError for any other text."""
    if not answer.lstrip().startswith("1\n"):
        raise ValueError(f"not an answer to 'show servers state': {answer.strip()[:100]!r}")
    servers = {}
    for line in answer.splitlines():
        row = line.split()
        if len(row) < _COLUMNS or row[0].startswith("#"):
            continue
        _, section, id_, name, address, operational, administrative, weight = row[:8]
        removed = bool(int(administrative) & FORCED_MAINTENANCE)
        servers[section, name] = LiveServer(
            id_,
            address,
            int(row[18]),
            int(weight),
            up=operational != "0",
            removed=removed,
            failed=row[11] == str(_FAILED),
        )
    return servers


def difference(
    section: Section,
    live: Mapping[ServerKey, LiveServer],
    removed: Collection[ServerKey],
    weighed: Collection[str] | None = None,
) -> str:
    """Return the first difference between the section and the live servers, in words; empty if there is none.

    `removed` may still exist. Weights are compared for the servers `weighed` alone, of which None means all: an
    operator may change other weights.
    """
    for name, line in section.servers.items():
        path, row = f"{section.name}/{name}", live.get((section.name, name))
        if row is None:
            return f"{path} is missing"
        compares_weight = weighed is None or name in weighed
        if not compares_weight and _is_at(line.text, row):
            continue  # as nearly always, without parsing
        server = section.server(name)
        if server is not None and (found := _server_difference(server, row, compares_weight)):
            return f"{path} {found}"
    names = {name for of, name in live if of == section.name}
    for name in names - section.servers.keys():
        if (section.name, name) not in removed:
            return f"{section.name}/{name} is there"
    return ""


def configuration_difference(
    configuration: Configuration, earlier: Configuration | None, live: Mapping[ServerKey, LiveServer]
) -> str:
    """Return the first difference between a whole configuration and the live servers, in words.

    Servers in maintenance that are not configured are being deleted. A weight or a maintenance that neither
    configuration explains was set by an operator, and is no difference. `earlier` is the configuration before.
    """
    removed = {key for key, row in live.items() if row.removed}
    before = earlier.backends if earlier else {}
    by_section: dict[str, dict[ServerKey, LiveServer]] = {}
    for key, row in live.items():
        by_section.setdefault(key[0], {})[key] = row
    for name, section in configuration.backends.items():
        found = _section_difference(section, before.get(name), by_section.get(name, {}), removed)
        if section.split and found:
            return found
    return ""


def _section_difference(
    section: Section, earlier: Section | None, live: Mapping[ServerKey, LiveServer], removed: Collection[ServerKey]
) -> str:
    if found := difference(section, live, removed, ()):
        return found
    if earlier is None:
        return ""
    for name, line in section.servers.items():
        row, before = live[section.name, name], earlier.servers.get(name)
        if row.removed and before is None:
            return f"{section.name}/{name} is in maintenance"
        if before is None or before == line:
            continue
        server, old = section.server(name), earlier.server(name)
        if server and old and row.weight == old.weight != server.weight:
            return f"{section.name}/{name} has the weight {row.weight}"
    return ""


def _is_at(line: str, row: LiveServer) -> bool:
    """Report whether the line says the address, port and id of the live server, in the form in which HAProxy says them.

    False means that only parsing can tell.
    """
    words = line.split()
    host, _, port = words[2].rpartition(":") if len(words) > 2 else ("", "", "")
    named = words[words.index("id") + 1 :] if "id" in words else [row.id]
    return host.strip("[]") == row.address and port == str(row.port) and named[:1] == [row.id]


def _server_difference(server: Server, row: LiveServer, weighed: bool) -> str:
    if row.address == "-" or (ip_address(row.address), row.port) != server.place:
        return f"is at {row.address} port {row.port}"
    if server.options.get("id", row.id) != row.id:
        return f"has the id {row.id}"
    if weighed and row.weight != server.weight:
        return f"has the weight {row.weight}"
    return ""
