"""The planner: how a running HAProxy gets from one configuration to another. A pure function of the texts.

If the configurations differ in `server` lines of `backend` sections and in the contents of certificates and maps alone,
and the runtime API can express every difference, the plan is a list of steps. Otherwise the plan is a reload, with the
reason.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from discovery_haproxy.runtime_api.checks import Check, check_of
from discovery_haproxy.text.configuration import Configuration, Section
from discovery_haproxy.text.server_line import Server

_COOKIE_VERSION = (2, 8)
"""HAProxy's version from which `add server` accepts `cookie`."""
_BY_POSITION = ("roundrobin", "leastconn")
"""Algorithms for which a server's id has no meaning, so that servers without an `id` can be added and removed."""
_DYNAMIC = (*_BY_POSITION, "first", "random")
"""Algorithms with which HAProxy accepts servers and weights at run time, as every hash of type `consistent`."""
_MOST_WORDS = 60
"""Words of a command: HAProxy ignores words after the 64th."""
_MOST_SECONDS = 0.5
"""Estimated seconds of additions above which a reload is faster and holds up traffic for less time."""
_ADD_SECONDS = 5e-5
_ADD_SECONDS_PER_SERVER = 1e-7
"""Measured cost of `add server`: 24,000/s in a section of 1,000 servers, 950/s in a section of 10,000."""

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

    `certificates` and `maps` are the files whose contents HAProxy has to get.
    """

    wanted: Configuration
    steps: tuple[Step, ...]
    reason: str
    certificates: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()

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
    version: tuple[int, ...],
    waiting: Mapping[ServerKey, Server | None],
) -> Plan | Reload:
    """Plan the change from `running` to `wanted` for a HAProxy of this version.

    `waiting` are removed servers that HAProxy could not delete yet; None if a server's options are unknown.
    """
    if running.fixed != wanted.fixed:
        return Reload(_fixed_difference(running, wanted))
    certificates = _changed(running.contents.certificates, wanted.contents.certificates)
    maps = _changed(running.contents.maps, wanted.contents.maps)
    if certificates and any(map(_loads_other_files, wanted.sections)):
        return Reload(f"`ssl-load-extra` decides which files belong to {certificates[0]}")
    steps: list[Step] = []
    try:
        for old, new in zip(running.sections, wanted.sections, strict=True):
            if old is not new and (old.servers != new.servers or list(old.servers) != list(new.servers)):
                steps += _section_steps(old, new, version, waiting)
    except _NeedsReloadError as error:
        return Reload(str(error))
    steps.sort(key=_takes_traffic_away)
    return Plan(wanted, tuple(steps), _summary(steps, certificates, maps), certificates, maps)


def _changed(running: Mapping[str, str], wanted: Mapping[str, str]) -> tuple[str, ...]:
    """Return the files with other contents. The files are the same: their names are a part of the generation."""
    return tuple(path for path, digest in wanted.items() if running.get(path) != digest)


def _loads_other_files(section: Section) -> bool:
    return section.header == "global" and any(line.startswith("ssl-load-extra") for line in section.lines)


def _takes_traffic_away(step: Step) -> bool:
    """Report whether the step comes late, so that a section never lacks a server meanwhile."""
    return isinstance(step, Remove) or (isinstance(step, SetWeight) and step.server.weight == 0)


def _fixed_difference(running: Configuration, wanted: Configuration) -> str:
    before = Counter(section.header for section in running.sections)
    after = Counter(section.header for section in wanted.sections)
    if gone := list(before - after):
        return f"section removed: {_some(gone)}"
    if new := list(after - before):
        return f"section added: {_some(new)}"
    pairs = zip(running.sections, wanted.sections, strict=True)
    changed = [new.header for old, new in pairs if _without_description(old) != _without_description(new)]
    if not changed:
        return "a file that the configuration names has changed"
    return f"lines other than servers changed in {_some(changed)}"


def _without_description(section: Section) -> list[str]:
    """Return the lines without the generation, which changes with every other line."""
    return [line for line in section.lines if not line.startswith("description ")]


def _section_steps(
    old: Section, new: Section, version: tuple[int, ...], waiting: Mapping[ServerKey, Server | None]
) -> Iterator[Step]:
    name = new.name
    dynamic = _is_dynamic(new)
    same_members = list(old.servers) == list(new.servers)
    if not same_members:
        _check_membership(old, new, dynamic)
    seconds = 0.0
    for server_name in old.servers:
        if server_name not in new.servers:
            yield _remove(old, server_name)
    for server_name, line in new.servers.items():
        before = old.servers.get(server_name)
        if before == line:
            continue
        key = name, server_name
        server = _understood(new, server_name)
        if before is not None:
            yield from _change(key, _understood(old, server_name), server, new, dynamic)
            continue
        if key in waiting:
            yield _revive(key, waiting[key], server, new)
            continue
        _check_words(key, server, version)
        seconds += _ADD_SECONDS + _ADD_SECONDS_PER_SERVER * len(new.servers)
        if seconds > _MOST_SECONDS:
            raise _NeedsReloadError(f"a reload is faster than so many additions to {name}")
        yield Add(key, server, check_of(new, server))


def _check_membership(old: Section, new: Section, dynamic: bool) -> None:
    """Raise _NeedsReloadError if servers cannot be added, removed or reordered in the section."""
    if not dynamic:
        raise _NeedsReloadError(f"{new.name}: HAProxy adds no servers at run time with {_algorithm(new)}")
    if _algorithm(new).split("(")[0] in _BY_POSITION:
        return
    for section in (old, new):
        for name in section.servers:
            if "id" not in _understood(section, name).options:
                raise _NeedsReloadError(f"{new.name}: {_algorithm(new)} goes by ids, and server {name} sets no `id`")


def _remove(section: Section, name: str) -> Remove:
    server = _understood(section, name)
    if "on-marked-down" in server.options:
        raise _NeedsReloadError(
            f"`on-marked-down` would cut the connections of {section.name}/{name}, which was removed"
        )
    return Remove((section.name, name), server)


def _change(key: ServerKey, old: Server, new: Server, section: Section, dynamic: bool) -> Iterator[Step]:
    if old.options != new.options:
        raise _NeedsReloadError(f"options of the server {'/'.join(key)} changed")
    if old.place != new.place:
        yield Move(key, new, check_of(section, new))
    if old.weight != new.weight:
        if not dynamic:
            raise _NeedsReloadError(f"{key[0]}: HAProxy changes no weights at run time with {_algorithm(section)}")
        yield SetWeight(key, new)


def _revive(key: ServerKey, old: Server | None, new: Server, section: Section) -> Revive:
    if old is None or old.options != new.options:
        raise _NeedsReloadError(f"{'/'.join(key)} came back with other options while its predecessor has connections")
    return Revive(key, new, check_of(section, new))


def _check_words(key: ServerKey, server: Server, version: tuple[int, ...]) -> None:
    if "cookie" in server.options and version < _COOKIE_VERSION:
        raise _NeedsReloadError(f"{key[0]}: HAProxy adds no servers with cookies at run time before 2.8")
    if 2 * len(server.options) > _MOST_WORDS:
        raise _NeedsReloadError(f"the server {'/'.join(key)} has more options than a command can hold")


def _understood(section: Section, name: str) -> Server:
    server = section.server(name)
    if server is None:
        raise _NeedsReloadError(f"the runtime API cannot express the line of the server {section.name}/{name}")
    return server


def _algorithm(section: Section) -> str:
    found = [words[1] for words in section.settings("balance") if len(words) > 1]
    return found[-1] if found else "roundrobin"


def _is_dynamic(section: Section) -> bool:
    """Report whether HAProxy accepts new servers and weights in the section at run time."""
    algorithm = _algorithm(section).split("(")[0]
    types = list(section.settings("hash-type"))
    if algorithm in _DYNAMIC:
        return True
    hashes = algorithm in ("source", "uri", "url_param", "hdr", "rdp-cookie", "hash")
    return hashes and bool(types) and "consistent" in types[-1]


def _summary(steps: Iterable[Step], certificates: Sequence[str], maps: Sequence[str]) -> str:
    kinds = {Add: "added", Revive: "added", Remove: "removed", Move: "moved", SetWeight: "weighted anew"}
    counts = Counter((step.key[0], kinds[type(step)]) for step in steps)
    told = [f"{section}: {count} server{'' if count == 1 else 's'} {what}" for (section, what), count in counts.items()]
    told += [f"new contents of {path}" for path in (*certificates, *maps)]
    return _some(told) or "no server changed"


def _some(items: list[str]) -> str:
    """Return the first items in one line, with the number of the others."""
    shown = 3  # a line of a log stays readable
    return ", ".join(items[:shown]) + (f" and {len(items) - shown} more" if len(items) > shown else "")
