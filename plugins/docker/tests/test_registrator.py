"""The page for those who come from registrator: what registrator's documentation promises is registered."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from discovery import Backend
from discovery.addresses import MachineFacts
from discovery_docker.candidates import Findings, find_candidates
from discovery_docker.config import DockerConfig
from discovery_docker.container import Addresses, Binding, Container
from discovery_docker.machine import Machine
from discovery_docker.rules import Rules

PAGE = (Path(__file__).parents[3] / "docs/coming-from/registrator.md").read_text()
OPTIONS = (
    "cleanup",
    "deregister",
    "explicit",
    "internal",
    "ip",
    "resync",
    "retry-attempts",
    "retry-interval",
    "tags",
    "ttl",
    "ttl-refresh",
    "useIpFromLabel",
)
"""registrator's options: https://gliderlabs.github.io/registrator/latest/user/run/"""
MACHINE = Machine("hostname", MachineFacts(primary={4: "192.168.1.102"}))
BRIDGE = {"bridge": Addresses("172.17.0.2", None)}


def findings(container: Container, **options: Any) -> Findings:
    config = DockerConfig.model_validate({"service_from": "image"} | options)
    return find_candidates([container], frozenset(), Rules.of(config), MACHINE)


def registered(container: Container, **options: Any) -> dict[str, tuple[str, str, int, dict[str, str]]]:
    """Return name, address, port, and labels by id."""
    backends = [each.candidate.backend for each in findings(container, **options).candidates]
    return {each.id: (each.service, each.host, each.port, dict(each.labels)) for each in backends}


def container(name: str, image: str, ports: dict[int, int], **more: Any) -> Container:
    published = {(inside, "tcp"): (Binding("0.0.0.0", outside),) for inside, outside in ports.items()}
    return Container("0" * 64, name, image, running=True, ports=published, networks=BRIDGE, **more)


@pytest.mark.parametrize("source", ["env", "labels"])
def test_the_services_are_those_of_registrators_documentation(source: str) -> None:
    host = "192.168.1.102"
    redis, nginx = ("redis.0", "progrium/redis", {6379: 10000}), ("nginx.0", "progrium/nginx", {443: 4443, 80: 8000})
    assert registered(container(*redis)) == {"hostname:redis.0:6379": ("redis", host, 10000, {})}
    metadata = {"SERVICE_NAME": "db", "SERVICE_TAGS": "master,backups", "SERVICE_REGION": "us2"}
    assert registered(container(*redis, **{source: metadata})) == {
        "hostname:redis.0:6379": ("db", host, 10000, {"tags": "master,backups", "region": "us2"})
    }
    assert registered(container(*nginx)) == {
        "hostname:nginx.0:443": ("nginx-443", host, 4443, {}),
        "hostname:nginx.0:80": ("nginx-80", host, 8000, {}),
    }
    metadata = {
        "SERVICE_443_NAME": "https",
        "SERVICE_443_ID": "https.12345",
        "SERVICE_443_SNI": "enabled",
        "SERVICE_80_NAME": "http",
        "SERVICE_TAGS": "www",
    }
    assert registered(container(*nginx, **{source: metadata})) == {
        "https.12345": ("https", host, 4443, {"tags": "www", "sni": "enabled"}),
        "hostname:nginx.0:80": ("http", host, 8000, {"tags": "www"}),
    }


def test_the_options_are_registrators() -> None:
    web = container("web", "httpd", {80: 8000}, exposed=((80, "tcp"), (81, "tcp")))
    place = "hostname:web:80"
    assert registered(web, address="10.0.0.5")[place][1:3] == ("10.0.0.5", 8000)
    assert registered(web, labels={"tags": "eu"})[place][3] == {"tags": "eu"}
    internal = {key: value[:3] for key, value in registered(web, internal=True).items()}
    assert internal == {
        place: ("httpd-80", "172.17.0.2", 80),
        "hostname:web:81": ("httpd-81", "172.17.0.2", 81),
    }
    assert registered(web, explicit=True) == {}
    assert registered(container("web", "httpd", {80: 8000}, labels={"SERVICE_NAME": "x"}), explicit=True)
    assert registered(container("web", "httpd", {80: 8000}, labels={"SERVICE_IGNORE": "1"})) == {}
    ignored = container("web", "httpd", {80: 8000, 443: 4443}, labels={"SERVICE_443_IGNORE": "1"})
    assert registered(ignored)[place][0] == "httpd"


def test_the_configuration_of_the_page_is_of_the_provider() -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    table = tomllib.loads(block)["providers"]["containers"]
    assert table.pop("plugin") == "docker"
    assert table.pop("ttl") == "30s"
    backend = findings(container("web", "httpd", {80: 8000}), **table).candidates[0].candidate.backend
    assert backend == Backend("httpd", "hostname:web:80", "10.0.0.5", 8000, labels={"tags": "eu"})


@pytest.mark.parametrize(
    "option",
    OPTIONS,
)
def test_the_page_compares_every_option(option: str) -> None:
    assert re.search(rf"^\|[^|]*`-{option}\b[^|]*`[^|]*\|", PAGE, re.MULTILINE)
