"""Drift: the differences of live servers from the wanted servers, and the changes of an operator. Pure functions.

The runtime API does not tell who has changed a server. The rules:

- Membership, addresses and ids are never an operator's: a difference is drift.
- Maintenance, draining and a check that is switched off are an operator's: discovery drains a server by its weight, and
  puts only servers into maintenance that the configuration no longer has. A server that was added and never put into
  service, during a change that may have been interrupted, is drift.
- A weight is an operator's unless discovery itself can have left the weight there. That is possible only until the
  servers of a worker have been seen as wanted: in a worker that another program has started, the initial weight is
  drift; after a change that may have been interrupted, the weight before the change is drift.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from discovery_haproxy.runtime_api.planner import ServerKey
from discovery_haproxy.runtime_api.read_back import LiveServer, is_at
from discovery_haproxy.text.configuration import Configuration, Section
from discovery_haproxy.text.server_line import Server
from discovery_haproxy.text.server_runs import ServerLine

_QUOTING = re.compile(r"""["'\\#]""")
"""Characters of a line that only a parser can read."""
_ADDRESS = 2
"""Index of the address among the words of a `server` line."""


class DriftKind(StrEnum):
    """A kind of drift."""

    MEMBERSHIP = "membership"
    ADDRESS = "address"
    ID = "id"
    WEIGHT = "weight"
    STATE = "state"
    CHECK = "check"


class Drift(NamedTuple):
    """A difference that no operator has made. `text` says the difference in words."""

    kind: DriftKind
    key: ServerKey
    text: str

    def __str__(self) -> str:
        """Return one line for a person."""
        return f"{'/'.join(self.key)} {self.text}"


class OperatorChange(NamedTuple):
    """The settings of a server that an operator has made through a socket. `weight` is None for the wanted weight."""

    maintenance: bool = False
    draining: bool = False
    weight: int | None = None
    unchecked: bool = False

    def joined(self, other: "OperatorChange") -> "OperatorChange":
        """Return these settings and those of `other`."""
        return OperatorChange(
            self.maintenance or other.maintenance,
            self.draining or other.draining,
            self.weight if other.weight is None else other.weight,
            self.unchecked or other.unchecked,
        )

    def without(self, other: "OperatorChange") -> "OperatorChange":
        """Return the settings that `other` lacks."""
        return OperatorChange(
            self.maintenance and not other.maintenance,
            self.draining and not other.draining,
            self.weight if other.weight is None else None,
            self.unchecked and not other.unchecked,
        )

    def __str__(self) -> str:
        """Return the settings in words."""
        words = [
            "in maintenance" if self.maintenance else "",
            "draining" if self.draining else "",
            "" if self.weight is None else f"weight {self.weight}",
            "without checks" if self.unchecked else "",
        ]
        return ", ".join(filter(None, words))


NO_CHANGE = OperatorChange()


@dataclass(frozen=True, slots=True)
class Comparison:
    """The live servers of a section, compared with the wanted servers."""

    actual: Section
    """The section as HAProxy has the section, but for the changes of an operator: what a repair starts from."""
    drifts: tuple[Drift, ...]
    operator: Mapping[ServerKey, OperatorChange]
    leftover: Mapping[ServerKey, Server | None]
    """Servers in maintenance that a repair puts back into service."""


def compare(
    section: Section,
    live: Mapping[str, LiveServer],
    removed: Collection[ServerKey],
    earlier: Section | None = None,
    *,
    new_worker: bool = False,
) -> Comparison:
    """Compare the live servers of a section, by name, with the wanted servers.

    `removed` are servers that wait for their deletion. `earlier` is the section before the last change, if that change
    may have been interrupted. `new_worker` is true if another program has started the worker, and its servers have not
    been seen as wanted.
    """
    drifts: list[Drift] = []
    operator: dict[ServerKey, OperatorChange] = {}
    leftover: dict[ServerKey, Server | None] = {}
    actual: dict[str, ServerLine] = {}
    for name, line in section.servers.items():
        key, row = (section.name, name), live.get(name)
        if row is None:
            drifts.append(Drift(DriftKind.MEMBERSHIP, key, "is missing"))
            continue
        actual[name] = line
        if _is_as_told(line, row):
            continue  # as nearly always, without parsing
        server = section.server(name)
        if row.removed and not (row.disabled or row.check_paused) and earlier and name not in earlier.servers:
            drifts.append(Drift(DriftKind.STATE, key, "is in maintenance"))
            leftover[key] = server
            del actual[name]
            continue
        found: list[Drift] = []
        if server is not None:
            before = _server(earlier, name)
            ours = {row.initial_weight} if new_worker else set()
            ours |= {before.weight} if before is not None else set()
            found = [Drift(kind, key, text) for kind, text in _differences(server, row, ours)]
            if found:
                actual[name] = _actual_line(name, server, row, {each.kind for each in found})
        drifts += found
        if (change := _operator_change(server, row, {each.kind for each in found})) != NO_CHANGE:
            operator[key] = change
    for name, row in live.items():
        key = section.name, name
        if name not in section.servers and not (row.removed and key in removed):
            drifts.append(Drift(DriftKind.MEMBERSHIP, key, f"is there, at {row.address} port {row.port}"))
            options = before.options if (before := _server(earlier, name)) is not None else {"id": row.id}
            actual[name] = _line(name, options, row, row.weight)
    return Comparison(replace(section, servers=actual), tuple(drifts), operator, leftover)


