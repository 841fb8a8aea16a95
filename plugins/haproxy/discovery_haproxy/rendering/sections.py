"""Sections of haproxy.cfg as data for the templates, computed from the configuration and a snapshot.

A backend that HAProxy would refuse is left out, with the reason, so that the other backends are served.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain, compress
from operator import is_not
from types import MappingProxyType
from typing import NamedTuple

from discovery import Backend, Service, Snapshot
from discovery_haproxy.options.config import HAProxyConfig, ServiceConfig
from discovery_haproxy.rendering.fragment import missing_server_line
from discovery_haproxy.rendering.frontends import FrontendSection, TimeoutLines
from discovery_haproxy.rendering.incremental import Memo
from discovery_haproxy.rendering.names import cache_name
from discovery_haproxy.rendering.outline import Outline, ServiceOutline, outline_of
from discovery_haproxy.rendering.quoting import Raw
from discovery_haproxy.rendering.runs import Addresses, Candidates, ServerRun, candidates_of, numbers_of, server_runs
from discovery_haproxy.rendering.selection import describe, registered_name, why_empty
from discovery_haproxy.rendering.servers import AddressesOf, Server, holding_run, registered_host
from discovery_haproxy.text.neighbours import Neighbours
from discovery_haproxy.text.server_runs import LineRun

_NO_PLACES: Mapping[str, str] = MappingProxyType({})


class BackendSection(NamedTuple):
    """A `backend` section, which serves `service`. `timeouts` are the service's own.

    `parent` is the name of the `defaults` section to inherit from, if that is another than the last. `lines` are those
    that a fragment has instead of a `defaults` section. `missing` are servers that other files name, and that are not
    registered.
    """

    name: str
    mode: str
    runs: tuple[ServerRun, ...]
    config: ServiceConfig
    timeouts: TimeoutLines = ()
    service: str = ""
    parent: str = ""
    lines: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    retries: int | None = None
    """Attempts of a request; None for those of the instance."""
    holding: tuple[LineRun, ...] = ()
    """The line of the server that refuses the requests of a section without backends, if requests wait."""

    @property
    def backends(self) -> tuple[Server, ...]:
        """The servers."""
        return tuple(chain.from_iterable(run.servers for run in self.runs))

    @property
    def settings(self) -> "BackendSection":
        """The section without servers."""
        return self._replace(runs=(), missing=(), holding=())

    @property
    def line_runs(self) -> tuple[LineRun, ...]:
        """The `server` lines."""
        runs = tuple(run.lines for run in self.runs if run.lines.names)
        if self.missing:
            runs = (*runs, LineRun(self.missing, tuple(map(missing_server_line, self.missing))))
        return (*runs, *self.holding)

    @property
    def cache(self) -> str:
        """Name of the `cache` section of the service; empty if the service has none."""
        return cache_name(self.name) if self.config.cache else ""

    def server_lines(self, _resolve: str = "") -> Raw:
        """Return the `server` lines as text. The argument is for templates that were copied from an earlier version."""
        return Raw("".join(line for run in self.line_runs for line in run.lines))


class Sections(NamedTuple):
    """All sections. `mappings` describes each route for people, `problems` each omission and its reason."""

    frontends: tuple[FrontendSection, ...]
    services: tuple[BackendSection, ...]
    mappings: tuple[str, ...]
    problems: tuple[str, ...]
    initially_down: frozenset[str] = frozenset()
    """Names of the sections whose servers get no traffic before a check has passed."""

    @property
    def holding(self) -> dict[str, float]:
        """The seconds for which requests wait for a server, by the names of the sections that let them wait."""
        return {section.name: section.config.hold for section in self.services if section.config.hold}


class _Inputs(NamedTuple):
    """The inputs of a section beside its outline. `former` are the ids of backends that have no address now."""

    registered: Service | None
    replaced: tuple[Backend, ...] | None = None
    """Backends for which the registry does not count."""
    former: AbstractSet[str] = frozenset()


class _Built(NamedTuple):
    """A section, what the section follows from, the end of the line about each of its routes, and its problems."""

    outline: ServiceOutline
    inputs: _Inputs
    candidates: tuple[Candidates, ...]
    addresses: Addresses
    has_names: bool
    """True if a backend is registered by host name, whose addresses may change without the registry."""
    section: BackendSection
    summary: str
    problems: tuple[str, ...]


class _Result(NamedTuple):
    """Sections, and what the sections follow from."""

    outline: Outline
    registered: tuple[Service | None, ...]
    is_usual: bool
    """True if the sections follow from the outline, the registry and addresses alone."""
    built: tuple[_Built, ...]
    named: tuple[int, ...]
    """Positions of the sections with a backend that is registered by host name."""
    sections: Sections


class SectionBuilder:
    """Computes the sections for snapshot after snapshot. The section of an unchanged service is the same object."""

    def __init__(self) -> None:
        """Begin without a snapshot."""
        self._outlines = Memo[Outline]()
        self._last: _Result | None = None

    def build(
        self,
        config: HAProxyConfig,
        snapshot: Snapshot,
        addresses_of: AddressesOf = registered_host,
        replaced: Mapping[str, tuple[Backend, ...]] | None = None,
        former: AbstractSet[tuple[str, str]] = frozenset(),
        neighbours: Neighbours | None = None,
        taken: Mapping[str, str] = _NO_PLACES,
    ) -> Sections:
        """Compute the sections for a snapshot.

        `addresses_of` returns the addresses to use for a backend. `replaced` has the backends of the services for which
        the snapshot does not count, and `former` the backends, by service and id, that have no address now. The
        services are those of the configuration. `neighbours` are the files beside a fragment. `taken` is that of
        `outline_of`.
        """
        names = tuple(snapshot.services) if config.serves_by_name else ()
        # With its identity: options that compare as equal may differ in which of them are set.
        outline = self._outlines.value((id(config), config, names, neighbours, taken), outline_of)
        registered = tuple(map(snapshot.services.get, outline.registered))
        is_usual, last = not (replaced or former), self._last
        if last is not None and last.outline is outline and last.is_usual and is_usual:
            due = {*last.named, *compress(range(len(registered)), map(is_not, registered, last.registered))}
            changed = {
                at: _build(outline.services[at], _Inputs(registered[at]), addresses_of, last.built[at]) for at in due
            }
            built, sections = _with_changes(last, changed)
        else:
            known = {each.outline.service: each for each in last.built} if last is not None else {}
            instead = replaced or {}
            built = tuple(
                _build(
                    each,
                    _Inputs(service, instead.get(each.service), _ids_of(each.service, former)),
                    addresses_of,
                    known.get(each.service),
                )
                for each, service in zip(outline.services, registered, strict=True)
            )
            sections = _sections(outline, built)
        named = last.named if last is not None and built is last.built else _named(built)
        self._last = _Result(outline, registered, is_usual, built, named, sections)
        return sections


def _with_changes(last: _Result, changed: Mapping[int, _Built]) -> tuple[tuple[_Built, ...], Sections]:
    """Return the last result with these sections in place of others, by their positions."""
    pairs = [(last.built[at], new) for at, new in changed.items()]
    if all(new is old for old, new in pairs):
        return last.built, last.sections
    built = list(last.built)
    for at, new in changed.items():
        built[at] = new
    if any((old.summary, old.problems) != (new.summary, new.problems) for old, new in pairs):
        return tuple(built), _sections(last.outline, built)
    services = list(last.sections.services)
    for at, new in changed.items():
        services[at] = new.section
    return tuple(built), last.sections._replace(services=tuple(services))


def _named(built: Iterable[_Built]) -> tuple[int, ...]:
    return tuple(at for at, each in enumerate(built) if each.has_names)


def _sections(outline: Outline, built: Sequence[_Built]) -> Sections:
    summaries = {each.section.service: each.summary for each in built}
    return Sections(
        outline.frontends,
        tuple(each.section for each in built),
        tuple(f"{begin}{summaries[service]}" for service, begin in outline.mappings),
        (*outline.problems, *chain.from_iterable(each.problems for each in built)),
        outline.initially_down,
    )


def _ids_of(service: str, former: AbstractSet[tuple[str, str]]) -> frozenset[str]:
    return frozenset(id_ for of, id_ in former if of == service)


def _build(outline: ServiceOutline, inputs: _Inputs, addresses_of: AddressesOf, before: _Built | None) -> _Built:
    """Return a section. What `before` has in common with the section is used again."""
    if before is not None and before.outline is not outline and before.outline != outline:
        before = None
    if before is not None and inputs[:2] == before.inputs[:2]:
        candidates = before.candidates
    else:
        candidates = _candidates(outline, inputs, before)
    named = [backend for each in candidates for backend in each.named]
    addresses: dict[str, Sequence[str]] = {
        backend.id: known for backend in named if (known := tuple(addresses_of(backend))) != (backend.host,)
    }
    addresses |= dict.fromkeys(inputs.former, ())
    if before is not None and candidates == before.candidates and addresses == before.addresses:
        return before
    earlier = before.section.runs if before is not None else ()
    numbers = numbers_of(candidates, outline.traits, earlier)
    runs = server_runs(candidates, numbers, addresses, outline.traits, earlier)
    section = BackendSection(
        outline.section,
        outline.config.mode,
        runs,
        outline.config,
        outline.timeouts,
        outline.service,
        outline.parent,
        outline.lines,
        _missing(outline, candidates),
        outline.retries,
        (holding_run(outline.section),) if outline.config.hold else (),
    )
    problems = [problem for each in candidates for problem in each.problems]
    if inputs.replaced is None and (reason := why_empty(outline.service, outline.config, inputs.registered)):
        problems.append(f"service {outline.service!r} has no backends: {reason}")
    problems += (problem for run in runs for problem in run.problems)
    return _Built(outline, inputs, candidates, addresses, bool(named), section, _summary(section), tuple(problems))


def _candidates(outline: ServiceOutline, inputs: _Inputs, before: _Built | None) -> tuple[Candidates, ...]:
    known: tuple[Candidates, ...] = ()
    if before is not None and (before.inputs.replaced is None) == (inputs.replaced is None):
        known = before.candidates
    if inputs.replaced is not None:
        return candidates_of((inputs.replaced,), {}, known)
    runs = inputs.registered.runs if inputs.registered is not None else ()
    return candidates_of(runs, outline.traits.labels, known)


def _missing(outline: ServiceOutline, candidates: Sequence[Candidates]) -> tuple[str, ...]:
    """Return the servers that other files name and that are not registered."""
    if not outline.named:
        return ()
    names = {name for each in candidates for name in each.names}
    return tuple(name for name in outline.named if name not in names)


def _summary(section: BackendSection) -> str:
    count = sum(len(run.numbers) for run in section.runs)
    selection = _selection(section.service, section.config)
    unknown = sum(run.unknown for run in section.runs)
    but = f", {unknown} without an address" if unknown else ""
    backups = sum(run.backups for run in section.runs)
    but += f", {backups} backup{'' if backups == 1 else 's'}" if backups else ""
    return f"{count} backend{'' if count == 1 else 's'}{selection}{but}"


def _selection(name: str, config: ServiceConfig) -> str:
    """Return the service and the labels that the backends are selected by; empty if no option selects."""
    registered = f" of {registered_name(name, config)}" if config.service is not None or config.labels else ""
    return f"{registered} with {describe(config.labels)}" if config.labels else registered
