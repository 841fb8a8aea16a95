"""The consumers `template`, `nginx`, `httpd` and `caddy` pass the contract of consumers."""

import random
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sampling import SEED
from template_sabotage import replaced_by_a_directory

from discovery import AnyConsumer
from discovery.testing import ConsumerContract, free_port
from discovery_template.consumer import TemplateConsumer
from discovery_template.proxies.caddy import CaddyConsumer
from discovery_template.proxies.httpd import HttpdConsumer
from discovery_template.proxies.nginx import NginxConsumer


class TestTemplate(ConsumerContract):
    consumer: ClassVar[type[AnyConsumer]] = TemplateConsumer

    config: ClassVar[Mapping[str, Any]] = {"files": [{"template": "builtin:json", "file": "{run_dir}/services.json"}]}


CHOSEN = random.Random(f"{SEED} contract of proxies").choice(["Nginx", "Httpd", "Caddy"])
"""The proxy whose contract short runs test: each has a program that is started dozens of times."""


def unless_chosen(name: str) -> pytest.MarkDecorator:
    """Return the mark of a proxy's contract."""
    return pytest.mark.exhaustive if name != CHOSEN else pytest.mark.timeout(120)


class _OfProxies(ConsumerContract):
    config: ClassVar[Mapping[str, Any]] = {"bind": f"127.0.0.1:{free_port()}"}
    file: ClassVar[str]

    def world(self, run_dir: Path) -> object:
        return (run_dir / self.file).read_text()

    def sabotage(self, run_dir: Path) -> AbstractContextManager[object]:
        return replaced_by_a_directory(run_dir / self.file)


@unless_chosen("Nginx")
class TestNginx(_OfProxies):
    consumer: ClassVar[type[AnyConsumer]] = NginxConsumer
    file: ClassVar[str] = "nginx.conf"


@unless_chosen("Httpd")
class TestHttpd(_OfProxies):
    consumer: ClassVar[type[AnyConsumer]] = HttpdConsumer
    file: ClassVar[str] = "httpd.conf"


@unless_chosen("Caddy")
class TestCaddy(_OfProxies):
    consumer: ClassVar[type[AnyConsumer]] = CaddyConsumer
    file: ClassVar[str] = "caddy.json"
