"""The configured Apache httpd servers of this machine, without Docker. Pure.

The check of a server is its status page: a server that does not run fails the check.
"""

from urllib.parse import urlsplit

from discovery import Backend, Candidate, RecordError
from discovery.addresses import Announced
from discovery.probes import HttpProbe
from discovery.registry import validate
from discovery_apache.config import ApacheConfig, HttpdConfig, StatusUrl
from discovery_apache.statuscheck import status_check
from discovery_docker.api import Machine, RankedCandidate, checks_of, machine_addresses


def local_candidates(config: ApacheConfig, machine: Machine) -> tuple[list[RankedCandidate], dict[str, str]]:
    """Return the candidates of the local servers, and a problem by source (`httpd NAME`) for each other server."""
    candidates: list[RankedCandidate] = []
    problems: dict[str, str] = {}
    for name, server in config.httpd.items():
        try:
            candidate = _candidate(name, server, config, machine)
        except (ValueError, RecordError) as error:
            problems[f"httpd {name}"] = str(error)
        else:
            candidates.append(RankedCandidate(candidate, f"httpd {name}", (False, False, -1, name)))
    return candidates, problems


def _candidate(name: str, server: HttpdConfig, config: ApacheConfig, machine: Machine) -> Candidate:
    port = server.address.port
    host = server.address.host
    own = (Announced(host, "the configuration"),) if host is not None else machine_addresses(config, machine)
    if not own:
        raise ValueError(
            f"this machine has no address that other machines can reach: set httpd.{name}.address to HOST:{port}"
        )
    weight = config.weight if server.weight is None else server.weight
    load = weight == "load"
    backend = Backend(
        server.service or name,
        server.id or f"{machine.name}:{name}:{port}",
        own[0].host,
        port,
        1 if weight == "load" else weight,
        labels=server.labels,
    )
    return Candidate(
        validate(backend),
        (status_check(_page(server.status), server.status, load=load), *checks_of(server.check)),
        own[0].origin,
    )


def _page(settings: StatusUrl) -> HttpProbe:
    parts = urlsplit(settings.page)
    tls = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    address = (parts.hostname or "", parts.port or (443 if tls else 80))
    return HttpProbe(path=path, host=parts.netloc, tls=tls, verify=settings.verify, address=address)
