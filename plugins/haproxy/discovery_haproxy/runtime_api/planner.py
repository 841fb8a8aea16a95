"""The planner: how a running HAProxy gets from one configuration to another. A pure function of the texts.

If the configurations differ in `server` lines of `backend` sections and in the contents of certificates and maps alone,
and the runtime API can express every difference, the plan is a list of steps. Otherwise the plan is a reload, with the
reason.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from operator import is_not
from typing import NamedTuple

from discovery_haproxy.runtime_api.backups import backup_behind
from discovery_haproxy.runtime_api.checks import Check, Connect, Request, check_of
from discovery_haproxy.runtime_api.costs import (
    FIRST_COSTS,
    Costs,
    addition_seconds,
    around_seconds,
    command_seconds,
    is_reload_better,
    removal_seconds,
)
from discovery_haproxy.runtime_api.defects import (
    MOST_MOVES,
    Broken,
    Defect,
    Version,
    default_algorithm,
    defect,
    dotted,
    takes_cookies,
)
from discovery_haproxy.text.configuration import Configuration, Section
from discovery_haproxy.text.generation import MARKS
from discovery_haproxy.text.server_line import Server, parse_server
from discovery_haproxy.text.server_runs import Differences, ServerLine, differences

_BY_POSITION = ("roundrobin", "leastconn")
"""Algorithms for which a server's id has no meaning, so that servers without an `id` can be added and removed."""
_DYNAMIC = (*_BY_POSITION, "first", "random")
"""Algorithms with which HAProxy accepts servers and weights at run time, as every hash of type `consistent`."""
_HASHES = ("source", "uri", "url_param", "hdr", "rdp-cookie", "hash")
"""Algorithms that hash a part of the request."""
_MOST_WORDS = 60
"""Words of a command: HAProxy ignores words after the 64th."""
_TWO_WORDS = frozenset(
    ["http-check", "http-request", "http-response", "no", "option", "stats", "tcp-check", "tcp-request", "timeout"]
)
"""Keywords of lines whose second word says what the line is about. The other words may be secret."""

ServerKey = tuple[str, str]
"""Names of a section and of a server in that section."""


class SetWeight(NamedTuple):
    """A new weight of a server. Weight 0 drains the server."""

    key: ServerKey
    server: Server


class Move(NamedTuple):
    """A new address or port of a server. Open connections stay at the old address."""

    key: ServerKey
    server: Server
    check: Check


class Add(NamedTuple):
    """A new server."""

    key: ServerKey
    server: Server
    check: Check


class Revive(NamedTuple):
    """A server that comes back while connections of its removed predecessor, with the same options, are still open."""

    key: ServerKey
    server: Server
    check: Check


class Remove(NamedTuple):
    """A server to be taken out of service, and deleted when its last connection has ended."""

    key: ServerKey
    server: Server


Step = SetWeight | Move | Add | Revive | Remove


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps from a configuration to another. `wanted` is the other configuration, `reason` one line for a person.

    `certificates` and `maps` are the files whose contents HAProxy has to get. `seconds` is the estimate for the
    commands of the steps, by the measured costs. `targets` are the sections of `wanted` that the steps change, by name.
    """

    wanted: Configuration
    steps: tuple[Step, ...]
    reason: str
    certificates: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()
    seconds: float = 0.0
    targets: Mapping[str, Section] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Report whether the running HAProxy needs no change."""
        return not (self.steps or self.certificates or self.maps)

    @property
    def phases(self) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
        """The steps before and after the contents of maps: those that take traffic away come last."""
        late = [step for step in self.steps if _takes_traffic_away(step)]
        return tuple(step for step in self.steps if not _takes_traffic_away(step)), tuple(late)

    @property
    def sections(self) -> tuple[str, ...]:
        """Names of the sections that the steps change."""
        return tuple(dict.fromkeys(step.key[0] for step in self.steps))


@dataclass(frozen=True, slots=True)
class Reload:
    """A change that needs a reload. `reason` is one line for a person."""

    reason: str


class _NeedsReloadError(Exception):
    """The runtime API cannot express a difference; the message is the reason."""


