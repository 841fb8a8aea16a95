"""Servers of a section in runs, as a service has its backends: a change of a backend makes its run again.

What was computed for a backend is used again as long as the backend is the same object, as in the core's snapshots.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from operator import attrgetter
from typing import NamedTuple

from discovery import Backend, RecordError, State
from discovery.fields import has_labels
from discovery.registry import validate
from discovery_haproxy.options.labels import LabelOptions
from discovery_haproxy.rendering.names import QUOTED_CHARACTERS, accepted_name
from discovery_haproxy.rendering.server_ids import distinct_ids, own_id
from discovery_haproxy.rendering.servers import Server, Traits, server_line, server_of
from discovery_haproxy.text.server_runs import LineRun

_ID = attrgetter("id")

Run = tuple[Backend, ...]
"""Consecutive backends of a service."""
Addresses = Mapping[str, Sequence[str]]
"""Addresses by id, best first, of the backends for which these are not the registered host alone."""


class Candidates(NamedTuple):
    """The valid backends of a run that a section selects. The tuples but the first and the last are aligned."""

    run: Run
    registered: tuple[Backend, ...]
    """The backends as the run has them."""
    backends: tuple[Backend, ...]
    """The backends as validated."""
    names: tuple[str, ...]
    own_ids: tuple[int, ...]
    """Numeric ids that follow from the names alone."""
    named: tuple[Backend, ...]
    """The backends that are registered by host name."""
    problems: tuple[str, ...]


@dataclass(frozen=True)
class ServerRun:
    """The servers of a run, and what their lines depend on."""

    candidates: Candidates
    numbers: tuple[int, ...]
    """Numeric ids."""
    addresses: Addresses
    traits: Traits
    options: tuple[LabelOptions, ...]
    """What the labels give; empty if no option asks for labels."""
    lines: LineRun

    @cached_property
    def problems(self) -> tuple[str, ...]:
        """A line for a person for each label that is wrong."""
        return tuple(problem for options in self.options for problem in options.problems)

    @cached_property
    def unknown(self) -> int:
        """The number of servers without a known address."""
        return sum(not known for known in self.addresses.values())

    @cached_property
    def backups(self) -> int:
        """The number of backups."""
        return sum(options.backup for options in self.options)

    @cached_property
    def servers(self) -> tuple[Server, ...]:
        """The servers, for templates."""
        found = self.candidates
        options = self.options or tuple(LabelOptions(backend.weight) for backend in found.backends)
        return tuple(
            server_of(name, number, backend, self.addresses.get(backend.id, (backend.host,)), given)
            for backend, name, number, given in zip(found.backends, found.names, self.numbers, options, strict=True)
        )


def candidates_of(
    runs: Iterable[Run], labels: Mapping[str, tuple[str, ...]], before: Sequence[Candidates]
) -> tuple[Candidates, ...]:
    """Return the candidates of the runs. `before` are candidates with the same `labels`, which are used again."""
    runs = tuple(runs)
    known = {id(each.run): each for each in before}
    gone = [known[each] for each in known.keys() - set(map(id, runs))]
    remembered = {
        id(backend): (valid, name, own)
        for each in gone
        for backend, valid, name, own in zip(each.registered, each.backends, each.names, each.own_ids, strict=True)
    }
    return tuple(known.get(id(run)) or _candidates(run, labels, remembered) for run in runs)


def numbers_of(
    candidates: Sequence[Candidates], traits: Traits, before: Sequence[ServerRun]
) -> tuple[tuple[int, ...], ...]:
    """Return the numeric ids of the servers of each run. `before` are runs of a section with the same traits."""
    if len(candidates) == len(before):
        pairs = zip(candidates, before, strict=True)
        if all(new.names is old.candidates.names or new.names == old.candidates.names for new, old in pairs):
            return tuple(each.numbers for each in before)
    if traits.fills_in_order:
        ends = _ends(candidates)
        return tuple(
            tuple(range(end - len(each.names) + 1, end + 1)) for each, end in zip(candidates, ends, strict=True)
        )
    own = tuple(chain.from_iterable(each.own_ids for each in candidates))
    ids = distinct_ids(tuple(chain.from_iterable(each.names for each in candidates)), own)
    if ids is own:
        return tuple(each.own_ids for each in candidates)
    ends = _ends(candidates)
    return tuple(tuple(ids[end - len(each.names) : end]) for each, end in zip(candidates, ends, strict=True))


def server_runs(
    candidates: Sequence[Candidates],
    numbers: Sequence[tuple[int, ...]],
    addresses: Addresses,
    traits: Traits,
    before: Sequence[ServerRun],
) -> tuple[ServerRun, ...]:
    """Return the servers of each run. `before` are runs of a section with the same traits, which are used again.

    `addresses` are those of `ServerRun`, for all runs.
    """
    known = {id(each.candidates): each for each in before}
    gone = [known[each] for each in known.keys() - set(map(id, candidates))]
    return tuple(
        _server_run(each, ids, _of(each, addresses), traits, known.get(id(each)), gone)
        for each, ids in zip(candidates, numbers, strict=True)
    )


def _candidates(
    run: Run, labels: Mapping[str, tuple[str, ...]], remembered: Mapping[int, tuple[Backend, str, int]]
) -> Candidates:
    if not (labels or remembered):  # as with the first configuration
        with suppress(RecordError):
            return _candidates_of_valid(run)
    chosen = [each for each in run if has_labels(each.labels, labels)] if labels else run
    found: list[tuple[Backend, Backend, str, int]] = []
    problems: list[str] = []
    for backend in chosen:
        try:
            found.append((backend, *(remembered.get(id(backend)) or _facts(backend))))
        except RecordError as error:
            id_, service = backend.id[:QUOTED_CHARACTERS], backend.service[:QUOTED_CHARACTERS]
            problems.append(f"backend {id_!r} of {service!r} is left out: {error}")
    registered, backends, names, own_ids = tuple(zip(*found, strict=True)) or ((), (), (), ())
    named = tuple(backend for backend in backends if backend.is_named)
    return Candidates(run, registered, backends, names, own_ids, named, tuple(problems))


def _candidates_of_valid(run: Run) -> Candidates:
    """Return the candidates of a run of valid backends that are all selected. Raises RecordError for other runs."""
    backends = tuple(map(validate, run))
    names = tuple(map(accepted_name, map(_ID, backends)))
    named = tuple(backend for backend in backends if backend.is_named)
    return Candidates(run, run, backends, names, tuple(map(own_id, names)), named, ())


def _facts(backend: Backend) -> tuple[Backend, str, int]:
    """Return the backend as validated, the name, and the id that follows from the name. Raises RecordError."""
    valid = validate(backend)
    name = accepted_name(valid.id)
    return valid, name, own_id(name)


def _ends(candidates: Iterable[Candidates]) -> list[int]:
    ends, end = [], 0
    for each in candidates:
        end += len(each.names)
        ends.append(end)
    return ends


def _of(candidates: Candidates, addresses: Addresses) -> Addresses:
    if not addresses:
        return addresses
    return {each.id: addresses[each.id] for each in candidates.backends if each.id in addresses}


def _server_run(
    candidates: Candidates,
    numbers: tuple[int, ...],
    addresses: Addresses,
    traits: Traits,
    known: ServerRun | None,
    gone: Sequence[ServerRun],
) -> ServerRun:
    if known is not None and known.numbers == numbers and known.addresses == addresses:
        return known
    earlier = (known,) if known is not None else gone
    options: tuple[LabelOptions, ...] = ()
    if traits.asks_for_labels:
        remembered = {
            id(backend): found
            for each in earlier
            for backend, found in zip(each.candidates.backends, each.options, strict=True)
        }
        options = tuple(remembered.get(id(each)) or traits.options_of(each) for each in candidates.backends)
    lines = _lines(candidates, numbers, addresses, traits, options, earlier)
    return ServerRun(candidates, numbers, addresses, traits, options, LineRun(candidates.names, lines))


def _lines(
    candidates: Candidates,
    numbers: tuple[int, ...],
    addresses: Addresses,
    traits: Traits,
    options: tuple[LabelOptions, ...],
    earlier: Iterable[ServerRun],
) -> tuple[str, ...]:
    """Return the `server` lines as the built-in template prints the lines: thousands for some services."""
    remembered = {
        (id(backend), number): line
        for each in earlier
        for backend, number, line in zip(each.candidates.backends, each.numbers, each.lines.lines, strict=True)
        if backend.id not in each.addresses
    }
    is_plain = traits.is_plain
    if is_plain and not addresses and not remembered:  # as with the first configuration
        return tuple(map(_plain_line, candidates.names, numbers, candidates.backends))
    lines = []
    for at, (backend, name, number) in enumerate(zip(candidates.backends, candidates.names, numbers, strict=True)):
        is_at_host = backend.id not in addresses
        if is_at_host and (line := remembered.get((id(backend), number))) is not None:
            lines.append(line)
        elif is_at_host and is_plain:
            lines.append(_plain_line(name, number, backend))
        else:
            found = options[at] if options else LabelOptions(backend.weight)
            server = server_of(name, number, backend, addresses.get(backend.id, (backend.host,)), found)
            lines.append(server_line(server, cookie=traits.cookie, lookup=traits.lookup))
    return tuple(lines)


def _plain_line(name: str, number: int, backend: Backend) -> str:
    """Return the line of a server with the traits `is_plain`, whose address is the registered host."""
    weight = 0 if backend.state is State.DRAINING else backend.weight
    return f"    server {name} {backend.address} id {number} weight {weight}\n"
