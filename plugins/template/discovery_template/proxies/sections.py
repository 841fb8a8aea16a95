"""Sections of a configuration, one for hosts with the same paths: each costs the program memory and time. Pure."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from discovery.routing import EVERYTHING, ROOT, HostKind
from discovery_template.proxies.pools import Host, Path_


class Section(NamedTuple):
    """Requests for the hosts of `patterns`. Of the paths the longest that matches decides."""

    patterns: tuple[str, ...]
    paths: tuple[Path_, ...]

    @property
    def has_root(self) -> bool:
        """True if every path has a pool."""
        return any(each.path == ROOT for each in self.paths)

    @property
    def is_default(self) -> bool:
        """True if the section takes the hosts that no other section takes."""
        return self.patterns == (EVERYTHING,)


def sections_of(hosts: Sequence[Host]) -> tuple[Section, ...]:
    """Return the sections for hosts, of which the most specific are first.

    The first section with a pattern that a host matches has the paths of the host: so a pattern joins a former section
    only if no section between the two has a more specific pattern.
    """
    more_specific: defaultdict[str, list[str]] = defaultdict(list)
    for host in hosts:
        for other in patterns_over(host.pattern):
            more_specific[other].append(host.pattern)
    has_suffixes = any(host.kind is HostKind.SUFFIX for host in hosts)
    places: dict[str, int] = {}
    by_paths: dict[tuple[tuple[str, str], ...], int] = {}
    joined: list[list[Host]] = []
    for host in hosts:
        key = tuple((each.path, each.pool.name) for each in host.paths)
        place = by_paths.get(key, len(joined))
        others = (places[each] for each in more_specific[host.pattern] if each in places)
        overlaps = host.kind is not HostKind.EXACT and any(each > place for each in others)
        if overlaps or host.kind is HostKind.ANY or (host.kind is HostKind.PREFIX and has_suffixes):
            place = len(joined)
        if place == len(joined):
            joined.append([])
        joined[place].append(host)
        places[host.pattern] = by_paths[key] = place
    return tuple(Section(tuple(host.pattern for host in group), group[0].paths) for group in joined)


def patterns_over(pattern: str) -> frozenset[str]:
    """Return the patterns that take every host of `pattern`, itself included: as many as the pattern has labels."""
    found = {pattern, EVERYTHING}
    labels = pattern.split(".")
    if labels[-1] != "*":
        found |= {".".join(("*", *labels[at:])) for at in range(1, len(labels))}
    if labels[0] != "*":
        found |= {".".join((*labels[:at], "*")) for at in range(1, len(labels))}
    return frozenset(found)