def make_plan(
    running: Configuration,
    wanted: Configuration,
    version: Version,
    waiting: Mapping[ServerKey, Server | None],
    costs: Costs = FIRST_COSTS,
) -> Plan | Reload:
    """Plan the change from `running` to `wanted` for a HAProxy of this version, whose changes have these costs.

    `waiting` are removed servers that HAProxy could not delete yet; None if a server's options are unknown.
    """
    changed = map(is_not, running.sections, wanted.sections)
    pairs = list(compress(zip(running.sections, wanted.sections, strict=False), changed))
    if len(running.sections) != len(wanted.sections) or any(old.lines != new.lines for old, new in pairs):
        return Reload(_fixed_difference(running, wanted))
    if heirs := [new.header for old, new in pairs if old.inherited != new.inherited]:
        return Reload(f"lines changed that {_some(heirs)} inherits")
    certificates = _changed(running.contents.certificates, wanted.contents.certificates)
    maps = _changed(running.contents.maps, wanted.contents.maps)
    if certificates and any(map(_loads_other_files, wanted.sections)):
        return Reload(f"`ssl-load-extra` decides which files belong to {certificates[0]}")
    steps: list[Step] = []
    targets: dict[str, Section] = {}
    commands = around = 0.0
    try:
        for old, new in pairs:
            if not (found_differences := differences(old.servers, new.servers)).is_empty:
                change = _Change.of(old, new, found_differences, version, waiting)
                found = list(change.steps())
                commands += sum(map(change.seconds, found))
                around += around_seconds(sum(map(_needs_test, found)), len(new.servers) if found else 0)
                steps += found
                targets[new.name] = new
        _check_moves(steps, version)
    except _NeedsReloadError as error:
        return Reload(str(error))
    steps.sort(key=_takes_traffic_away)
    summary = _summary(steps, certificates, maps)
    if is_reload_better(commands, around, (len(each.servers) for each in wanted.sections), costs):
        return Reload(f"a reload is faster than so many changes: {summary}")
    return Plan(wanted, tuple(steps), summary, certificates, maps, commands, targets)


def _changed(running: Mapping[str, str], wanted: Mapping[str, str]) -> tuple[str, ...]:
    """Return the files with other contents. The files are the same: their names are a part of the generation."""
    return tuple(path for path, digest in wanted.items() if running.get(path) != digest)


def _loads_other_files(section: Section) -> bool:
    return section.header == "global" and any(line.startswith("ssl-load-extra") for line in section.lines)


def _takes_traffic_away(step: Step) -> bool:
    """Report whether the step comes late, so that a section never lacks a server meanwhile."""
    return isinstance(step, Remove) or (isinstance(step, SetWeight) and step.server.weight == 0)


def _needs_test(step: Step) -> bool:
    return isinstance(step, Add | Move | Revive) and isinstance(step.check, Connect | Request)


def _check_moves(steps: Sequence[Step], version: Version) -> None:
    moves = sum(isinstance(step, Move | Revive) for step in steps)
    if moves > MOST_MOVES and (found := defect(Broken.MANY_MOVES, version)):
        raise _NeedsReloadError(_broken(found, version))


def _broken(found: Defect, version: Version) -> str:
    return f"{found.symptom} (version {dotted(version)})"


def _fixed_difference(running: Configuration, wanted: Configuration) -> str:
    before = Counter(section.header for section in running.sections)
    after = Counter(section.header for section in wanted.sections)
    if gone := list(before - after):
        return f"section removed: {_some(gone)}"
    if new := list(after - before):
        return f"section added: {_some(new)}"
    pairs = zip(running.sections, wanted.sections, strict=True)
    lines = [(new.header, _without_description(old), _without_description(new)) for old, new in pairs]
    changed = [_changed_line(header, old, new) for header, old, new in lines if old != new]
    return _some(changed) or "a file that the configuration names has changed"


def _without_description(section: Section) -> list[str]:
    """Return the lines without the generation, which changes with every other line."""
    return [line for line in section.lines if not line.startswith(MARKS)]


def _changed_line(header: str, before: Sequence[str], after: Sequence[str]) -> str:
    """Name the first line that differs by its keyword: a whole line may have a password in it."""
    old, new = set(before), set(after)
    line = next((line for line in after if line not in old), "") or next(
        (line for line in before if line not in new), ""
    )
    words = line.split()
    if not words:
        return f"the order of the lines of {header} changes"
    keyword = " ".join(words[: 2 if words[0] in _TWO_WORDS else 1])
    return f"the line '{keyword}' of {header} changes"