def by_section(live: Mapping[ServerKey, LiveServer]) -> dict[str, dict[str, LiveServer]]:
    """Return the servers by the names of section and server."""
    sections: dict[str, dict[str, LiveServer]] = {}
    for (section, name), row in live.items():
        sections.setdefault(section, {})[name] = row
    return sections


def compare_all(
    configuration: Configuration,
    earlier: Configuration | None,
    live: Mapping[str, Mapping[str, LiveServer]],
    *,
    new_worker: bool = False,
) -> list[Comparison]:
    """Compare a whole configuration. Servers in maintenance that are not configured are being deleted."""
    before = earlier.backends if earlier else {}
    return [
        compare(
            section,
            live.get(name, {}),
            {(name, server) for server, row in live.get(name, {}).items() if row.removed},
            before.get(name),
            new_worker=new_worker,
        )
        for name, section in configuration.backends.items()
        if section.split
    ]


def removed_servers(
    configuration: Configuration, earlier: Configuration | None, live: Mapping[str, Mapping[str, LiveServer]]
) -> dict[ServerKey, Server | None]:
    """Return the removed servers. Their options are those of the earlier configuration."""
    before = earlier.backends if earlier else {}
    return {
        (name, server): _server(before.get(name), server)
        for name, section in configuration.backends.items()
        if section.split
        for server, row in live.get(name, {}).items()
        if server not in section.servers and row.removed
    }


def _differences(server: Server, row: LiveServer, ours: Collection[int]) -> Iterator[tuple[DriftKind, str]]:
    if not is_at(server, row):
        yield DriftKind.ADDRESS, f"is at {row.address} port {row.port}, not at {server.address} port {server.port}"
    if server.options.get("id", row.id) != row.id:
        yield DriftKind.ID, f"has the id {row.id}, not {server.options['id']}"
    if row.weight != server.weight and row.weight in ours:
        yield DriftKind.WEIGHT, f"has the weight {row.weight}, not {server.weight}"
    if ("check" in server.options) != row.checked and not row.disabled:
        yield DriftKind.CHECK, "is checked" if row.checked else "is not checked"


def _operator_change(server: Server | None, row: LiveServer, drifts: Collection[DriftKind]) -> OperatorChange:
    differs = server is not None and row.weight != server.weight and DriftKind.WEIGHT not in drifts
    return OperatorChange(
        maintenance=row.removed and not row.disabled,
        draining=row.draining,
        weight=row.weight if differs else None,
        unchecked=row.checked and not row.check_enabled and not row.disabled,
    )


def _server(section: Section | None, name: str) -> Server | None:
    return section.server(name) if section is not None and name in section.servers else None


def _actual_line(name: str, server: Server, row: LiveServer, drifts: Collection[DriftKind]) -> ServerLine:
    """Return the line of a server as HAProxy has the server. The weight of an operator counts as the wanted weight."""
    options = dict(server.options)
    if DriftKind.ID in drifts:
        options["id"] = row.id
    if DriftKind.CHECK in drifts and options.pop("check", None) is None:
        options["check"] = ""
    return _line(name, options, row, row.weight if DriftKind.WEIGHT in drifts else server.weight)


def _line(name: str, options: Mapping[str, str], row: LiveServer, weight: int) -> ServerLine:
    words = " ".join(f"{keyword} {value}".rstrip() for keyword, value in options.items())
    return ServerLine(f"server {name} {_host_port(row)} weight {weight} {words}".rstrip(), ())


def _host_port(row: LiveServer) -> str:
    if row.address == "-":
        return f"0.0.0.0:{row.port or 1}"  # a server without an address, which a repair gives one
    return f"[{row.address}]:{row.port}" if ":" in row.address else f"{row.address}:{row.port}"


def _is_as_told(line: ServerLine, row: LiveServer) -> bool:
    """Report whether the line describes a live server that nobody has changed.

    False means that only parsing can tell.
    """
    if row.removed or row.draining or row.checked is not row.check_enabled:
        return False
    if _QUOTING.search(line.text):
        return False
    words = line.text.split()
    if len(words) <= _ADDRESS:
        return False
    host, _, port = words[_ADDRESS].rpartition(":")
    return (
        host.strip("[]") == row.address
        and port == str(row.port)
        and _value(words, "id") in ("", row.id)
        and _value(words, "weight") == str(row.weight)
        and row.checked is ("check" in words or "check" in line.defaults)
    )


def _value(words: list[str], keyword: str) -> str:
    """Return the word after a keyword; empty if the keyword is not there."""
    at = words.index(keyword) if keyword in words else len(words)
    return words[at + 1] if at + 1 < len(words) else ""
