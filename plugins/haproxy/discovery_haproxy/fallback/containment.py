"""Containment: deploys the newest combination of forms, remembers what was refused, and reports what serves instead."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from structlog.typing import FilteringBoundLogger

from discovery import ApplyError, Backend, Service
from discovery_haproxy.deployment.checking import Checker
from discovery_haproxy.deployment.faults import SETTINGS, Part, PartKind
from discovery_haproxy.fallback.composing import (
    Wanted,
    accepted_config,
    earlier_files,
    named_servers,
    own_lines,
)
from discovery_haproxy.fallback.forms import (
    ACCEPTED_WITH_FORMER_SERVERS,
    LEFT_OUT,
    WITH_FORMER_SERVERS,
    Reason,
    describe_form,
)
from discovery_haproxy.fallback.records import Records
from discovery_haproxy.fallback.search import Deployment, Found, Search
from discovery_haproxy.options.config import HAProxyConfig, ServiceConfig
from discovery_haproxy.rendering.render import password_files, referenced_files
from discovery_haproxy.rendering.selection import registered_name, selected

_MOST_REPORTED = 10
"""Offenders in the line of the health; `inspect` has all of them."""
_REASON_CHARACTERS = (100, 200)
"""Characters of an offender's reason in the line of the health: at its start, and at its end, where alerts name
files."""
_QUOTED_LINE = re.compile(r"^(line \d+) \(.*?\): ")
"""Start of an alert of HAProxy, with the line that the alert is about."""

_NOTHING = Found({}, {})


class Inputs(NamedTuple):
    """What a deployment depends on. `digests` are those of the files that the configuration names."""

    wanted: Wanted
    digests: Mapping[Path, str]
    checker: Checker


class _Refused(NamedTuple):
    """A part that is refused in its present form, which `inputs` describes."""

    form: int
    reason: Reason
    inputs: object


class Containment:
    """Keeps a refused part from the other parts of a HAProxy."""

    def __init__(self, state_dir: Path, log: FilteringBoundLogger) -> None:
        """Store the arguments. No file is read or written."""
        self._records = Records(state_dir, log)
        self._log = log
        self._refused: dict[Part, _Refused] = {}
        self._named: dict[str, tuple[Service, ServiceConfig, tuple[Backend, ...]]] = {}
        self._own: tuple[HAProxyConfig, tuple[tuple[str, ServiceConfig], ...]] | None = None

    def forget(self) -> None:
        """Try each part in its present form again, whatever was refused before."""
        self._refused = {}

    @property
    def addresses(self) -> frozenset[str]:
        """The addresses that could not be bound."""
        return frozenset(refused.reason.address for refused in self._refused.values() if refused.reason.address)

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of parts that are not in their present form, by kind."""
        kinds = [part.kind for part in tuple(self._refused)]  # a copy: another thread may ask
        return {kind.value: kinds.count(kind) for kind in PartKind}

    @property
    def summary(self) -> str:
        """One line that names the offenders and what serves instead; empty if each part is in its present form."""
        reports = self.reports()
        lines = [f"{each['part']} refused, {each['state']}: {_briefly(each['reason'])}" for each in reports]
        more = [f"and {len(lines) - _MOST_REPORTED} more"] if len(lines) > _MOST_REPORTED else []
        return "; ".join((*lines[:_MOST_REPORTED], *more))

    def reports(self) -> list[dict[str, Any]]:
        """Return each refused part, what has become of the part, and the reason, as JSON."""
        return [
            {"part": str(part), "state": describe_form(part, refused.form), "reason": refused.reason.text}
            for part, refused in sorted(self._refused.items())
        ]

    async def deploy(self, inputs: Inputs, deployment: Deployment) -> None:
        """Deploy the newest combination of forms that HAProxy accepts, and record what was accepted.

        Raises ApplyError if HAProxy accepts none.
        """
        search = Search(inputs.wanted, lambda: self._records.accepted(inputs.digests), deployment)
        try:
            found = await search.run(await self._still_refused(inputs, deployment))
        except ValueError as error:
            raise ApplyError(f"no accepted form of the configuration fits the present one: {error}") from None
        self._report(inputs, found)
        await self._record(inputs, found)

    async def _still_refused(self, inputs: Inputs, deployment: Deployment) -> Found:
        """Return the forms of the parts whose present forms have been refused as they are now."""
        still = {
            part: refused
            for part, refused in self._refused.items()
            if refused.inputs == _present(part, inputs)
            and not (refused.reason.address and await deployment.any_is_free([refused.reason.address]))
        }
        return Found(
            {part: refused.form for part, refused in still.items()},
            {part: refused.reason for part, refused in still.items()},
        )

    def _report(self, inputs: Inputs, found: Found) -> None:
        before = self._refused
        self._refused = {
            part: _Refused(form, found.reasons[part], _present(part, inputs)) for part, form in found.choice.items()
        }
        for part, refused in self._refused.items():
            if part not in before or before[part][:2] != refused[:2]:
                state = describe_form(part, refused.form)
                self._log.warning(f"{part} refused, {state}", reason=refused.reason.text)
        for part in before.keys() - self._refused.keys():
            self._log.info(f"{part} {'are' if part == SETTINGS else 'is'} as configured again")

    async def _record(self, inputs: Inputs, found: Found) -> None:
        wanted = inputs.wanted
        config, kept = wanted.config, frozenset[Path]()
        accepted = self._records.accepted(inputs.digests) if found.choice else None
        if found.choice:
            config = accepted_config(wanted, accepted, found.choice)
            if accepted is not None:
                kept = earlier_files(accepted, found.choice)
        servers = self._named_servers(wanted)
        for part, form in found.choice.items():
            if form in (WITH_FORMER_SERVERS, ACCEPTED_WITH_FORMER_SERVERS, LEFT_OUT) and part.kind is PartKind.SERVICE:
                servers[part.service] = accepted.servers.get(part.service, ()) if accepted is not None else ()
        recorded = set(referenced_files(config)) - password_files(config) if inputs.digests else frozenset()
        files = {path: digest for path, digest in inputs.digests.items() if path in recorded}
        await self._records.record(config, files, kept, {name: named for name, named in servers.items() if named})

    def _named_servers(self, wanted: Wanted) -> dict[str, tuple[Backend, ...]]:
        """Return the backends that their services' own lines name. An unchanged service is not looked at again."""
        before, self._named = self._named, {}
        for name, config in self._services_with_lines(wanted.config):
            service = wanted.snapshot.services.get(registered_name(name, config))
            if service is None:
                continue
            known = before.get(name)
            if known is None or known[0] is not service or known[1] is not config:
                known = service, config, named_servers(config, selected(name, config, wanted.snapshot))
            self._named[name] = known
        return {name: named for name, (_, _, named) in self._named.items()}

    def _services_with_lines(self, config: HAProxyConfig) -> Iterable[tuple[str, ServiceConfig]]:
        if self._own is None or self._own[0] is not config:
            self._own = config, tuple(each for each in config.services.items() if own_lines(each[1]))
        return self._own[1]


def _briefly(reason: str) -> str:
    start, end = _REASON_CHARACTERS
    text = reason if len(reason) <= start + end else _QUOTED_LINE.sub(r"\1: ", reason)
    return text if len(text) <= start + end else f"{text[:start]} ... {text[-end:]}"


def _present(part: Part, inputs: Inputs) -> object:
    """Return what the acceptance of a part's present form depends on, comparable."""
    config, snapshot = inputs.wanted
    service = config.services.get(part.service)
    if part.kind is PartKind.BIND:
        return inputs.checker, inputs.digests, config.bind, service and service.bind, config.template
    ids: tuple[str, ...] = ()
    if part.kind is PartKind.SERVICE:
        ids = tuple(backend.id for backend in selected(part.service, service, snapshot))
    return inputs.checker, inputs.digests, service, ids, config.model_copy(update={"services": {}})
