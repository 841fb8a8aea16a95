"""The candidates of the running containers, by Docker's answers and the configuration. Pure."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from discovery import Backend, Candidate, Check, Outcome, RecordError, State, Verdict
from discovery.probes import HttpProbe, ReportedProbe
from discovery.registry import key_of, validate
from discovery_apache.announce import Machine, allowed, announce
from discovery_apache.config import ApacheConfig, DockerConfig, StatusSettings, checks_of
from discovery_apache.container import Container
from discovery_apache.conventions import CheckWish, Wishes, read, shown
from discovery_apache.modstatus import StatusProbe
from discovery_apache.selection import base_name, is_selected, missing, ports_of, unselected

_ABSENT = "it does not run; it is registered once it does"
_PAUSED = "it is paused; it is registered once it goes on"
_LONGEST_PROBLEM = 1000
_MOST_PORTS = 64
"""That a container may name: each costs a look at all of its labels, and a check."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A candidate and its source. Of two claims with the same key the one with the lower `rank` is registered."""

    candidate: Candidate
    holder: str
    rank: tuple[bool, bool, int, str]


def claims_of(
    containers: Iterable[Container], stopping: frozenset[str], config: ApacheConfig, machine: Machine
) -> tuple[list[Claim], dict[str, str]]:
    """The candidates of the selected running containers, and their faults by the containers' names."""
    docker = config.docker
    if docker is None:
        return [], {}
    containers = tuple(containers)
    claims: list[Claim] = []
    problems = {f"container {name}": _ABSENT for name in missing(containers, docker)}
    for container in containers:
        if not container.running or not is_selected(container, docker):
            continue
        if container.paused:
            if container.name in docker.names:  # who names it waits for it
                problems[f"container {container.name}"] = _PAUSED
            continue
        stops = container.id in stopping
        if stops and docker.on_stop == "withdraw":
            continue
        found, wrong = _claims(container, stops, config, docker, machine)
        claims += found
        if wrong:
            problems[f"container {container.name}"] = _in_one_line(wrong)
    return claims, problems


def skipped_of(containers: Iterable[Container], stopping: frozenset[str], config: ApacheConfig) -> dict[str, str]:
    """The containers that run, and ports of others, that are left out on purpose, by name; and by which rule."""
    docker = config.docker
    if docker is None:
        return {}
    skipped = {}
    for container in containers:
        name = f"container {container.name}"
        if reason := _skipped(container, container.id in stopping, docker):
            skipped[name] = reason
        elif docker.conventions:
            with suppress(ValueError):  # that is a problem, and told as one
                ports = ports_of(container, config, read(container.labels, container.env, 0).network)
                ignored = [port for port in ports if read(container.labels, container.env, port).ignore]
                for port in ignored:
                    skipped[f"{name}, port {port}"] = f"SERVICE_{port}_IGNORE is set"
    return skipped


def settle(claims: Iterable[Claim]) -> tuple[tuple[Candidate, ...], dict[str, str]]:
    """The candidates, one for each key, and who else wanted it.

    What the configuration names comes before what a container claims, then the older before the younger, so that no
    container can take another's place.
    """
    settled: dict[str, Claim] = {}
    problems: dict[str, str] = {}
    for claim in sorted(claims, key=lambda each: each.rank):
        backend = claim.candidate.backend
        first = settled.setdefault(key_of(backend), claim)
        if first is not claim and backend.state is not State.DRAINING:
            problems[claim.holder] = f"{key_of(backend)} is {first.holder} already: give it another id"
    return tuple(claim.candidate for claim in settled.values()), problems


def status_check(page: HttpProbe, settings: StatusSettings, *, load: bool) -> Check:
    """The check of a status page."""
    return Check(
        StatusProbe(page, settings.timeout, load),
        interval=settings.interval,
        timeout=2 * settings.timeout + 0.5,  # the probe minds the time itself
        rise=settings.rise,
        fall=settings.fall,
        on_failure=settings.on_failure,
        weight_interval=settings.weight_interval,
    )


def _skipped(container: Container, stops: bool, docker: DockerConfig) -> str | None:
    """The rule by which nothing of a container is registered; None if something may be."""
    if reason := unselected(container, docker):
        return reason
    if container.paused:
        return "it is paused"
    if stops and docker.on_stop == "withdraw":
        return "it is being stopped, and 'docker.on_stop' is withdraw"
    if docker.conventions and read(container.labels, container.env, 0).ignore:
        return "SERVICE_IGNORE is set"
    return None


