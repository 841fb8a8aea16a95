"""Containers as an engine reports them, and what the rules of a provider make of the containers."""

from collections.abc import Callable
from typing import Any

from discovery import Backend, Candidate
from discovery.addresses import MachineFacts
from discovery_docker.candidates import Findings, find_candidates, resolve_conflicts
from discovery_docker.container import Binding, Container
from discovery_docker.machine import Machine
from discovery_docker.rules import Rules

MACHINE = Machine("m", MachineFacts(primary={4: "10.0.0.1"}))


def container(name: str = "web", image: str = "httpd:2.4", *ports: int, **more: Any) -> Container:
    """Return a container that runs. Port 80 is published as 30080 if no port is given, and so on."""
    published = {(port, "tcp"): (Binding("0.0.0.0", 30000 + port),) for port in ports or (80,)}
    return Container(f"{name:0<64}", name, image, running=True, **{"ports": published, **more})


class Finder:
    """Finds containers by the rules that `rules` makes of options."""

    def __init__(self, rules: Callable[..., Rules]) -> None:
        """Keep the argument."""
        self.rules = rules

    def findings(self, *containers: Container, stopping: str = "", **options: Any) -> Findings:
        """Return all that is found. `stopping` is the name of a container that is being stopped."""
        stops = frozenset({f"{stopping:0<64}"} if stopping else ())
        return find_candidates(containers, stops, self.rules(**options), MACHINE)

    def found(self, *containers: Container, **options: Any) -> tuple[dict[str, Candidate], dict[str, str]]:
        """Return the candidates by key, and the problems by source."""
        findings = self.findings(*containers, **options)
        candidates, conflicts = resolve_conflicts(findings.candidates)
        return {each.backend.key: each for each in candidates}, findings.problems | conflicts

    def skipped(self, *containers: Container, **options: Any) -> dict[str, str]:
        """Return the rule by source of each container and port that is left out."""
        return self.findings(*containers, **options).skipped

    def backend(self, *containers: Container, **options: Any) -> Backend:
        """Return the only backend; there is no problem."""
        candidates, problems = self.found(*containers, **options)
        assert problems == {}
        (candidate,) = candidates.values()
        return candidate.backend

    def problem(self, which: Container, **options: Any) -> str:
        """Return the problem of a container that is not registered."""
        candidates, problems = self.found(which, **options)
        assert candidates == {}
        return problems[f"container {which.name}"]

    def probes(self, which: Container, **options: Any) -> list[object]:
        """Return the probes of a container without a problem."""
        candidates, problems = self.found(which, **options)
        assert problems == {}
        return [check.probe for candidate in candidates.values() for check in candidate.checks]

    def ports(self, which: Container, **options: Any) -> set[str]:
        """Return service and port of each backend of a container without a problem."""
        candidates, problems = self.found(which, **options)
        assert problems == {}
        return {f"{each.backend.service} {each.backend.port}" for each in candidates.values()}
