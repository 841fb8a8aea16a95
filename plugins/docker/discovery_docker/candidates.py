"""The candidates of the running containers, from `docker inspect` and the configuration. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from discovery import Backend, Candidate, Check, Outcome, RecordError, State, Verdict
from discovery.probes import ReportedProbe
from discovery.registry import validate
from discovery_docker.announce import Announcement, announce, matches_any
from discovery_docker.config import checks_of
from discovery_docker.container import Container
from discovery_docker.conventions import CheckRequest, PortRequest, ServiceVariables, quoted
from discovery_docker.machine import Machine
from discovery_docker.naming import service_name
from discovery_docker.pods import share
from discovery_docker.rules import Rules
from discovery_docker.selection import absent_names, exclusion_rule, ports_of

_ABSENT = "the container does not run; it is registered once it runs"
_PAUSED = "the container is paused; it is registered once it is unpaused"
_LONGEST_PROBLEM = 1000
"""Characters of the problem of one container, since a container may cause thousands by its labels."""
_MOST_PORTS = 64
"""Ports that one container may have: each port costs a pass over all of the container's labels, and a check."""
_MOST_LISTED = 8
"""Ports in a line of what is skipped: a container may publish thousands."""


@dataclass(frozen=True, slots=True)
class RankedCandidate:
    """A candidate, its source (`container NAME` or `httpd NAME`), and its rank among candidates with the same key.

    The candidate with the lowest rank is registered: see `resolve_conflicts`.
    """

    candidate: Candidate
    source: str
    rank: tuple[bool, bool, int, str]


@dataclass(slots=True)
class Findings:
    """The candidates of containers; problems, and containers or ports left out on purpose with the rule, by source."""

    candidates: list[RankedCandidate] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def find_candidates(
    containers: Iterable[Container], stopping: frozenset[str], rules: Rules, machine: Machine
) -> Findings:
    """Return the candidates of the selected containers. `stopping` has the ids of containers that are being stopped."""
    findings = Findings()
    options = rules.containers
    containers = [container for container in containers if container.running]
    findings.problems |= {f"container {name}": _ABSENT for name in absent_names(containers, options)}
    shares = share(containers, rules, lambda container: exclusion_rule(container, rules) is None)
    for container in shares.containers:
        source = f"container {container.name}"
        stops = container.id in stopping
        if problem := shares.problems.get(container.id):
            findings.problems[source] = problem
        if rule := shares.skipped.get(container.id) or _skip_rule(container, stops, rules):
            findings.skipped[source] = rule
            if container.paused and container.name in options.names:
                findings.problems[source] = _PAUSED
            continue
        problems = _add_ports(findings, container, stops, rules, machine)
        if problems:
            findings.problems[source] = _in_one_line(problems)
    return findings


def resolve_conflicts(candidates: Iterable[RankedCandidate]) -> tuple[tuple[Candidate, ...], dict[str, str]]:
    """Return the candidate to register for each key, and a problem by source for every other candidate.

    A key that the configuration chooses takes precedence over a key that a container chooses, and an older container
    over a younger one, so that no container can take another container's place.
    """
    registered: dict[str, RankedCandidate] = {}
    problems: dict[str, str] = {}
    for ranked in sorted(candidates, key=lambda each: each.rank):
        backend = ranked.candidate.backend
        first = registered.setdefault(backend.key, ranked)
        if first is not ranked and backend.state is not State.DRAINING:
            problems[ranked.source] = f"{backend.key} is already registered for {first.source}: choose a different id"
    return tuple(ranked.candidate for ranked in registered.values()), problems


def _skip_rule(container: Container, stops: bool, rules: Rules) -> str | None:
    """Return the rule by which no port of the container is registered, or None."""
    if rule := exclusion_rule(container, rules):
        return rule
    if container.paused:
        return "the container is paused"
    if stops and rules.containers.on_stop == "withdraw":
        return f"the container is being stopped, and {rules.key('on_stop')} is withdraw"
    if rules.containers.conventions and container.variables.ignore:
        return "SERVICE_IGNORE is set"
    return None


def _port_skip_rule(port: int, request: PortRequest, rules: Rules) -> str | None:
    """Return the rule by which the port is not registered although the container is, or None."""
    if request.ignore:
        return f"SERVICE_{port}_IGNORE is set"
    if rules.containers.explicit and request.service is None and request.refusal is None:
        return f"neither SERVICE_{port}_NAME nor SERVICE_NAME is set, and {rules.key('explicit')} is on"
    return None


