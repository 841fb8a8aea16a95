"""The configuration with the services that the labels of backends ask for."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from structlog.typing import FilteringBoundLogger

from discovery import Backend, Service, Snapshot
from discovery.routing import ROOT, routes
from discovery_haproxy.label_routes.ages import RecordAges
from discovery_haproxy.label_routes.decisions import Decisions, Granted, RouteKey, decide
from discovery_haproxy.label_routes.requests import Wishes, wishes_of
from discovery_haproxy.options.config import HAProxyConfig, ServiceConfig, address_claims
from discovery_haproxy.rendering.selection import registered_name

_NOTHING = Decisions({}, ())
_NO_WISHES = Wishes()
_NO_PLACES: Mapping[str, str] = MappingProxyType({})
_MOST_LEFT = 100
"""Services without backends that keep their routes: services that come and go must not fill HAProxy's memory."""


class _Read(NamedTuple):
    """The labels of a service as read: of each of its runs of backends, and of all together."""

    service: Service | None
    runs: tuple[tuple[tuple[Backend, ...], Wishes], ...]
    wishes: Wishes


_NEVER_READ = _Read(None, (), _NO_WISHES)


class LabelRouter:
    """Adds services to a configuration, snapshot after snapshot. What did not change is the same object."""

    def __init__(self, state_dir: Path, log: FilteringBoundLogger) -> None:
        """Begin without a snapshot. No file is read or written."""
        self._ages = RecordAges(state_dir, log)
        self._config: HAProxyConfig | None = None
        self._taken = _NO_PLACES
        self._read_services: dict[str, _Read] = {}
        self._services: dict[str, ServiceConfig] = {}
        self._result: HAProxyConfig | None = None
        self._refused: tuple[str, ...] = ()
        self._decisions = _NOTHING
        self._is_remembered = False
        """True if the state directory has the ages of the latest decisions."""

    @property
    def problems(self) -> tuple[str, ...]:
        """A line for a person for each backend that asks for a route and gets none."""
        return self._refused

    def inspect(self) -> Mapping[str, Any]:
        """Return the routes by service, and what is refused."""
        found = self._decisions.services.items()
        granted = {name: {"hosts": list(each.hosts), "path": each.path} for name, each in found}
        return {"routes": granted, "refused": list(self._refused)}

    def configured(
        self,
        config: HAProxyConfig,
        snapshot: Snapshot,
        taken: Mapping[str, str] = _NO_PLACES,
        *,
        remember: bool = False,
    ) -> HAProxyConfig:
        """Return the configuration with the services that labels ask for, as `label_routes` allows.

        `taken` has the places of the user's own sections by their names, which no service gets. With `remember` the
        state directory keeps which records were first.
        """
        if not config.label_routes:
            self._decisions, self._refused = _NOTHING, ()
            return config
        if config is not self._config or taken != self._taken:
            self._config, self._taken = config, taken
            self._read_services, self._services, self._result = {}, {}, None
        left = self._services.keys() - self._decisions.services.keys()
        is_due = self._result is None or (remember and not self._is_remembered)
        if self._read(config, snapshot) or is_due or any(name in snapshot.services for name in left):
            self._is_remembered = remember
            read = [each.wishes for each in self._read_services.values()]
            found = [wish for each in read for wish in each.wishes]
            ages = self._ages.of(found, remember=remember)
            self._decisions = decide(found, ages, _configured_routes(config))
            refused = [problem for each in read for problem in each.problems]
            self._refused = (*refused, *self._decisions.problems)
            self._result = self._with_services(config, snapshot)
        assert self._result is not None  # noqa: S101 - the first call has made it
        return self._result

    def _read(self, config: HAProxyConfig, snapshot: Snapshot) -> bool:
        """Read the labels of changed services. Report whether what they ask for may be another."""
        before, self._read_services = self._read_services, {}
        changed = False
        for name, service in snapshot.services.items():
            known = before.get(name, _NEVER_READ)
            if known.service is not service:
                read = _read_service(config, service, known, self._taken)
                changed |= read.wishes != known.wishes
                known = read
            self._read_services[name] = known
        gone = before.keys() - self._read_services.keys()
        return changed or any(before[name].wishes != _NO_WISHES for name in gone)

    def _with_services(self, config: HAProxyConfig, snapshot: Snapshot) -> HAProxyConfig:
        before, self._services = self._services, {}
        for name, granted in self._decisions.services.items():
            service = _service(granted)
            self._services[name] = before[name] if before.get(name) == service else service
        routed = {route for service in self._services.values() for route in _routes(service)}
        # A service whose last backend restarts keeps its section, which only a reload would bring back.
        left = [name for name in before if not (name in self._services or name in snapshot.services)]
        for name in left[-_MOST_LEFT:]:
            if name not in config.services and routed.isdisjoint(_routes(before[name])):
                self._services[name] = before[name]
        last = self._result
        services = {**config.services, **self._services}
        if last is not None and last.services == services:
            return last
        return config.model_copy(update={"services": services})


def _read_service(config: HAProxyConfig, service: Service, before: _Read, taken: Mapping[str, str]) -> _Read:
    known = {id(run): wishes for run, wishes in before.runs}
    runs = tuple((run, known.get(id(run)) or wishes_of(run, config.label_routes)) for run in service.runs)
    wishes = tuple(wish for _, each in runs for wish in each.wishes)
    problems = tuple(dict.fromkeys(problem for _, each in runs for problem in each.problems))
    name = service.name
    if wishes and (reason := _refusal(name, config, taken)):
        wishes, problems = (), (*problems, f"the labels of service {name!r} give no route: {reason}")
    return _Read(service, runs, Wishes(wishes, problems))


def _refusal(name: str, config: HAProxyConfig, taken: Mapping[str, str]) -> str:
    """Return why a service gets no route whatever its labels say, for a person; empty if it may get one."""
    if name in config.services:
        feeds = registered_name(name, config.services[name])
        what = "its own options route it" if feeds == name else f"its section serves the service {feeds!r}"
        return f"the service is configured, and {what}"
    return f"{taken[name]} has a section of that name" if name in taken else ""


def _configured_routes(config: HAProxyConfig) -> dict[RouteKey, str]:
    """Return the services that have a route on the addresses of the instance, by host and path."""
    addresses = {bind.address for bind in config.bind}
    claims = [claim for claim in address_claims(config) if claim.address in addresses]
    return {(route.host, route.path): route.service for route in routes(claims)}


def _routes(service: ServiceConfig) -> set[RouteKey]:
    return {(host, path) for host in service.hosts for path in service.path_prefix or (ROOT,)}


def _service(granted: Granted) -> ServiceConfig:
    prefixes = () if granted.path == ROOT else (granted.path,)
    return ServiceConfig(hosts=granted.hosts, path_prefix=prefixes)