def _claims(
    container: Container, stops: bool, config: ApacheConfig, docker: DockerConfig, machine: Machine
) -> tuple[list[Claim], list[str]]:
    def asked(port: int) -> Wishes:
        return read(container.labels, container.env, port) if docker.conventions else Wishes()

    general = asked(0)
    if general.ignore:
        return [], []
    try:
        ports = ports_of(container, config, general.network)
    except ValueError as error:
        return [], [str(error)]
    problems: list[str] = []
    if docker.port is None and len(ports) > _MOST_PORTS:
        problems.append(f"it names {len(ports)} ports; the first {_MOST_PORTS} are registered")
        ports = ports[:_MOST_PORTS]
    wishes = {port: wish for port in ports if not (wish := asked(port)).ignore}
    claims = []
    for port, wish in wishes.items():
        problems += wish.problems
        try:
            backend, more = _backend(container, port, wish, len(wishes) > 1, config, docker, machine)
            problems += more
            if stops:
                # No checks: it may refuse new connections already, and drains until it has stopped.
                candidate = Candidate(replace(backend, state=State.DRAINING))
            else:
                checks, more = _checks(container, wish, config, docker)
                candidate = Candidate(backend, checks)
                problems += more
        except (ValueError, RecordError) as error:
            problems.append(str(error))
        else:
            claimed = docker.id is None and wish.id is not None
            rank = (stops, claimed, container.started_at, container.id)
            claims.append(Claim(candidate, f"container {container.name}", rank))
    return claims, problems


def _backend(
    container: Container,
    port: int,
    wish: Wishes,
    several: bool,
    config: ApacheConfig,
    docker: DockerConfig,
    machine: Machine,
) -> tuple[Backend, list[str]]:
    service = _service(container, port, wish, several, config, docker)
    (host, announced), problem = announce(container, port, wish.network, config, machine)
    backend = Backend(
        service,
        docker.id or wish.id or f"{machine.name}:{container.name}:{port}",
        host,
        announced,
        1 if config.weight == "load" else config.weight,
        labels={**wish.labels, **docker.labels},
    )
    return validate(backend), [problem] if problem else []


def _service(
    container: Container, port: int, wish: Wishes, several: bool, config: ApacheConfig, docker: DockerConfig
) -> str:
    suffix = f"-{port}" if several else ""
    if docker.service is not None:
        return docker.service + suffix
    if wish.unusable is not None:
        raise ValueError(wish.unusable)
    service = wish.service or base_name(container.image)
    if not service:
        raise ValueError("its image has no name to call the service by: give it SERVICE_NAME, or set 'docker.service'")
    if not wish.own_name:
        service += suffix
    if config.services is not None and not allowed(service, config.services):
        raise ValueError(f"the service {shown(service)} is not among those that 'services' allows")
    return service


def _checks(
    container: Container, wish: Wishes, config: ApacheConfig, docker: DockerConfig
) -> tuple[tuple[Check, ...], list[str]]:
    checks, problems = _asked_checks(wish.check, config, docker)
    if docker.status is not None:
        load = config.weight == "load"
        checks += (status_check(HttpProbe(path=docker.status.page), docker.status, load=load),)
    if docker.use_health and container.health in ("starting", "unhealthy"):
        reported = ReportedProbe(Outcome(Verdict.FAILING, f"Docker reports that it is {container.health}"))
        # What is still starting never drains: it has not served anything yet.
        kept = checks[0].on_failure if checks and container.health == "unhealthy" else "withdraw"
        checks += (Check(reported, on_failure=kept),)
    return checks, problems


def _asked_checks(wish: CheckWish, config: ApacheConfig, docker: DockerConfig) -> tuple[tuple[Check, ...], list[str]]:
    settings = config.check
    by_status_alone = docker.status is not None and "check" not in config.model_fields_set
    if settings.type == "command" and (wish.path or wish.tcp):
        return checks_of(settings), ["its labels ask for another check than the configured command: they are ignored"]
    if wish.path is None and not wish.tcp and by_status_alone:
        return (), []
    if wish.path is None and wish.tcp:
        settings = settings.model_copy(update={"type": "tcp"})
    try:
        return checks_of(settings, path=wish.path, interval=wish.interval, timeout=wish.timeout), []
    except ValueError as error:
        return checks_of(settings), [f"its check: {error}"]


def _in_one_line(problems: Iterable[str]) -> str:
    text = "; ".join(dict.fromkeys(problems))
    return text if len(text) <= _LONGEST_PROBLEM else f"{text[: _LONGEST_PROBLEM - 3]}..."