def _add_ports(findings: Findings, container: Container, stops: bool, rules: Rules, machine: Machine) -> list[str]:
    """Add the candidates and the skipped ports of a container to the findings. Return the container's problems."""
    options = rules.containers
    variables = container.variables if options.conventions else ServiceVariables()
    source = f"container {container.name}"
    try:
        ports = ports_of(container, rules, variables.network)
    except ValueError as error:
        return [str(error)]
    problems: list[str] = []
    if options.port is None and len(ports) > _MOST_PORTS:
        verb = "names" if rules.kind.port else "publishes"
        problems.append(f"the container {verb} {len(ports)} ports; the first {_MOST_PORTS} are registered")
        ports = ports[:_MOST_PORTS]
    requests: dict[int, PortRequest] = {}
    for port in ports:
        request = variables.request(port)
        if rule := _port_skip_rule(port, request, rules):
            findings.skipped[f"{source}, port {port}"] = rule
        else:
            requests[port] = request
    if options.port is None and rules.kind.port is None:
        others = [f"{port}/{protocol}" for port, protocol in sorted(container.ports) if protocol != "tcp"]
        if others:
            findings.skipped[f"{source}, port {_listed(others)}"] = "only TCP ports can be registered"
    if len(requests) > 1 and variables.routes_every_port:
        problems.append(
            f"discovery.host is ignored, since each of the ports {_listed(requests)} is a service of its own: write"
            f" discovery.{min(requests)}.host"
        )
        variables = variables.without_common_route()
        requests = {port: variables.request(port) for port in requests}
    for port, request in requests.items():
        problems += request.problems
        try:
            backend, announcement = _backend(container, port, request, len(requests) > 1, rules, machine)
            if announcement.problem is not None:
                problems.append(announcement.problem)
            if stops:
                # No checks: the server may refuse new connections already, and drains until it has stopped.
                candidate = Candidate(replace(backend, state=State.DRAINING), origin=announcement.origin)
            else:
                checks, more = _checks(container, request.check, rules)
                candidate = Candidate(backend, checks, announcement.origin)
                problems += more
        except (ValueError, RecordError) as error:
            problems.append(str(error))
        else:
            chooses_id = options.id is None and request.id is not None
            rank = (stops, chooses_id, container.created_at, container.id)
            findings.candidates.append(RankedCandidate(candidate, source, rank))
    return problems


def _backend(
    container: Container,
    port: int,
    request: PortRequest,
    has_several_ports: bool,
    rules: Rules,
    machine: Machine,
) -> tuple[Backend, Announcement]:
    options = rules.containers
    service = _service(container, f"-{port}" if has_several_ports else "", request, rules)
    announcement = announce(container, port, request.network, rules, machine)
    host, announced_port = announcement.place
    backend = Backend(
        service,
        options.id or request.id or f"{machine.name}:{container.name}:{port}",
        host,
        announced_port,
        rules.weight,
        labels={**request.labels, **options.labels},
    )
    return validate(backend), announcement


def _service(container: Container, suffix: str, request: PortRequest, rules: Rules) -> str:
    if rules.containers.service is not None:
        return rules.containers.service + suffix
    if request.refusal is not None:
        raise ValueError(request.refusal)
    service = request.service or service_name(container, rules.containers.name_sources)
    if service is None:
        raise ValueError(_nameless(rules))
    if not request.named_for_port:
        service += suffix
    allowed = rules.options.services
    if allowed is not None and not matches_any(service, allowed):
        raise ValueError(f"the option 'services' does not allow the service {quoted(service)}")
    return service


def _nameless(rules: Rules) -> str:
    remedy = f"set SERVICE_NAME or {rules.key('service')}"
    if rules.containers.name_sources == ("image",):
        return f"the image has no name to use as service name: {remedy}"
    return f"nothing in {rules.key('service_from')} names the container's service: {remedy}"


def _checks(container: Container, request: CheckRequest, rules: Rules) -> tuple[tuple[Check, ...], list[str]]:
    checks, problems = _service_checks(request, rules)
    checks += rules.kind.checks
    if rules.containers.use_health and container.health in ("starting", "unhealthy"):
        reported = ReportedProbe(Outcome(Verdict.FAILING, f"Docker reports that the container is {container.health}"))
        # A starting container never drains, since it has not served a request yet.
        on_failure = checks[0].on_failure if checks and container.health == "unhealthy" else "withdraw"
        checks += (Check(reported, on_failure=on_failure),)
    return checks, problems


def _service_checks(request: CheckRequest, rules: Rules) -> tuple[tuple[Check, ...], list[str]]:
    """Return the configured check, changed as the container requests, and the problems of the request."""
    settings = rules.options.check
    if settings.type == "command" and (request.path or request.tcp):
        return checks_of(settings), ["the labels request another check than the configured command, and are ignored"]
    if request.path is None and not request.tcp and rules.kind.replaces_check:
        return (), []
    if request.path is None and request.tcp:
        settings = settings.model_copy(update={"type": "tcp"})
    try:
        return checks_of(settings, path=request.path, interval=request.interval, timeout=request.timeout), []
    except ValueError as error:
        return checks_of(settings), [f"the requested check: {error}"]


def _listed(ports: Iterable[int | str]) -> str:
    texts = [str(port) for port in ports]
    return ", ".join(texts[:_MOST_LISTED]) + (", ..." if texts[_MOST_LISTED:] else "")


def _in_one_line(problems: Iterable[str]) -> str:
    text = "; ".join(dict.fromkeys(problems))
    return text if len(text) <= _LONGEST_PROBLEM else f"{text[: _LONGEST_PROBLEM - 3]}..."
