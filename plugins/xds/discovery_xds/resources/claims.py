"""The claims of services to addresses on which Envoy listens; pure, without the messages of the Envoy API."""

from collections.abc import Iterable

from discovery.routing import AddressClaim
from discovery_xds.config import XdsConfig


def claims_of(config: XdsConfig, services: Iterable[str]) -> tuple[tuple[AddressClaim, ...], dict[str, str]]:
    """Return the claims of the services, and the reasons of services without a claim, as in `Health`.

    Without configured services each of `services` claims the host names `<service>` and `<service>.*`; an only service
    claims every host. Of services whose names differ in case alone the first in sorted order has the host names.
    """
    if config.services:
        return config.claims, {}
    problems: dict[str, str] = {}
    hosts: dict[str, str] = {}
    for service in sorted(services):
        first = hosts.setdefault(service.lower(), service)
        if first != service:
            problems[f"service {service}"] = (
                f"it has no route: upper and lower case are one in host names, and {first!r} has the name"
            )
    claims = tuple(
        AddressClaim(service, bind.address, "http", (host, f"{host}.*") if len(hosts) > 1 else ())
        for host, service in hosts.items()
        for bind in config.bind
    )
    return claims, problems