@dataclass(frozen=True, slots=True)
class _Change:
    """The change of a section, which has the same lines besides servers before and after."""

    old: Section
    new: Section
    servers: Differences
    version: Version
    waiting: Mapping[ServerKey, Server | None]
    algorithm: str
    dynamic: bool
    """True if HAProxy accepts new servers and weights in the section at run time."""

    @classmethod
    def of(
        cls,
        old: Section,
        new: Section,
        servers: Differences,
        version: Version,
        waiting: Mapping[ServerKey, Server | None],
    ) -> "_Change":
        """Return the change from `old` to `new`, whose servers have these differences."""
        found = [words[1] for words in new.settings("balance") if len(words) > 1]
        algorithm = (found[-1] if found else default_algorithm(version)).split("(")[0]
        types = list(new.settings("hash-type"))
        hashing = algorithm in _HASHES and bool(types) and "consistent" in types[-1]
        return cls(old, new, servers, version, waiting, algorithm, hashing or algorithm in _DYNAMIC)

    def steps(self) -> Iterator[Step]:
        """Yield the steps. Raises _NeedsReloadError."""
        old, new = self.servers.before, self.servers.after
        if self.servers.changes_members:
            self._check_membership()
        for name in old:
            if name not in new:
                yield self._remove(name)
        taken = self._ids_of_removed()
        for name, line in new.items():
            before = old.get(name)
            if before == line:
                continue
            server = _understood(self.new, name, line)
            yield from self._added(name, server, taken) if before is None else self._changed(name, before, server)

    def _ids_of_removed(self) -> dict[str, str]:
        """Return the names of servers that are removed or wait for their deletion, by their ids, which stay in use."""
        removed = [name for name in self.servers.before if name not in self.servers.after]
        servers: list[tuple[str, Server | None]] = [
            (name, _understood(self.old, name, self.servers.before[name])) for name in removed
        ]
        servers += [(name, server) for (section, name), server in self.waiting.items() if section == self.new.name]
        return {server.options["id"]: name for name, server in servers if server and "id" in server.options}

    def seconds(self, step: Step) -> float:
        """Return the estimated time of the commands of a step."""
        ring = 0 if self.algorithm in (*_BY_POSITION, "first") else step.server.weight
        servers = len(self.new.servers)
        if isinstance(step, Move):
            ring = 0  # the ring is by ids
        if isinstance(step, Remove):
            return removal_seconds(servers, ring)
        return addition_seconds(servers, ring) if isinstance(step, Add) else command_seconds(servers, ring)

    def _check_membership(self) -> None:
        """Raise _NeedsReloadError if servers cannot be added, removed or reordered in the section."""
        name = self.new.name
        if not self.dynamic:
            raise _NeedsReloadError(f"{name}: HAProxy adds no servers at run time with {self.algorithm}")
        self._check_leastconn()
        if self.algorithm in _BY_POSITION:
            return
        for section in (self.old, self.new):
            for server, line in section.servers.items():
                if "id" not in _understood(section, server, line).options:
                    raise _NeedsReloadError(f"{name}: {self.algorithm} goes by ids, and server {server} sets no `id`")

    def _check_leastconn(self) -> None:
        if self.algorithm == "leastconn" and (found := defect(Broken.LEASTCONN, self.version)):
            raise _NeedsReloadError(f"{self.new.name}: {_broken(found, self.version)}")

    def _remove(self, name: str) -> Remove:
        server = _understood(self.old, name, self.servers.before[name])
        if "on-marked-down" in server.options:
            raise _NeedsReloadError(
                f"`on-marked-down` would cut the connections of {self.new.name}/{name}, which was removed"
            )
        return Remove((self.new.name, name), server)

    def _added(self, name: str, server: Server, taken: Mapping[str, str]) -> Iterator[Step]:
        key, check = (self.new.name, name), check_of(self.new, server)
        path = "/".join(key)
        if key in self.waiting:
            before = self.waiting[key]
            if before is None or before.options != server.options:
                raise _NeedsReloadError(
                    f"{path} came back with other options before HAProxy has deleted its predecessor"
                )
            yield Revive(key, server, check)
            return
        if (holder := taken.get(server.options.get("id", ""))) is not None:
            raise _NeedsReloadError(f"{path} takes the id of {holder}, which HAProxy has not deleted yet")
        if "cookie" in server.options and not takes_cookies(self.version):
            raise _NeedsReloadError(
                f"{self.new.name}: HAProxy {dotted(self.version)} adds no servers with cookies at run time"
            )
        if "backup" in server.options and (other := backup_behind(self.old, self.new, name)):
            raise _NeedsReloadError(f"{path} is a backup, and comes before {other} only by a reload")
        if "proto" in server.options and (found := defect(Broken.PROTO, self.version)):
            raise _NeedsReloadError(f"{path}: {_broken(found, self.version)}")
        if 2 * len(server.options) > _MOST_WORDS:
            raise _NeedsReloadError(f"the server {path} has more options than a command can hold")
        yield Add(key, server, check)

    def _changed(self, name: str, before: ServerLine, new: Server) -> Iterator[Step]:
        key, old = (self.new.name, name), _understood(self.old, name, before)
        if old.options != new.options:
            raise _NeedsReloadError(f"options of the server {'/'.join(key)} changed")
        if old.place != new.place:
            yield Move(key, new, check_of(self.new, new))
        if old.weight != new.weight:
            if not self.dynamic:
                raise _NeedsReloadError(f"{key[0]}: HAProxy changes no weights at run time with {self.algorithm}")
            self._check_leastconn()
            yield SetWeight(key, new)


def _understood(section: Section, name: str, line: ServerLine) -> Server:
    server = parse_server(line.text, line.defaults)
    if server is None:
        raise _NeedsReloadError(f"the runtime API cannot express the line of the server {section.name}/{name}")
    return server


def _summary(steps: Iterable[Step], certificates: Sequence[str], maps: Sequence[str]) -> str:
    kinds = {Add: "added", Revive: "added", Remove: "removed", Move: "moved", SetWeight: "reweighted"}
    counts = Counter((step.key[0], kinds[type(step)]) for step in steps)
    told = [f"{section}: {count} server{'' if count == 1 else 's'} {what}" for (section, what), count in counts.items()]
    told += [f"new contents of {path}" for path in (*certificates, *maps)]
    return _some(told) or "no server changed"


def _some(items: list[str]) -> str:
    """Return the first items in one line, with the number of the others."""
    shown = 3  # a line of a log stays readable
    return ", ".join(items[:shown]) + (f" and {len(items) - shown} more" if len(items) > shown else "")
